"""Windows over a sensor of power: sampled in the background, integrated by the trapezoid rule."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal

from edgekit.bench.meters.base import EnergyReading, Load
from edgekit.bench.protocol import Clock, SystemClock, time_block
from edgekit.errors import UnavailableError

MAX_GAP_PERIODS = 3.0

Watts = Mapping[str, float]


def trapezoid(times_s: list[float], watts: list[float]) -> float:
    """Integrate power over time.

    Args:
        times_s: seconds, ascending.
        watts: power at those moments.

    Returns:
        Joules.
    """
    pairs = zip(pairwise(times_s), pairwise(watts), strict=True)
    return sum((late - early) * (a + b) / 2 for (early, late), (a, b) in pairs)


class SampledWindow:
    """A window over a sensor of power; see `Window`.

    Attributes:
        runs: calls of the load inside the window.
    """

    def __init__(self, meter: "SampledMeter", load: Load | None) -> None:
        self.runs = 0
        self._meter, self._load, self._clock = meter, load, meter.clock
        self._lock = threading.Lock()
        self._samples: list[tuple[float, Watts]] = []
        self._failure: UnavailableError | None = None
        self._closed = False

    def poll(self) -> None:
        """Take one sample."""
        with self._lock:
            before = self._clock.ns()
            watts = self._meter.read_watts()
            middle = (before + self._clock.ns()) / 2e9
            self._samples.append((middle, watts))

    def keep(self, seconds: float) -> None:
        """Keep the load, or time, running."""
        if self._load is None:
            self._clock.sleep(seconds)
        else:
            self.runs += len(time_block(self._load, self._clock.ns, int(seconds * 1e9)))

    def work(self, stop: threading.Event) -> None:
        """Sample until told to stop: the background thread's body."""
        while not stop.wait(self._meter.period_s):
            try:
                self.poll()
            except UnavailableError as e:
                self._failure = e
                return

    def close(self) -> None:
        """End the window."""
        self._closed = True

    @property
    def reading(self) -> EnergyReading:
        """The reading; see `Window`."""
        if not self._closed:
            raise UnavailableError("The energy window is still open.", "Close it first.")
        if self._failure:
            raise self._failure
        times = [moment for moment, _ in self._samples]
        gap = max((b - a for a, b in pairwise(times)), default=0.0)
        period = self._meter.period_s
        if len(times) < 2 or gap > MAX_GAP_PERIODS * period:
            raise UnavailableError(
                f"{self._meter.name}: the window is invalid: a gap of {gap:.3f} s between samples "
                f"{period:.3f} s apart.",
                "Measure again with less else running.",
            )
        joules = {
            domain: trapezoid(times, [watts[domain] for _, watts in self._samples])
            for domain in self._samples[0][1]
        }
        return EnergyReading(joules, times[-1] - times[0], "sampled, trapezoid", period)


class SampledMeter:
    """A sensor of power as a meter. Give it a way to read watts.

    Args:
        name: the meter's name.
        read: reads all domains' watts; raises UnavailableError where that fails.
        primary: domains whose sum is the whole.
        period_s: time between samples.
        clock: time.
        background: sample in a thread; without it the caller polls (a replay, a test).
    """

    label: Literal["measured", "estimated"] = "measured"

    def __init__(
        self,
        name: str,
        read: Callable[[], Watts],
        *,
        primary: tuple[str, ...],
        period_s: float,
        clock: Clock | None = None,
        background: bool = True,
    ) -> None:
        self.name, self.read_watts, self.primary = name, read, primary
        self.period_s: float = period_s
        self.clock: Clock = clock or SystemClock()
        self._background = background

    @contextmanager
    def window(self, load: Load | None = None, *, align: bool = True) -> Iterator[SampledWindow]:
        """Open a window; see `Meter`. There are no edges to align to: power has no counter."""
        del align
        window = SampledWindow(self, load)
        stop = threading.Event()
        thread = threading.Thread(target=window.work, args=(stop,), daemon=True, name="power")
        window.poll()
        try:
            if self._background:
                thread.start()
            yield window
        finally:
            stop.set()
            if self._background:
                thread.join()
        window.poll()
        window.close()
