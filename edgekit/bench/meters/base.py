"""What an energy meter is: a window in time that yields joules by domain.

A protocol, not a base class. Counters (RAPL, NVML, ODPM) share `counter.py`, sensors of power
(INA3221, PMIC, batteries, programs) `sampled.py`, recordings `trace.py`; a new meter is one file,
one line in `meters/__init__.py`, and `tests/conformance/test_meters.py` passes.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol

from edgekit.bench.runtimes.base import Availability

Load = Callable[[], object]


@dataclass(frozen=True)
class EnergyReading:
    """Joules of one window.

    Attributes:
        domains_j: joules by domain; a domain that was not measured is absent, never 0.
        duration_s: length of the window in seconds, from edge to edge where it is aligned.
        method: how it was read, such as `counter, edge-aligned`.
        period_s: measured period of the counter or sensor in seconds, None where unknown.
    """

    domains_j: Mapping[str, float]
    duration_s: float
    method: str
    period_s: float | None


class Window(Protocol):
    """An open window.

    Attributes:
        runs: calls of the load that lie inside the window.
    """

    runs: int

    def keep(self, seconds: float) -> None:
        """Keep the load (or, without one, time) running inside the window."""
        ...

    @property
    def reading(self) -> EnergyReading:
        """What was measured, once the window is closed.

        Raises:
            UnavailableError: the window is invalid (stuck counter, unknown range, gaps); says why.
        """
        ...


class Meter(Protocol):
    """A source of energy readings, as a context manager.

    Attributes:
        name: its key in `METERS`, with its argument after a colon where it has one.
        label: `measured`, or `estimated` where it computes rather than measures.
        primary: domains whose sum is the energy of the whole; the others are parts of these.
        period_s: measured period in seconds, once entered.
    """

    name: str
    label: Literal["measured", "estimated"]
    primary: tuple[str, ...]
    period_s: float | None

    def probe(self) -> Availability:
        """Say whether it can measure here, and how to get what is missing. Never raises."""
        ...

    def __enter__(self) -> "Meter":
        """Open it and measure its period.

        Raises:
            UnavailableError: it cannot be read.
        """
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def window(
        self, load: Load | None = None, *, align: bool = True
    ) -> AbstractContextManager[Window]:
        """Open a window.

        Args:
            load: called over and over while the window waits for an edge, so that the device is
                not idle there; its calls are counted.
            align: begin and end on an edge of the counter.
        """
        ...
