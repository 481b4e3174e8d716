"""Windows over a sensor of power: sampled in the background, integrated by the trapezoid rule.

A window under a load begins and ends on a sample that was taken while the load ran: one that is
taken before the first inference shows an idle device, and counts for half a period. A sensor that
holds its value until it updates it (a battery's gauge, a program that prints a line now and then)
gives an old one, so that the window waits for an update before it begins.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Literal

from edgekit.bench.meters.base import EnergyReading, Load
from edgekit.bench.protocol import Clock, SystemClock, time_block
from edgekit.errors import UnavailableError

MAX_GAP_PERIODS = 3.0
MAX_PAUSE_S = 0.02

Watts = Mapping[str, float]
Sample = tuple[float, Watts]


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
    """A window over a sensor of power; see `Window`. Keeps sums and no samples: it may last a day.

    Attributes:
        runs: calls of the load inside the window.
        samples: how many there were.
    """

    def __init__(self, meter: "SampledMeter", load: Load | None, *, align: bool) -> None:
        self.runs = self.samples = 0
        self._meter, self._load, self._clock = meter, load, meter.clock
        self._align, self._holds = align, align and meter.holds
        self._runs_to_samples = align and load is not None and not meter.collects
        self._lock = threading.Lock()
        self._joules: dict[str, float] = {}
        self._last: Sample | None = None
        self._began_s = self._gap_s = 0.0
        self._failure: UnavailableError | None = None
        self._closed = False

    def open(self, *, sampled: bool) -> None:
        """Begin.

        Args:
            sampled: somebody polls in the background.
        """
        if self._holds:
            self._wait_for_update()
        if sampled and self._runs_to_samples:
            self._run_to_sample()
            with self._lock:
                self._joules = dict.fromkeys(self._joules, 0.0)
                self._began_s, self._gap_s = self._last[0] if self._last else 0.0, 0.0
        else:
            self.poll()
        self.runs = 0

    def poll(self) -> None:
        """Take what the sensor says."""
        with self._lock:
            if self._closed:
                return
            last = self._last
            found = self._meter.samples(last[0] if last else float("-inf"))
            for sample in found if last else found[-1:]:
                self._take(sample)

    def _take(self, sample: Sample) -> None:
        moment, watts = sample
        if self._last is None:
            self._joules = dict.fromkeys(watts, 0.0)
            self._began_s = moment
        else:
            before, old = self._last
            if watts.keys() != old.keys():
                raise UnavailableError(
                    f"{self._meter.name}: the domains changed while it measured.", "Measure again."
                )
            for domain, value in watts.items():
                self._joules[domain] += (moment - before) * (value + old[domain]) / 2
            self._gap_s = max(self._gap_s, moment - before)
        self._last = sample
        self.samples += 1

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

    def close(self, *, sampled: bool) -> None:
        """End the window; see `open`. A value that is held then is one of the window."""
        if self._failure is None:
            if self._holds and self._meter.collects:
                self._wait_for_update()
            if sampled and self._runs_to_samples:
                self._run_to_sample()
            else:
                self.poll()
        with self._lock:
            self._closed = True

    @property
    def reading(self) -> EnergyReading:
        """The reading; see `Window`."""
        if not self._closed:
            raise UnavailableError("The energy window is still open.", "Close it first.")
        if self._failure:
            raise self._failure
        period = self._meter.period_s
        if self.samples < 2 or self._last is None or self._gap_s > MAX_GAP_PERIODS * period:
            raise UnavailableError(
                f"{self._meter.name}: the window is invalid: a gap of {self._gap_s:.3f} s between"
                f" samples {period:.3f} s apart.",
                "Measure again with less else running.",
            )
        method = "sampled, trapezoid, on updates" if self._holds else "sampled, trapezoid"
        return EnergyReading(dict(self._joules), self._last[0] - self._began_s, method, period)

    def _run_to_sample(self) -> None:
        seen = self.samples
        end = self._clock.ns() + int(MAX_GAP_PERIODS * self._meter.period_s * 1e9)
        while self._load is not None and self.samples == seen and self._failure is None:
            self._load()
            self.runs += 1
            if self._clock.ns() >= end:
                return  # the gap makes the window invalid

    def _wait_for_update(self) -> None:
        """Wait for a new value, but not for long: where the power does not change, none comes."""
        first = self._meter.mark()
        end = self._clock.ns() + int(MAX_GAP_PERIODS * self._meter.period_s * 1e9)
        pause = min(MAX_PAUSE_S, self._meter.period_s / 20)
        while self._clock.ns() < end:
            if self._load is None:
                self._clock.sleep(pause)
            else:
                self.runs += len(time_block(self._load, self._clock.ns, int(pause * 1e9)))
            if self._meter.mark() != first:
                return


Sampler = Callable[[SampledWindow], AbstractContextManager[object]]


@contextmanager
def in_thread(window: SampledWindow) -> Iterator[None]:
    """Poll a window in a thread for as long as the block runs."""
    stop = threading.Event()
    thread = threading.Thread(target=window.work, args=(stop,), daemon=True, name="power")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class SampledMeter:
    """A sensor of power as a meter. Give it a way to read watts.

    Args:
        name: the meter's name.
        read: reads all domains' watts; raises UnavailableError where that fails.
        primary: domains whose sum is the whole.
        period_s: time between samples.
        clock: time.
        sampler: polls a window in the background; None: the caller polls.
        holds: the sensor holds its value until it updates it.

    Attributes:
        collects: samples come by themselves, with their time; `samples` only hands them on.
    """

    collects = False
    label: Literal["measured", "estimated"] = "measured"

    def __init__(
        self,
        name: str,
        read: Callable[[], Watts],
        *,
        primary: tuple[str, ...],
        period_s: float,
        clock: Clock | None = None,
        sampler: Sampler | None = in_thread,
        holds: bool = False,
    ) -> None:
        self.name, self.read_watts, self.primary = name, read, primary
        self.period_s: float = period_s
        self.clock: Clock = clock or SystemClock()
        self.holds = holds
        self.sampler = sampler

    def samples(self, after_s: float) -> list[Sample]:
        """Read the sensor: one sample, dated to the middle of the reading.

        Args:
            after_s: moment of the last sample taken; a meter that collects gives those after it.
        """
        del after_s
        before = self.clock.ns()
        watts = self.read_watts()
        return [((before + self.clock.ns()) / 2e9, watts)]

    def mark(self) -> Hashable:
        """What differs once the sensor has updated its value."""
        return tuple(self.read_watts().values())

    @contextmanager
    def window(self, load: Load | None = None, *, align: bool = True) -> Iterator[SampledWindow]:
        """Open a window; see `Meter`. Only a sensor that holds its value has edges to align to."""
        window = SampledWindow(self, load, align=align)
        sampled = self.sampler is not None
        with self.sampler(window) if self.sampler else nullcontext():
            window.open(sampled=sampled)
            yield window
            window.close(sampled=sampled)
