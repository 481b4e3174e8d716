"""Run a program that measures, and say in words why it cannot."""

import subprocess
from collections.abc import Callable, Sequence

from edgekit.errors import UnavailableError

TIMEOUT_S = 10.0

Runner = Callable[[Sequence[str]], str]


def run_program(command: Sequence[str]) -> str:
    """Run a program, and give what it prints.

    Raises:
        UnavailableError: it is not there, failed, or took longer than 10 s.
    """
    name = command[0]
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as e:
        raise UnavailableError(
            f"There is no program {name!r} here.", "Install it, or give its path."
        ) from e
    except OSError as e:
        raise UnavailableError(
            f"{name} cannot be run: {e.strerror}.", "Check its permissions."
        ) from e
    except subprocess.TimeoutExpired as e:
        raise UnavailableError(
            f"{name} did not end within {TIMEOUT_S:.0f} s.", "Try it by hand."
        ) from e
    if done.returncode != 0:
        said = last_line(done.stderr) or last_line(done.stdout) or "nothing"
        raise UnavailableError(
            f"{name} failed with exit code {done.returncode}; it said: {said}", "Try it by hand."
        )
    return done.stdout


def last_line(text: str) -> str:
    """The last line that is not empty, cut to what fits into a message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
