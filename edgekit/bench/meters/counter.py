"""Windows over a cumulative energy counter: aligned to its edges, unwrapped, and checked.

A counter that moves every T seconds, read at arbitrary moments, errs by up to T at both ends. So
the window starts right after the counter moved and ends right after it moved, with the load kept
up in between.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Literal

import numpy as np

from edgekit.bench.meters.base import EnergyReading, Load
from edgekit.bench.protocol import Clock, SystemClock, time_block
from edgekit.errors import UnavailableError

EDGES = 12
PATIENCE_S = 3.0
CHUNK_S = 0.5
MAX_POWER_W = 2000.0

Ticks = Mapping[str, int]


class CounterWindow:
    """A window over a counter; see `Window`.

    Attributes:
        runs: calls of the load inside the window.
    """

    def __init__(self, meter: "CounterMeter", load: Load | None, *, align: bool) -> None:
        self.runs = 0
        self._meter, self._load, self._align = meter, load, align
        self._clock = meter.clock
        self._lock = threading.Lock()
        self._invalid = ""
        self._ticks: dict[str, int] = {}
        self._last: Ticks = {}
        self._last_ns = self._began_ns = 0
        self._reading: EnergyReading | None = None

    def open(self) -> None:
        """Begin, on an edge where aligned."""
        if self._align:
            self._wait_for_edge()
            self.runs = 0
        self._last = self._meter.read_ticks()
        self._ticks = dict.fromkeys(self._last, 0)
        self._last_ns = self._began_ns = self._clock.ns()

    def keep(self, seconds: float) -> None:
        """Keep the load, or time, running."""
        end = self._clock.ns() + int(seconds * 1e9)
        while (left := end - self._clock.ns()) > 0:
            step = min(left, int(CHUNK_S * 1e9))
            if self._load is None:
                self._clock.sleep(step / 1e9)
            else:
                self.runs += len(time_block(self._load, self._clock.ns, step))
            self.poll()

    def poll(self) -> None:
        """Take the counter's steps since the last poll; keeps a wrap from going unseen."""
        with self._lock:
            now, ns = self._meter.read_ticks(), self._clock.ns()
            ranges = self._meter.ranges
            for domain, tick in now.items():
                step = tick - self._last[domain]
                wrap = ranges.get(domain)
                if step < 0:
                    if wrap is None:
                        self._invalid = f"{domain} wrapped, and its range is unknown"
                        continue
                    step += wrap
                gap_j = MAX_POWER_W * (ns - self._last_ns) / 1e9
                if wrap is not None and gap_j >= wrap * self._meter.joules_per_tick:
                    self._invalid = f"{domain} may have wrapped more than once between two polls"
                self._ticks[domain] += step
            self._last, self._last_ns = now, ns

    def close(self) -> None:
        """End, on an edge where aligned, and work out the reading."""
        if self._align:
            self._wait_for_edge()
        self.poll()
        duration = (self._last_ns - self._began_ns) / 1e9
        unit = self._meter.joules_per_tick
        still = [domain for domain in self._meter.primary if self._ticks[domain] == 0]
        if self._meter.may_rest and len(still) < len(self._meter.primary):
            still = []
        if still and duration > 20 * (self._meter.period_s or 0.1):
            self._invalid = f"{still[0]} did not move in {duration:.1f} s"
        self._reading = EnergyReading(
            {domain: ticks * unit for domain, ticks in self._ticks.items()},
            duration,
            "counter, edge-aligned" if self._align else "counter, naive",
            self._meter.period_s,
        )

    @property
    def reading(self) -> EnergyReading:
        """The reading; see `Window`."""
        if self._reading is None:
            raise UnavailableError("The energy window is still open.", "Close it first.")
        if self._invalid:
            raise UnavailableError(
                f"{self._meter.name}: the window is invalid: {self._invalid}.", "Measure again."
            )
        return self._reading

    def _wait_for_edge(self) -> None:
        first = self._meter.read_ticks()
        end = self._clock.ns() + int(self._meter.patience_s * 1e9)
        pause = min(1e-3, (self._meter.period_s or 1e-3) / 20)
        while True:
            if self._load is None:
                self._clock.sleep(pause)
            else:
                self._load()
                self.runs += 1
            if self._meter.edge_ticks(self._meter.read_ticks()) != self._meter.edge_ticks(first):
                return
            if self._clock.ns() >= end:
                raise _stuck(self._meter)


class CounterMeter:
    """A cumulative counter as a meter. Give it a way to read ticks.

    Args:
        name: the meter's name.
        read: reads all domains' ticks; raises UnavailableError where that fails.
        ranges: where each domain wraps, in ticks; a domain without a known range is absent.
        joules_per_tick: the counter's unit.
        primary: domains whose sum is the whole.
        clock: time.
        patience_s: a counter that does not move for so long is stuck; 3 s where None.
        may_rest: a domain that does not move is off, as long as another one moves.
    """

    label: Literal["measured", "estimated"] = "measured"

    def __init__(
        self,
        name: str,
        read: Callable[[], Ticks],
        *,
        ranges: Mapping[str, int],
        joules_per_tick: float,
        primary: tuple[str, ...],
        clock: Clock | None = None,
        patience_s: float | None = None,
        may_rest: bool = False,
    ) -> None:
        self.patience_s, self.may_rest = patience_s or PATIENCE_S, may_rest
        self.name, self.read_ticks = name, read
        self.ranges, self.joules_per_tick, self.primary = ranges, joules_per_tick, primary
        self.clock: Clock = clock or SystemClock()
        self.period_s: float | None = None

    def edge_ticks(self, ticks: Ticks) -> tuple[int, ...]:
        """Ticks of the primary domains: what an edge is seen on."""
        return tuple(ticks[domain] for domain in self.primary)

    def measure_period(self, wanted: int = EDGES, pause_s: float = 5e-5) -> float:
        """Measure how often the counter moves, in seconds.

        Args:
            wanted: steps to look at.
            pause_s: between two looks.

        Raises:
            UnavailableError: it does not move.
        """
        ns = self.clock.ns
        end = ns() + int(self.patience_s * 1e9)
        last, edges = self.edge_ticks(self.read_ticks()), list[int]()
        while ns() < end and len(edges) <= wanted:
            self.clock.sleep(pause_s)
            now = self.edge_ticks(self.read_ticks())
            if now != last:
                edges.append(ns())
                last = now
        if len(edges) < 3:
            raise _stuck(self)
        return float(np.median(np.diff(edges))) / 1e9

    @contextmanager
    def window(self, load: Load | None = None, *, align: bool = True) -> Iterator[CounterWindow]:
        """Open a window; see `Meter`."""
        window = CounterWindow(self, load, align=align)
        window.open()
        with _Poller(window, self._poll_seconds()):
            yield window
        window.close()

    def _poll_seconds(self) -> float:
        ranges = [self.ranges[name] for name in self.primary if name in self.ranges]
        return min([5.0, *(ticks * self.joules_per_tick / MAX_POWER_W / 2 for ticks in ranges)])


class _Poller:
    """Polls a window in the background, for work that cannot call `poll` itself."""

    def __init__(self, window: CounterWindow, seconds: float) -> None:
        self._window, self._seconds = window, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="energy-poll")

    def _work(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._window.poll()
            except UnavailableError:
                return  # closing the window reads the counter again, and raises there

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()


def _stuck(meter: CounterMeter) -> UnavailableError:
    return UnavailableError(
        f"{meter.name}: the energy counter did not move in {meter.patience_s:.0f} s.",
        "The counter is stuck or not wired up: use another meter.",
    )
