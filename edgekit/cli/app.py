"""Where the command begins, and how an error becomes a message and an exit code.

The commands are imported inside, so that Ctrl-C is answered from the first moment.
"""

import os
import sys

from edgekit.errors import EdgekitError

INTERRUPTED = 130


def main() -> None:
    """Run the command line; the exit codes are those of `edgekit.errors`."""
    # Threads that wait for each other must not spin: on a machine that does anything else, spinning
    # makes training several times slower. OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from edgekit.cli.commands import app

        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            from edgekit.pipeline import crew

            crew.main(app)
        else:
            app()
    except EdgekitError as e:
        if os.environ.get("EDGEKIT_TRACEBACK"):
            import traceback

            traceback.print_exc()
        _complain(e)
        sys.exit(e.exit_code)
    except ModuleNotFoundError as e:
        from edgekit.extras import missing

        known = missing(e)
        if known is None:
            raise
        _complain(known)
        sys.exit(known.exit_code)
    except KeyboardInterrupt:
        _say_interrupted()
        sys.exit(INTERRUPTED)
    except SystemExit as e:
        if e.code == INTERRUPTED:
            _say_interrupted()
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _say_interrupted() -> None:
    sys.stderr.write("Interrupted.\n")


def _complain(error: EdgekitError) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text("error: ", style="bold red") + Text(error.message, style="default"))
    if error.hint:
        console.print(Text(" hint: ", style="bold cyan") + Text(error.hint, style="default"))
