"""One block of load in each mode: who starts an inference when, and from when its latency counts.

Back to back, the next inference starts when the last one ends, so a slow one delays the others and
nobody sees it. In `paced` and `server` requests come at times that are fixed before the block
starts, and latency counts from those times: a slow inference makes the ones behind it late, and
that is in the figures.
"""

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgekit.bench.protocol import Clock, Mode, Nanoseconds, Protocol, time_block

Run = Callable[[], object]

# A sleep ends 50 to 100 us late on Linux, so the last bit of a wait is spun: by one thread alone.
# Several threads sleep only, as a spinning one would take a core, and Python's lock, from others.
SPIN_NS = 200_000
SLICE_S = 0.1
HEAD_START_NS = 1_000_000
SERVER_BLOCKS = 5
SERVER_ARRIVALS = 10
SERVER_LEAD = 5
MOST_ARRIVALS = 200_000
PATIENCE = 3


def _none() -> Nanoseconds:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Block:
    """What one block of load gave.

    Attributes:
        ns: shape (n,), int64, latency of each inference, in order of time.
        seconds: time that the throughput counts over.
        late_ns: shape (waits,), int64, how late each wait for a scheduled time ended.
        busy_ns: time that the workers were busy, over all of them; 0 without a schedule.
        offered_ns: time over which requests came, times workers; 0 without a schedule.
        unserved: requests that were due and that an overloaded block no longer came to.
    """

    ns: Nanoseconds
    seconds: float
    late_ns: Nanoseconds = field(default_factory=_none)
    busy_ns: int = 0
    offered_ns: int = 0
    unserved: int = 0


def run_block(
    runs: Sequence[Run], protocol: Protocol, clock: Clock, *, settle: bool, number: int = 0
) -> Block:
    """Run one subject for one block.

    Args:
        runs: one inference; in `streams` and `server` one for each stream, bound on its own.
        protocol: `mode`, `block_s`, `settle_s` and `seed` are used.
        clock: time.
        settle: run untimed first, since another model has used the caches.
        number: of the round; all subjects of a round see the same arrivals.

    Raises:
        BaseException: what an inference raised, in whichever thread, once all threads have ended.
    """
    mode = protocol.mode
    duration = int(protocol.block_s * 1e9)
    settle_ns = int(protocol.settle_s * 1e9) if settle else 0
    if mode.scheduled:
        seed = [protocol.seed, number]
        offsets, lead = schedule(mode, duration, settle_ns, seed)
        return _scheduled_block(runs, offsets, lead, clock)
    if mode.kind == "streams":
        return _streams_block(runs, duration, settle_ns, clock)
    if settle:
        time_block(runs[0], clock.ns, settle_ns)
    times = time_block(runs[0], clock.ns, duration)
    return Block(times, int(times.sum()) / 1e9)


def schedule(
    mode: Mode, duration_ns: int, settle_ns: int, seed: Sequence[int]
) -> tuple[Nanoseconds, int]:
    """Fix when the requests of a block come.

    `paced`: as many frames as the duration holds, at least one. `server`: exponential gaps, over
    five times the duration and at least ten arrivals, since a queue needs time to build up; for the
    same reason the first fifth as many again are served, and not timed.

    Args:
        mode: `paced` or `server`.
        duration_ns: of the block.
        settle_ns: of untimed running before it, 0 for none.
        seed: of the arrivals.

    Returns:
        Shape (lead + n + 1,), int64: nanoseconds after the start, the end of the block last; and
        how many of them are not timed.
    """
    period = 1e9 / (mode.rate_hz or 1.0)
    if mode.kind == "paced":
        n = min(max(1, round(duration_ns / period)), MOST_ARRIVALS)
        lead = max(1, round(settle_ns / period)) if settle_ns else 0
        return np.round(period * np.arange(min(lead, n) + n + 1)).astype(np.int64), min(lead, n)
    n = max(SERVER_ARRIVALS, round(SERVER_BLOCKS * duration_ns / period))
    n = min(n, MOST_ARRIVALS)
    lead = max(1, n // SERVER_LEAD)
    gaps = np.random.default_rng(list(seed)).exponential(period, lead + n)
    return np.concatenate(([0], np.cumsum(gaps))).astype(np.int64), lead


def load_of(run: Run, protocol: Protocol, clock: Clock) -> Run:
    """One inference as the mode asks for it, waiting included: the load of an energy window.

    With a schedule, each call waits for the time that is due, so that joules per inference are
    those at that rate, the idle time between inferences included.

    Args:
        run: one inference.
        protocol: its mode has one stream.
        clock: time.
    """
    if not protocol.mode.scheduled or protocol.mode.rate_hz is None:
        return run
    return Paced(run, protocol, clock)


class Paced:
    """A load that comes at the times of a schedule.

    Attributes:
        run: one inference, without the waiting.
    """

    def __init__(self, run: Run, protocol: Protocol, clock: Clock) -> None:
        mode = protocol.mode
        self.run, self._clock = run, clock
        self._period = 1e9 / (mode.rate_hz or 1.0)
        self._generator = np.random.default_rng(protocol.seed) if mode.kind == "server" else None
        self._due = 0.0

    def __call__(self) -> None:
        """Wait for the time that is due, and run."""
        # A window that begins later, or an overload, starts the schedule anew.
        now = self._clock.ns()
        self._due = now if now - self._due > PATIENCE * self._period else self._due
        wait_until(int(self._due), self._clock, SPIN_NS, lambda: False)
        self.run()
        period = self._period
        self._due += period if self._generator is None else self._generator.exponential(period)


def wait_until(due_ns: int, clock: Clock, spin_ns: int, stopped: Callable[[], bool]) -> int:
    """Sleep, then spin, until a time.

    Returns:
        The time at which the wait ended.
    """
    ns = clock.ns
    now = ns()
    while due_ns - now > spin_ns and not stopped():
        clock.sleep(min((due_ns - now - spin_ns) / 1e9, SLICE_S))
        now = ns()
    while now < due_ns and not stopped():
        now = ns()
    return now


class _Crew:
    """Threads that end together: an error in one stops the others and reaches the caller."""

    def __init__(self) -> None:
        self.stopped = False
        self.end_ns = 0
        self.errors: list[BaseException] = []

    def stop(self) -> None:
        self.stopped, self.end_ns = True, 0

    def work(self, jobs: Sequence[Callable[[], None]], release: Callable[[], None]) -> None:
        """Run each job in a thread of its own, or the only one in this thread.

        Args:
            jobs: the work; a job looks at `stopped` between inferences.
            release: frees jobs that wait for each other, called when one fails.
        """
        if len(jobs) == 1:
            jobs[0]()
            return

        def guarded(job: Callable[[], None]) -> None:
            try:
                job()
            except threading.BrokenBarrierError:
                pass  # another one failed, and its error is the one to report
            except BaseException as e:  # noqa: BLE001 - raised again in the caller's thread
                self.errors.append(e)
                self.stop()
                release()

        threads = [threading.Thread(target=guarded, args=(job,), daemon=True) for job in jobs]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:
            self.stop()
            release()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            raise
        if self.errors:
            raise self.errors[0]


def _streams_block(runs: Sequence[Run], duration_ns: int, settle_ns: int, clock: Clock) -> Block:
    crew = _Crew()

    def begin() -> None:
        crew.end_ns = 0 if crew.stopped else clock.ns() + duration_ns

    barrier = threading.Barrier(len(runs), action=begin)
    ended: list[list[int]] = [[] for _ in runs]
    times: list[list[int]] = [[] for _ in runs]
    seconds = [0.0] * len(runs)

    def stream(place: int) -> None:
        run, ns = runs[place], clock.ns
        took, at = times[place].append, ended[place].append
        if settle_ns:
            time_block(run, ns, settle_ns)
        barrier.wait()
        began = start = ns()
        while True:  # one inference at least
            run()
            stop = ns()
            took(stop - start)
            at(stop)
            start = stop
            if stop >= crew.end_ns:
                break
        seconds[place] = (start - began) / 1e9

    crew.work([lambda place=place: stream(place) for place in range(len(runs))], barrier.abort)  # type: ignore[misc]
    order = np.argsort(np.concatenate([np.array(each) for each in ended]), kind="stable")
    merged = np.concatenate([np.array(each, dtype=np.int64) for each in times])[order]
    # Streams end at different times: the rates are added, not the counts over the longest time.
    rate = sum(len(each) / max(took, 1e-9) for each, took in zip(times, seconds, strict=True))
    return Block(merged, len(merged) / rate)


def _scheduled_block(runs: Sequence[Run], offsets: Nanoseconds, lead: int, clock: Clock) -> Block:
    crew, ns = _Crew(), clock.ns
    due = [int(offset) for offset in offsets]
    n = len(due) - 1
    start = ns() + HEAD_START_NS
    give_up = start + PATIENCE * due[-1]
    spin = SPIN_NS if len(runs) == 1 else 0
    latency, busy, ended = [0] * n, [0] * n, [0] * n
    late: list[int] = []
    counter = itertools.count()

    def serve(run: Run) -> None:
        while (place := next(counter)) < n and not crew.stopped:
            at = start + due[place]
            now = free = ns()
            if free > give_up and place > lead:
                break
            if free < at:
                now = wait_until(at, clock, spin, lambda: crew.stopped)
                if place >= lead:
                    late.append(now - at)
            run()
            stop = ns()
            latency[place], ended[place], busy[place] = stop - at, stop, stop - max(at, free)

    crew.work([lambda run=run: serve(run) for run in runs], lambda: None)  # type: ignore[misc]
    served = [place for place in range(lead, n) if ended[place]]
    last = max(ended[place] for place in served)
    complete = len(served) == n - lead
    end = max(last, start + due[-1]) if complete else last
    window = due[-1] - due[lead] if complete else last - start - due[lead]
    return Block(
        ns=np.array([latency[place] for place in served], dtype=np.int64),
        seconds=max(end - start - due[lead], 1) / 1e9,
        late_ns=np.array(late, dtype=np.int64),
        busy_ns=sum(busy[place] for place in served),
        offered_ns=max(window, 1) * len(runs),
        unserved=sum(
            1 for place in range(lead, n) if not ended[place] and start + due[place] <= last
        ),
    )
