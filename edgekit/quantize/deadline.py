"""How long the guard may search."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


class OutOfTimeError(Exception):
    """The time of a search is over."""


@dataclass
class Deadline:
    """A length of time that begins now.

    Attributes:
        seconds: of it; None: it does not end.
        clock: tells seconds; a test gives its own.
        began: by that clock.
    """

    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def spent_s(self) -> float:
        """Seconds since it began."""
        return self.clock() - self.began

    def check(self) -> None:
        """Go on only before the end.

        Raises:
            OutOfTimeError: the time is over.
        """
        if self.seconds is not None and self.spent_s >= self.seconds:
            raise OutOfTimeError
