"""Read recordings of power as the common instruments export them.

A table with a header: a column of time, and power, or volts and amperes. Names and units are read
from the header, so that these need no settings:

| instrument | header |
|---|---|
| Joulescope | `#time (s),current (A),voltage (V),power (W)` |
| Nordic PPK2 | `Timestamp(ms),Current(uA)` - it records no voltage: it must be given |
| Monsoon (PyMonsoon) | `Time(ms),Main(mA),Main Voltage(V),` |
| Monsoon (PowerTool) | `Time (s),Main Avg Current (mA),Main Avg Voltage (V)` |
| SPEC PTDaemon | no header: `Time,01-31-2025 12:00:00.123,Watts,35.2,Volts,229.8,Amps,0.16,...` |
| any other | `time_s,watts` or `time_s,volts,amperes` |
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import numpy.typing as npt

from edgekit.errors import UsageError

Floats = npt.NDArray[np.float64]

_SCALES = {"": 1.0, "k": 1e3, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "n": 1e-9}
_TIME = ("time", "timestamp", "t", "elapsed", "seconds", "elapsed time", "relative time")
_POWER = ("power", "watts", "main power", "main avg power", "p", "w", "avg power")
_CURRENT = ("current", "amperes", "amps", "main", "main current", "main avg current", "i")
_VOLTAGE = ("voltage", "volts", "main voltage", "main avg voltage", "v", "u")
_UNIT = re.compile(r"^(.*?)[\s_]*[(\[]\s*([A-Za-zµμ]+)\s*[)\]]$|^(.*?)_([kmunµμ]?[wvasWVAS])$")
LEAST_S = 1e-4
_PTDAEMON = "%m-%d-%Y %H:%M:%S.%f"
_HINT = "It needs a column of time, and one of watts or two of volts and amperes; see measuring.md."


@dataclass(frozen=True)
class Columns:
    """Where a table holds what, and in which unit.

    Attributes:
        time: index and factor to seconds.
        factors: columns whose product is the power in watts, each with its factor.
        constant: a further factor: the voltage, where the table has none.
        delimiter: what stands between two values.
    """

    time: tuple[int, float]
    factors: tuple[tuple[int, float], ...]
    constant: float = 1.0
    delimiter: str = ","

    def power(self, lines: Sequence[str]) -> tuple[Floats, Floats]:
        """Read lines of the table.

        Args:
            lines: whole lines, without the header.

        Returns:
            Times in seconds and watts, each of shape (n,).

        Raises:
            ValueError: a line is not all numbers.
        """
        wanted = (self.time[0], *(place for place, _ in self.factors))
        table = np.loadtxt(
            lines, delimiter=self.delimiter, usecols=wanted, ndmin=2, dtype=np.float64
        )
        watts = np.full(len(table), self.constant)
        for column, (_, factor) in enumerate(self.factors, 1):
            watts *= table[:, column] * factor
        return table[:, 0] * self.time[1], watts


@dataclass(frozen=True)
class PtDaemon:
    """The log of SPEC's PTDaemon: names and values in turn on every line."""

    def power(self, lines: Sequence[str]) -> tuple[Floats, Floats]:
        """Read lines of the log; see `Columns.power`."""
        times, watts = [], []
        for line in lines:
            cells = [cell.strip() for cell in line.split(",")]
            pairs = dict(zip(cells[::2], cells[1::2], strict=False))
            moment = datetime.strptime(pairs["Time"], _PTDAEMON).replace(tzinfo=timezone.utc)  # noqa: UP017 - Python 3.10 on devices
            times.append(moment.timestamp())
            watts.append(float(pairs["Watts"]))
        return np.array(times), np.array(watts)


Layout = Columns | PtDaemon


def layout_of(header: str, name: str, volts: float | None = None) -> Layout:
    """Find out how a recording is laid out.

    Args:
        header: its first line.
        name: the file's, for messages.
        volts: the supply's voltage, for recordings of current alone.

    Raises:
        UsageError: there is no column of time, or none that gives power.
    """
    if header.startswith("Time,") and ",Watts," in header:
        return PtDaemon()
    delimiter = max(",;\t", key=header.count)
    cells = [cell.strip().strip('"').lstrip("#").strip() for cell in header.split(delimiter)]
    named = [_named(cell) for cell in cells]
    time, power = _find(named, _TIME), _find(named, _POWER)
    current, voltage = _find(named, _CURRENT), _find(named, _VOLTAGE)
    if time is None:
        raise UsageError(f"{name} lacks a column of time: {header.strip()[:100]!r}.", _HINT)
    if cells[0] == "Time(ms)" and "Main(mA)" in cells:
        time = (time[0], 1.0)  # PyMonsoon writes `ms`, and seconds under it
    if power is not None:
        return Columns(time, (power,), delimiter=delimiter)
    if current is not None and voltage is not None:
        return Columns(time, (voltage, current), delimiter=delimiter)
    if current is not None and volts is not None:
        return Columns(time, (current,), constant=volts, delimiter=delimiter)
    if current is not None:
        raise UsageError(
            f"{name} has amperes and lacks volts.",
            "Give the supply's voltage: --meter 'csv:FILE,volts=3.7'.",
        )
    raise UsageError(f"{name} lacks a column of power: {header.strip()[:100]!r}.", _HINT)


def merged(times: Floats, watts: Floats, name: str) -> tuple[Floats, Floats]:
    """Check a recording, and take the mean of samples that bear the same time.

    Raises:
        UsageError: a value is not finite, or the times do not ascend.
    """
    if not (np.isfinite(times).all() and np.isfinite(watts).all()):
        raise UsageError(f"A value of {name} is not finite.", "Check the file.")
    if (np.diff(times) < 0).any():
        raise UsageError(f"The times of {name} do not ascend.", "Check the file.")
    starts = np.flatnonzero(np.concatenate(([True], np.diff(times) > 0)))
    counts = np.diff(np.concatenate((starts, [len(times)])))
    return times[starts], np.add.reduceat(watts, starts) / counts


def _named(cell: str) -> tuple[str, float]:
    """A column's name in lower case, and its unit's factor."""
    found = _UNIT.match(cell)
    if not found:
        return cell.lower(), 1.0
    name = found[1] if found[2] else found[3]
    unit = found[2] or found[4]
    return name.strip().lower(), _SCALES.get(unit[0], 1.0) if len(unit) == 2 else 1.0


def _find(named: Sequence[tuple[str, float]], names: Sequence[str]) -> tuple[int, float] | None:
    for name in names:
        for place, (column, factor) in enumerate(named):
            if column == name:
                return place, factor
    return None


def thinned(times: Floats, watts: Floats, least_s: float = LEAST_S) -> tuple[Floats, Floats]:
    """Replace runs of samples closer than `least_s` by their means: 100 kHz fill the memory."""
    if len(times) < 2:
        return times, watts
    every = int(least_s / max((times[-1] - times[0]) / (len(times) - 1), 1e-12))
    if every < 2:
        return times, watts
    starts = np.arange(0, len(times), every)
    counts = np.diff(np.concatenate((starts, [len(times)])))
    return np.add.reduceat(times, starts) / counts, np.add.reduceat(watts, starts) / counts


def integrate(times: Floats, watts: Floats, begin_s: float, end_s: float) -> tuple[float, float]:
    """Integrate a recording between two moments that it covers.

    Returns:
        Joules, and the longest time without a sample.
    """
    first, last = (int(place) for place in np.searchsorted(times, [begin_s, end_s], side="right"))
    moments = np.concatenate(([begin_s], times[first:last], [end_s]))
    values = np.interp(moments, times, watts)
    joules = float(np.sum(np.diff(moments) * (values[1:] + values[:-1]) / 2))
    around = times[max(0, first - 1) : last + 1]
    return joules, float(np.max(np.diff(around))) if len(around) > 1 else float("inf")
