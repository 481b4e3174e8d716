"""An external meter that records into a CSV file: Joulescope, PPK2, Monsoon, PTDaemon, any other.

Its clock is not the harness's. Before the first window with a load, the load is switched on and off
in a pattern (`align.py`), and looked for in the recording. So the file may be one that still grows,
or one that is exported once everything has been measured: readings wait for it.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from edgekit.bench.load import Paced
from edgekit.bench.meters.align import Segment, find_pattern, give_pattern
from edgekit.bench.meters.base import EnergyReading, Load
from edgekit.bench.meters.replay import TraceWindow
from edgekit.bench.meters.sampled import MAX_GAP_PERIODS
from edgekit.bench.meters.trace import (
    Floats,
    Layout,
    PtDaemon,
    integrate,
    layout_of,
    merged,
    thinned,
)
from edgekit.bench.protocol import Clock, SystemClock
from edgekit.bench.runtimes.base import Availability
from edgekit.errors import UnavailableError, UsageError

WAIT_S = 120.0
LOOK_S = 0.5
LEAST_CHIP_S = 0.3
DEFAULT_CHIP_S = 1.0
CHIP_PERIODS = 5.3  # no whole number: each switch falls on another part of a period
READ_BYTES = 16 << 20
_ARGUMENT = re.compile(r"^(.+?)((?:,(?:volts|wait)=[^,=]*)*)$")
_HINT = "Write --meter csv:FILE, csv:FILE,volts=3.7 or csv:FILE,wait=600."


class External:
    """Power recorded by an instrument that this device knows nothing of.

    Args:
        path: the CSV file; it need not be there yet.
        volts: the supply's voltage, for recordings of current alone.
        wait_s: how long to wait for the file, since it last grew.
        clock: time.

    Attributes:
        on_wait: called while a reading waits for the file; what it raises ends the waiting.
    """

    label: Literal["measured", "estimated"] = "measured"

    def __init__(
        self,
        path: Path,
        volts: float | None = None,
        wait_s: float = WAIT_S,
        clock: Clock | None = None,
    ) -> None:
        self.path, self.volts, self.wait_s = path, volts, wait_s
        self.name = f"csv:{path}"
        self.primary = ("supply",)
        self.clock: Clock = clock or SystemClock()
        self.period_s: float | None = None
        self.on_wait: Callable[[str], None] = _silent
        self._recording = Recording(path, volts)
        self._pattern: list[Segment] = []
        self._offset_s: float | None = None
        self._before = self._recording.state()

    @classmethod
    def from_argument(cls, text: str) -> "External":
        """Read what follows `csv:`: a file, and `volts=` or `wait=` after commas.

        Raises:
            UsageError: there is no file, or an option is no number.
        """
        found = _ARGUMENT.match(text.strip())
        if not found:
            raise UsageError("The meter `csv` needs a file.", _HINT)
        options = {}
        for pair in filter(None, found[2].split(",")):
            key, _, value = pair.partition("=")
            try:
                options[key] = float(value)
            except ValueError as e:
                raise UsageError(f"csv: {key}={value!r} is no number.", _HINT) from e
            if not 0 < options[key] < float("inf"):
                raise UsageError(f"csv: {key}={value} is not over 0.", _HINT)
        return cls(Path(found[1]), options.get("volts"), options.get("wait", WAIT_S))

    def probe(self) -> Availability:
        """Say whether the recording can be read; one that is not there yet can be, later."""
        if not self.path.exists():
            if not self.path.parent.is_dir():
                reason = f"There is no folder {self.path.parent}."
                return Availability(ok=False, reason=reason, fix="Give a file in one that is.")
            return Availability(ok=True, reason=f"{self.path.name} is read once it is there.")
        try:
            recording = Recording(self.path, self.volts)
            recording.read()
        except UsageError as e:
            return Availability(ok=False, reason=e.message, fix=e.hint)
        return Availability(ok=True, reason=f"{recording.size} samples in {self.path.name} so far.")

    def __enter__(self) -> "External":
        """Look how often the instrument samples, where the file tells already."""
        state = self.probe()
        if not state.ok:
            raise UnavailableError(state.reason, state.fix)
        recording = Recording(self.path, self.volts)
        recording.read()
        self.period_s = recording.period_s
        # What is there now is not this run's yet, and a file that stays so is another run's.
        self._before = recording.state()
        self._recording = Recording(self.path, self.volts)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to close; readings still read the file."""

    @contextmanager
    def window(self, load: Load | None = None, *, align: bool = True) -> Iterator[TraceWindow]:
        """Open a window on the recording; the first one with a load gives the pattern before it."""
        del align
        if load is not None and not self._pattern:
            chip = DEFAULT_CHIP_S
            if self.period_s is not None:
                chip = max(LEAST_CHIP_S, CHIP_PERIODS * self.period_s)
            # Without the waiting of a schedule: a load that mostly waits would hardly be seen.
            run = load.run if isinstance(load, Paced) else load
            self._pattern = give_pattern(run, self.clock, chip)
        window = TraceWindow(self, load)
        yield window
        window.end_s = self.clock.ns() / 1e9

    def between(self, begin_s: float, end_s: float) -> EnergyReading:
        """Integrate between two moments of the harness's clock; waits for the file to reach them.

        Raises:
            UnavailableError: the file does not come, the pattern is not in it, or it has a gap.
        """
        offset = self._aligned(end_s)
        times, watts = self._recording.arrays()
        begin_s, end_s = begin_s + offset, end_s + offset
        if begin_s < times[0]:
            raise UnavailableError(
                f"{self.path.name} begins after the window.", "Start recording before edgekit."
            )
        joules, gap = integrate(times, watts, begin_s, end_s)
        period = self._recording.period_s or 0.0
        if gap > MAX_GAP_PERIODS * period:
            raise UnavailableError(
                f"{self.path.name} has a gap of {gap:.3f} s between samples {period:.3g} s apart.",
                "Record again, at a lower rate if the instrument drops samples.",
            )
        self.period_s = period
        return EnergyReading(
            {self.primary[0]: joules}, end_s - begin_s, "external, aligned by pattern", period
        )

    def _aligned(self, end_s: float) -> float:
        """The recording's clock minus the harness's, once it covers a moment."""
        if not self._pattern:
            raise UnavailableError(
                f"{self.path.name}: the clocks cannot be aligned without a load.", "Give a load."
            )
        ns = self.clock.ns
        deadline = ns() + self.wait_s * 1e9
        why = f"{self.path} has not come, or grown, within {self.wait_s:.0f} s"
        while self._offset_s is None or self._recording.last_s < end_s + self._offset_s:
            if self._grown():
                deadline = ns() + self.wait_s * 1e9
                if self._offset_s is None:
                    why = self._look_for_pattern()
            elif ns() >= deadline:
                found = self._offset_s is not None
                raise UnavailableError(
                    f"{self.path.name} ends before the window." if found else f"{why}.",
                    "Record from before edgekit starts until it has its windows, and save the file"
                    " under that name within the time (csv:FILE,wait=600 for longer).",
                )
            else:
                self.on_wait(f"waiting for {self.path.name}: save the recording there")
                self.clock.sleep(LOOK_S)
        return self._offset_s

    def _grown(self) -> bool:
        if self._recording.state() == self._before:
            return False
        try:
            return self._recording.read()
        except UsageError as e:
            raise UnavailableError(e.message, e.hint) from e

    def _look_for_pattern(self) -> str:
        found = find_pattern(self._pattern, *self._recording.arrays())
        if found is None:
            return f"{self.path.name} is shorter than the pattern of the load"
        if found.sure:
            self._offset_s = found.offset_s
            return ""
        return (
            f"The pattern in which the load was switched is not to be seen in {self.path.name}"
            f" (correlation {found.correlation:.2f}, elsewhere {found.elsewhere:.2f})"
        )


def _silent(text: str) -> None:
    del text


class Recording:
    """A CSV file that may grow, or be replaced by a newer one.

    Args:
        path: the file.
        volts: the supply's voltage, for recordings of current alone.
    """

    def __init__(self, path: Path, volts: float | None) -> None:
        self._path, self._volts = path, volts
        self._forget()

    def _forget(self) -> None:
        self._layout: Layout | None = None
        self._place = 0
        self._identity: tuple[int, int] | None = None
        self._parts: list[tuple[Floats, Floats]] = []

    def state(self) -> tuple[int, int, int, int] | None:
        """What differs once the file was written to or replaced; None where it is not there."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    @property
    def size(self) -> int:
        """Samples so far."""
        return sum(len(times) for times, _ in self._parts)

    @property
    def last_s(self) -> float:
        """Time of the last sample."""
        return float(self._parts[-1][0][-1]) if self._parts else float("-inf")

    @property
    def period_s(self) -> float | None:
        """Median time between two samples, None where there are not two."""
        times = self._parts[0][0] if self._parts else np.zeros(0)
        return float(np.median(np.diff(times))) if len(times) > 1 else None

    def arrays(self) -> tuple[Floats, Floats]:
        """Times in seconds and watts, each of shape (n,)."""
        self._parts = [
            (
                np.concatenate([times for times, _ in self._parts]),
                np.concatenate([watts for _, watts in self._parts]),
            )
        ]
        return self._parts[0]

    def read(self) -> bool:
        """Read the lines that have come since; an incomplete one waits.

        Returns:
            Whether there were any.

        Raises:
            UsageError: the file is no recording of power.
        """
        try:
            found = self._path.stat()
            if self._identity != (found.st_dev, found.st_ino) or found.st_size < self._place:
                self._forget()  # replaced by another, or written anew
                self._identity = (found.st_dev, found.st_ino)
            with self._path.open("rb") as file:
                file.seek(self._place)
                grown = False
                while lines := self._lines(file.read(READ_BYTES)):
                    grown = self._take(lines) or grown
                    file.seek(self._place)
                return grown
        except FileNotFoundError:
            return False
        except OSError as e:
            raise UsageError(
                f"{self._path} cannot be read: {e.strerror}.", "Check its permissions."
            ) from e

    def _lines(self, data: bytes) -> list[str]:
        whole = data[: data.rfind(b"\n") + 1]
        self._place += len(whole)
        try:
            return whole.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as e:
            raise UsageError(f"{self._path} is no text: {e}.", "Export it as CSV.") from e

    def _take(self, lines: list[str]) -> bool:
        if self._layout is None:
            self._layout = layout_of(lines[0], str(self._path), self._volts)
            lines = lines if isinstance(self._layout, PtDaemon) else lines[1:]
        rows = [line for line in lines if line.strip()]
        if not rows:
            return False
        try:
            times, watts = self._layout.power(rows)
        except (KeyError, ValueError) as e:
            raise UsageError(f"{self._path} is not all numbers: {e}.", "Check the file.") from e
        times, watts = thinned(*merged(times, watts, str(self._path)))
        if times[0] < self.last_s:
            raise UsageError(f"The times of {self._path} do not ascend.", "Check the file.")
        self._parts.append((times, watts))
        return True
