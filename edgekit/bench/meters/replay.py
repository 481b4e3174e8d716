"""Replay of a recorded trace of power: an external meter's export, or a test without a sensor.

CSV with a header; columns `time_s` and either `watts` or `volts` and `amperes`. Times are seconds
on any clock; `offset_s` aligns it with the harness's.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from edgekit.bench.meters.base import EnergyReading, Load
from edgekit.bench.meters.sampled import MAX_GAP_PERIODS, trapezoid
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
        self._times: list[float] = []
        self._watts: list[float] = []

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
        self._times = [moment + self.offset_s for moment in times]
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
    def window(self, load: Load | None = None, *, align: bool = True) -> Iterator["ReplayWindow"]:
        """Open a window on the trace; see `Meter`."""
        del align
        window = ReplayWindow(self, load)
        yield window
        window.end_s = self.clock.ns() / 1e9

    def between(self, begin_s: float, end_s: float) -> EnergyReading:
        """Integrate the trace between two moments of the harness's clock.

        Raises:
            UnavailableError: the trace does not cover the time, or has a gap in it.
        """
        times, watts = np.array(self._times), np.array(self._watts)
        if begin_s < times[0] or end_s > times[-1]:
            raise UnavailableError(
                f"{self.path.name} does not cover the whole window.",
                "Record longer, or correct the offset of the clocks.",
            )
        inside = (times > begin_s) & (times < end_s)
        moments = np.concatenate(([begin_s], times[inside], [end_s]))
        period = self.period_s or 0.0
        if float(np.max(np.diff(moments))) > MAX_GAP_PERIODS * period:
            raise UnavailableError(
                f"{self.path.name} has a gap of {float(np.max(np.diff(moments))):.3f} s.",
                "Record again.",
            )
        joules = trapezoid(moments.tolist(), np.interp(moments, times, watts).tolist())
        return EnergyReading(
            {self.primary[0]: joules}, end_s - begin_s, "recorded, trapezoid", self.period_s
        )


class ReplayWindow:
    """A window on a trace; see `Window`.

    Attributes:
        runs: calls of the load inside the window.
        end_s: when it closed, None while it is open.
    """

    def __init__(self, meter: Replay, load: Load | None) -> None:
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


def read_trace(path: Path) -> tuple[list[float], list[float]]:
    """Read a CSV of power.

    Returns:
        Times in seconds, ascending, and watts.

    Raises:
        UsageError: the file is missing, lacks a column, or is not a table of numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"The trace {path} cannot be read: {e}.", "Check the path.") from e
    columns = set(rows[0]) if rows else set()
    power = _power_of(columns)
    if power is None or "time_s" not in columns or len(rows) < 2:
        raise UsageError(
            f"The trace {path} lacks columns or rows.",
            "It needs time_s, and watts or volts and amperes, in at least two rows.",
        )
    try:
        times = [float(row["time_s"]) for row in rows]
        watts = [power(row) for row in rows]
    except (TypeError, ValueError) as e:
        raise UsageError(f"The trace {path} is not all numbers: {e}.", "Check the file.") from e
    if not np.isfinite([times, watts]).all() or (np.diff(times) <= 0).any():
        raise UsageError(
            f"The times of {path} do not ascend, or a value is not finite.", "Check the file."
        )
    return times, watts


def _power_of(columns: Iterable[str]) -> Callable[[dict[str, str]], float] | None:
    if "watts" in columns:
        return lambda row: float(row["watts"])
    if "volts" in columns and "amperes" in columns:
        return lambda row: float(row["volts"]) * float(row["amperes"])
    return None
