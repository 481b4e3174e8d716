"""How long work says how far it is, without knowing who is looking.

The command line draws a bar with an ETA on stderr (`edgekit/cli/`); everything below it only knows
this protocol. The default is silence, so that the API prints nothing.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One bar of a progress display."""

    def advance(self, amount: float = 1.0, *, detail: str = "") -> None:
        """Move on by `amount` of the task's total; `detail` is a short text such as a metric."""
        ...


class Progress(Protocol):
    """Something that can show tasks and one-line messages."""

    def task(self, description: str, total: float | None) -> AbstractContextManager[Task]:
        """Open a task. `total` is in any unit, None where it is not known."""
        ...

    def say(self, message: str) -> None:
        """Show one line of text."""
        ...


class _SilentTask:
    def advance(self, amount: float = 1.0, *, detail: str = "") -> None:
        del amount, detail


class Silent:
    """A progress display that shows nothing: the default of the API."""

    @contextmanager
    def task(self, description: str, total: float | None) -> Iterator[Task]:
        """Open a task that shows nothing."""
        del description, total
        yield _SilentTask()

    def say(self, message: str) -> None:
        """Say nothing."""
        del message
