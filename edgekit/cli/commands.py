"""The commands of the command line, under their names."""

import os
from typing import Annotated

import typer

from edgekit import __version__
from edgekit.cli import (
    artifact_commands,
    bench_command,
    cast_command,
    compare_command,
    convert_command,
    device_command,
    doctor_command,
    export_command,
    lint_command,
    meters_command,
    pass_commands,
    preflight_command,
    prune_command,
    quantize_command,
    recipe_commands,
    run_command,
    sensitivity_command,
    snippet_command,
    synthesize_command,
)

app = typer.Typer(
    name="edgekit",
    help="Make trained networks smaller and faster for edge devices, and prove what it cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("run")(run_command.run)
app.command("capture")(pass_commands.capture)
app.command("prune")(prune_command.prune)
app.command("shrink")(pass_commands.shrink)
app.command("synthesize")(synthesize_command.synthesize)
app.command("finetune")(pass_commands.finetune)
app.command("distill")(pass_commands.distill)
app.command("quantize")(quantize_command.quantize)
app.command("sensitivity")(sensitivity_command.sensitivity)
app.command("cast")(cast_command.cast)
app.command("export")(export_command.export)
app.command("convert")(convert_command.convert)
app.command("snippet")(snippet_command.snippet)
app.command("preflight")(preflight_command.preflight)
app.command("lint")(lint_command.lint)
app.command("build")(pass_commands.build)
app.command("verify")(artifact_commands.verify)
app.command("eval")(artifact_commands.evaluate)
app.command("bench")(bench_command.bench)
app.command("compare")(compare_command.compare)
app.command("inspect")(artifact_commands.inspect)
app.command("meters")(meters_command.meters)
app.command("targets")(doctor_command.targets)
app.command("doctor")(doctor_command.doctor)
app.add_typer(device_command.app, name="device")
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
