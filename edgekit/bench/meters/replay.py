"""Replay of a recorded trace of power whose clock is known: for Python, and tests without a sensor.

Times are seconds on any clock; `offset_s` aligns it with the harness's. An external meter whose
offset is not known is the meter `csv`, which finds it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal
from typing import Protocol as Interface

import numpy as np

from edgekit.bench.meters.base import EnergyReading, Load
from edgekit.bench.meters.sampled import MAX_GAP_PERIODS
from edgekit.bench.meters.trace import Floats, PtDaemon, integrate, layout_of, merged
from edgekit.bench.protocol import Clock, SystemClock, time_block
from edgekit.bench.runtimes.base import Availability
from edgekit.errors import UnavailableError, UsageError


class Replay:
    """Power read from a recorded trace.

    Args:
        path: the CSV file.
        domain: what the trace measured, such as `board`.
        offset_s: added to the trace's times to give the harness's clock.
        clock: time.
    """

    name = "replay"
    label: Literal["measured", "estimated"] = "measured"

    def __init__(
        self, path: Path, domain: str = "board", offset_s: float = 0.0, clock: Clock | None = None
    ) -> None:
        self.path, self.primary, self.offset_s = path, (domain,), offset_s
        self.clock: Clock = clock or SystemClock()
        self.period_s: float | None = None
        self._times: Floats = np.zeros(0)
        self._watts: Floats = np.zeros(0)

    def probe(self) -> Availability:
        """Say whether the trace can be read."""
        try:
            times, _ = read_trace(self.path)
        except UsageError as e:
            return Availability(ok=False, reason=e.message, fix=e.hint)
        return Availability(ok=True, reason=f"{len(times)} samples in {self.path.name}.")

    def __enter__(self) -> "Replay":
        """Read the trace."""
        times, self._watts = read_trace(self.path)
        self._times = times + self.offset_s
        self.period_s = float(np.median(np.diff(self._times)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to close."""

    @contextmanager
    def window(self, load: Load | None = None, *, align: bool = True) -> Iterator["TraceWindow"]:
        """Open a window on the trace; see `Meter`."""
        del align
        window = TraceWindow(self, load)
        yield window
        window.end_s = self.clock.ns() / 1e9

    def between(self, begin_s: float, end_s: float) -> EnergyReading:
        """Integrate the trace between two moments of the harness's clock.

        Raises:
            UnavailableError: the trace does not cover the time, or has a gap in it.
        """
        times = self._times
        if begin_s < times[0] or end_s > times[-1]:
            raise UnavailableError(
                f"{self.path.name} does not cover the whole window.",
                "Record longer, or correct the offset of the clocks.",
            )
        joules, gap = integrate(times, self._watts, begin_s, end_s)
        if gap > MAX_GAP_PERIODS * (self.period_s or 0.0):
            raise UnavailableError(f"{self.path.name} has a gap of {gap:.3f} s.", "Record again.")
        return EnergyReading(
            {self.primary[0]: joules}, end_s - begin_s, "recorded, trapezoid", self.period_s
        )


class Trace(Interface):
    """What a `TraceWindow` reads: a recording on the harness's clock."""

    clock: Clock

    def between(self, begin_s: float, end_s: float) -> EnergyReading:
        """Integrate between two moments of the harness's clock."""
        ...


class TraceWindow:
    """A window on a trace; see `Window`.

    Attributes:
        runs: calls of the load inside the window.
        end_s: when it closed, None while it is open.
    """

    def __init__(self, meter: Trace, load: Load | None) -> None:
        self.runs = 0
        self.end_s: float | None = None
        self._meter, self._load = meter, load
        self._begin_s = meter.clock.ns() / 1e9

    def keep(self, seconds: float) -> None:
        """Keep the load, or time, running."""
        clock = self._meter.clock
        if self._load is None:
            clock.sleep(seconds)
        else:
            self.runs += len(time_block(self._load, clock.ns, int(seconds * 1e9)))

    @property
    def reading(self) -> EnergyReading:
        """The reading; see `Window`."""
        if self.end_s is None:
            raise UnavailableError("The energy window is still open.", "Close it first.")
        return self._meter.between(self._begin_s, self.end_s)


def read_trace(path: Path) -> tuple[Floats, Floats]:
    """Read a recording of power; see `trace.py` for what it may look like.

    Returns:
        Times in seconds, ascending, and watts, each of shape (n,).

    Raises:
        UsageError: the file is missing, lacks a column, or is not a table of numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"The trace {path} cannot be read: {e}.", "Check the path.") from e
    layout = layout_of(lines[0] if lines else "", str(path))
    rows = lines if isinstance(layout, PtDaemon) else lines[1:]
    if len(rows) < 2:
        raise UsageError(f"The trace {path} lacks rows.", "It needs two or more.")
    try:
        times, watts = layout.power(rows)
    except (KeyError, ValueError) as e:
        raise UsageError(f"The trace {path} is not all numbers: {e}.", "Check the file.") from e
    return merged(times, watts, str(path))
