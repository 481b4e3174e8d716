"""The errors that edgekit raises on purpose, and the exit codes they become.

    EdgekitError(message, hint)          never raised bare
    ├── RecipeError / UsageError   2     bad recipe, bad flag, bad file: names the key or the file
    ├── UnavailableError           3     an extra, driver or device is missing: what to install
    ├── PassError                  4     names the step and what it was working on; chains the cause
    ├── GateError                  5     accuracy, latency, energy, size or parity beyond its budget
    └── DeviceError                6     device unreachable or lost mid-run

0 is success, 1 is a bug (with its traceback), 130 is Ctrl-C.
"""

from typing import ClassVar


class EdgekitError(Exception):
    """An expected failure: what happened, and how to mend it.

    Args:
        message: one sentence that names the thing that failed (a file, a key, a step); further
            lines, such as a table of what was tried, are its details.
        hint: one sentence that says how to mend it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}{chr(10) if self.details else ' '}{self.hint}".strip()

    @property
    def sentence(self) -> str:
        """What happened and how to mend it, without the details."""
        return f"{self.message.partition(chr(10))[0]} {self.hint}".strip()

    @property
    def details(self) -> str:
        """The lines below the message's first; empty where there are none."""
        return self.message.partition("\n")[2].strip("\n")


class UsageError(EdgekitError):
    """A bad flag, a bad file, a bad argument."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that does not say something that can be run; names the key's path."""


class UnavailableError(EdgekitError):
    """An extra, a driver or a device is missing; the hint says what to install."""

    exit_code = 3


class PassError(EdgekitError):
    """A pass failed; names the step and what it was working on, and chains the cause."""

    exit_code = 4


class GateError(EdgekitError):
    """A measurement is beyond its budget."""

    exit_code = 5


class DeviceError(EdgekitError):
    """A device cannot be reached, or was lost in mid-run."""

    exit_code = 6
