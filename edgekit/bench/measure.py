"""Load, warm up, and time several subjects in interleaved blocks of random order."""

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bench.conditions import rss_bytes
from edgekit.bench.highwater import HighWater
from edgekit.bench.load import Block, Run, run_block
from edgekit.bench.protocol import Clock, Protocol, WarmUp, time_block, warm_up
from edgekit.bench.result import Stretch
from edgekit.bench.runtimes import Runtime, runtime_class
from edgekit.bench.statistics import Floats
from edgekit.bench.tally import Tally

Say = Callable[[float, str], None]
Check = Callable[[], None]
NOT_WARM = WarmUp(steady=False, runs=0, seconds=0.0)


@dataclass(frozen=True)
class Subject:
    """One model to measure.

    Attributes:
        name: how it is called in the result; unique.
        runtime: a key of `edgekit.bench.runtimes.RUNTIMES`.
        model: the model's file.
        feeds: one array for each input.
        options: the runtime's options, such as `threads`.
    """

    name: str
    runtime: str
    model: Path
    feeds: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)


def open_runtime(subject: Subject) -> Runtime:
    """Make the runtime of a subject; it is loaded when it is entered."""
    return runtime_class(subject.runtime)(subject.model, subject.options)


Opener = Callable[[Subject], Runtime]


@dataclass
class Loaded:
    """A subject that is loaded and bound, with what was measured of it so far.

    Attributes:
        subject: what was asked for.
        opener: makes its runtime, once for each load.
        streams: how many inferences may run at once; each has a binding of its own.
        runtime: its runtime, entered.
        runs: one inference of each stream; empty while the model is not loaded.
        load_ms: time of the first load.
        first_ms: time of the first inference.
        rss_bytes: growth of the process by both, None where unknown.
        peak_bytes: the largest growth by loading and the first two runs of each stream, None where
            unknown. What this module notes down while it warms up and measures is not in it.
        warm: how warming up went.
        tally: what was timed.
        series: of a sustained run, its stretches.
    """

    subject: Subject
    opener: Opener
    streams: int
    runtime: Runtime
    runs: tuple[Run, ...]
    load_ms: float
    first_ms: float
    rss_bytes: int | None
    peak_bytes: int | None
    tally: Tally
    warm: WarmUp = NOT_WARM
    series: list[Stretch] = field(default_factory=list)

    def run(self) -> None:
        """One inference of the first stream, whichever load of the model is the current one."""
        self.runs[0]()

    def log_medians(self) -> Floats:
        """Logarithm of each round's median nanoseconds: shape (rounds,)."""
        return np.log(np.maximum(1.0, np.array(self.tally.medians_ns, dtype=np.float64)))

    def close(self) -> None:
        """Free the model."""
        self.runs = ()
        self.runtime.__exit__(None, None, None)

    def open_again(self) -> None:
        """Load the model anew."""
        runtime = self.opener(self.subject)
        runtime.__enter__()
        try:
            runs = _bind(runtime, self.subject.feeds, self.streams)
        except BaseException:
            runtime.__exit__(None, None, None)
            raise
        self.runtime, self.runs = runtime, runs


def _bind(runtime: Runtime, feeds: Mapping[str, Any], streams: int) -> tuple[Run, ...]:
    """Bind once for each stream, and run each once: runtimes allocate their outputs then."""
    runs = tuple(runtime.bind(feeds) for _ in range(streams))
    for run in runs:
        run()
    return runs


def load(
    subject: Subject, protocol: Protocol, clock: Clock, opener: Opener, high: HighWater
) -> Loaded:
    """Load a subject, bind its feeds and run it once, timing each."""
    runtime = opener(subject)
    runtime.probe()  # imports the library: neither its time nor its memory are the model's
    high.reset()
    before = rss_bytes()
    began = clock.ns()
    runtime.__enter__()
    try:
        loaded = clock.ns()
        first = runtime.bind(subject.feeds)
        bound = clock.ns()
        first()
        done = clock.ns()
        streams = protocol.mode.streams
        runs = (first, *_bind(runtime, subject.feeds, streams - 1))
        # Runtimes that plan their memory by the first run take it at the second.
        for run in runs:
            run()
    except BaseException:
        runtime.__exit__(None, None, None)
        raise
    after = rss_bytes()
    return Loaded(
        subject=subject,
        opener=opener,
        streams=streams,
        runtime=runtime,
        runs=runs,
        load_ms=(loaded - began) / 1e6,
        first_ms=(done - bound) / 1e6,
        rss_bytes=None if before is None or after is None else max(0, after - before),
        peak_bytes=high.growth_bytes(),
        tally=Tally(protocol.mode.deadline),
    )


@contextmanager
def all_loaded(
    subjects: Sequence[Subject],
    protocol: Protocol,
    clock: Clock,
    opener: Opener = open_runtime,
    high: HighWater | None = None,
) -> Iterator[list[Loaded]]:
    """Load every subject, and free what is loaded at the end, whatever happens."""
    high = high or HighWater()
    loaded: list[Loaded] = []
    try:
        for subject in subjects:
            loaded.append(load(subject, protocol, clock, opener, high))  # noqa: PERF401 - freed if a later one fails
        yield loaded
    finally:
        for each in loaded:
            if each.runs:
                each.close()


@contextmanager
def collection_off() -> Iterator[None]:
    """Keep the garbage collector out of a block, and put it back as it was."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def warm_all(
    loaded: Sequence[Loaded], protocol: Protocol, clock: Clock, say: Say, check: Check
) -> None:
    """Warm up one subject after the other, back to back in every mode."""
    for place, each in enumerate(loaded):
        say(0.3 * place / len(loaded), f"warming up {each.subject.name}")
        with collection_off():
            each.warm = warm_up(each.runs[0], protocol, clock, check)


@dataclass(frozen=True)
class Rounds:
    """What became of the interleaved rounds.

    Attributes:
        loads: shape (rounds,), int32: which load of the models each round belongs to, from 0.
        complete: False where the run was stopped.
    """

    loads: npt.NDArray[np.int32]
    complete: bool


def measure_rounds(
    loaded: Sequence[Loaded], protocol: Protocol, clock: Clock, say: Say, check: Check
) -> Rounds:
    """Time every subject once a round, in a new random order each round, until the rules are met.

    Every few rounds all models are loaded anew. Where a model lies in physical memory decides which
    of its parts fight for the same cache sets: two loads of one file can differ by 10 % for as long
    as they live, and no number of rounds averages that away. So the load is a replicate, too.

    Args:
        loaded: the subjects, warm.
        protocol: the rules.
        clock: time.
        say: progress.
        check: raises KeyboardInterrupt where the run shall end. So does Ctrl-C; whole rounds that
            were measured before it are kept.
    """
    order = np.random.default_rng(protocol.seed)
    loads: list[int] = []
    gc.collect()
    try:
        for number in _load_numbers(loaded, protocol, clock, order, loads):
            blocks = _round(loaded, protocol, clock, order, len(loads), check)
            for each, block in zip(loaded, blocks, strict=True):
                each.tally.add(block)
            loads.append(number)
            share = _share(loaded, protocol, len(loads))
            say(0.3 + 0.65 * share, f"round {len(loads)}")
    except KeyboardInterrupt:
        if not loads:
            raise
        return Rounds(np.array(loads, dtype=np.int32), complete=False)
    return Rounds(np.array(loads, dtype=np.int32), complete=True)


def _load_numbers(
    loaded: Sequence[Loaded],
    protocol: Protocol,
    clock: Clock,
    order: np.random.Generator,
    loads: Sequence[int],
) -> Iterator[int]:
    """Number of the load for each next round, the models loaded anew where a new one begins."""
    every = math.ceil(protocol.min_rounds / protocol.loads)
    patience, number = protocol.reload_s, 0
    while not _enough(loaded, protocol, len(loads)):
        if loads and len(loads) % every == 0 and patience > 0:
            began = clock.ns()
            _load_anew(loaded, order, int(protocol.block_s * 1e9), clock)
            patience -= (clock.ns() - began) / 1e9
            number += 1
        yield number


def _round(
    loaded: Sequence[Loaded],
    protocol: Protocol,
    clock: Clock,
    order: np.random.Generator,
    number: int,
    check: Check,
) -> list[Block]:
    """One block of each subject, in the order of the subjects."""
    blocks: dict[int, Block] = {}
    settle = len(loaded) > 1 or number == 0
    for place in order.permutation(len(loaded)):
        check()
        with collection_off():
            blocks[int(place)] = run_block(
                loaded[place].runs, protocol, clock, settle=settle, number=number
            )
    return [blocks[place] for place in range(len(loaded))]


def _load_anew(
    loaded: Sequence[Loaded], order: np.random.Generator, settle_ns: int, clock: Clock
) -> None:
    for each in loaded:
        each.close()
    for place in order.permutation(len(loaded)):
        each = loaded[place]
        each.open_again()
        with collection_off():
            time_block(each.runs[0], clock.ns, settle_ns)


def _enough(loaded: Sequence[Loaded], protocol: Protocol, rounds: int) -> bool:
    if rounds < protocol.min_rounds:
        return False
    seconds = [each.tally.seconds for each in loaded]
    if min(seconds) < protocol.min_s:
        return False
    # A round costs every subject a block, so the slowest one's patience ends it for all.
    least = min(each.tally.n for each in loaded)
    return least >= protocol.needed_n or max(seconds) >= protocol.max_s


def _share(loaded: Sequence[Loaded], protocol: Protocol, rounds: int) -> float:
    shares = [rounds / protocol.min_rounds]
    for each in loaded:
        seconds = each.tally.seconds
        shares.append(seconds / protocol.min_s)
        shares.append(max(each.tally.n / protocol.needed_n, seconds / protocol.max_s))
    return min(1.0, *shares)
