"""The command line: its commands, and how an error becomes a message and an exit code."""

import os
import sys
from typing import Annotated

import typer

from edgekit import __version__
from edgekit.cli import (
    artifact_commands,
    bench_command,
    doctor_command,
    pass_commands,
    recipe_commands,
    run_command,
)
from edgekit.errors import EdgekitError

INTERRUPTED = 130

app = typer.Typer(
    name="edgekit",
    help="Make trained networks smaller and faster for edge devices, and prove what it cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("run")(run_command.run)
app.command("capture")(pass_commands.capture)
app.command("prune")(pass_commands.prune)
app.command("finetune")(pass_commands.finetune)
app.command("distill")(pass_commands.distill)
app.command("quantize")(pass_commands.quantize)
app.command("export")(pass_commands.export)
app.command("build")(pass_commands.build)
app.command("verify")(artifact_commands.verify)
app.command("eval")(artifact_commands.evaluate)
app.command("bench")(bench_command.bench)
app.command("inspect")(artifact_commands.inspect)
app.command("targets")(doctor_command.targets)
app.command("doctor")(doctor_command.doctor)
app.add_typer(recipe_commands.app, name="recipe")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgekit {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error was raised.")
    ] = False,
) -> None:
    """Make trained networks smaller and faster for edge devices, and prove what it cost."""
    del version
    if traceback:
        os.environ["EDGEKIT_TRACEBACK"] = "1"


def main() -> None:
    """Run the command line; the exit codes are those of `edgekit.errors`."""
    # Threads that wait for each other must not spin: on a machine that does anything else, spinning
    # makes training several times slower. OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except EdgekitError as e:
        if os.environ.get("EDGEKIT_TRACEBACK"):
            raise
        _complain(e)
        sys.exit(e.exit_code)
    except SystemExit as e:
        if e.code == INTERRUPTED:
            sys.stderr.write("Interrupted. Finished steps are kept; run it again to go on.\n")
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _complain(error: EdgekitError) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text("error: ", style="bold red") + Text(error.message, style="default"))
    if error.hint:
        console.print(Text(" hint: ", style="bold cyan") + Text(error.hint, style="default"))
