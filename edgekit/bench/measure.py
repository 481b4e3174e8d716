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
from edgekit.bench.protocol import Clock, Nanoseconds, Protocol, WarmUp, time_block, warm_up
from edgekit.bench.runtimes import Runtime, runtime_class
from edgekit.bench.statistics import Floats
from edgekit.errors import UsageError

Say = Callable[[float, str], None]
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
        runtime: its runtime, entered.
        run: one inference.
        load_ms: time of the first load.
        first_ms: time of the first inference.
        rss_bytes: growth of the process by both, None where unknown.
        warm: how warming up went.
        blocks: by round, the timed nanoseconds.
    """

    subject: Subject
    opener: Opener
    runtime: Runtime
    run: Callable[[], object]
    load_ms: float
    first_ms: float
    rss_bytes: int | None
    warm: WarmUp = NOT_WARM
    blocks: list[Nanoseconds] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Timed inferences."""
        return sum(len(block) for block in self.blocks)

    @property
    def seconds(self) -> float:
        """Timed seconds."""
        return sum(int(block.sum()) for block in self.blocks) / 1e9

    def log_medians(self) -> Floats:
        """Logarithm of each block's median nanoseconds: shape (rounds,)."""
        medians = [max(1.0, float(np.median(block))) for block in self.blocks]
        return np.log(np.array(medians, dtype=np.float64))

    def close(self) -> None:
        """Free the model."""
        self.run = _not_loaded
        self.runtime.__exit__(None, None, None)

    def open_again(self) -> None:
        """Load the model anew."""
        runtime = self.opener(self.subject)
        runtime.__enter__()
        self.runtime, self.run = runtime, _not_bound
        self.run = runtime.bind(self.subject.feeds)
        self.run()


def _not_loaded() -> None:
    raise UsageError("The model is not loaded.", "Load it first.")


def _not_bound() -> None:
    raise UsageError("The model is not bound.", "Bind its feeds first.")


def load(subject: Subject, clock: Clock, opener: Opener = open_runtime) -> Loaded:
    """Load a subject, bind its feeds and run it once, timing each."""
    before = rss_bytes()
    runtime = opener(subject)
    began = clock.ns()
    runtime.__enter__()
    try:
        loaded = clock.ns()
        run = runtime.bind(subject.feeds)
        bound = clock.ns()
        run()
        done = clock.ns()
    except BaseException:
        runtime.__exit__(None, None, None)
        raise
    after = rss_bytes()
    growth = None if before is None or after is None else max(0, after - before)
    load_ms, first_ms = (loaded - began) / 1e6, (done - bound) / 1e6
    return Loaded(subject, opener, runtime, run, load_ms, first_ms, growth)


@contextmanager
def all_loaded(
    subjects: Sequence[Subject], clock: Clock, opener: Opener = open_runtime
) -> Iterator[list[Loaded]]:
    """Load every subject, and free what is loaded at the end, whatever happens."""
    loaded: list[Loaded] = []
    try:
        for subject in subjects:
            loaded.append(load(subject, clock, opener))  # noqa: PERF401 - freed if a later one fails
        yield loaded
    finally:
        for each in loaded:
            if each.run is not _not_loaded:
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


def warm_all(loaded: Sequence[Loaded], protocol: Protocol, clock: Clock, say: Say) -> None:
    """Warm up one subject after the other."""
    for place, each in enumerate(loaded):
        say(0.3 * place / len(loaded), f"warming up {each.subject.name}")
        with collection_off():
            each.warm = warm_up(each.run, protocol, clock)


def measure_rounds(
    loaded: Sequence[Loaded], protocol: Protocol, clock: Clock, say: Say
) -> npt.NDArray[np.int32]:
    """Time every subject once a round, in a new random order each round, until the rules are met.

    Every few rounds all models are loaded anew. Where a model lies in physical memory decides which
    of its parts fight for the same cache sets: two loads of one file can differ by 10 % for as long
    as they live, and no number of rounds averages that away. So the load is a replicate, too.

    Returns:
        Shape (rounds,): which load each round belongs to, from 0.
    """
    order = np.random.default_rng(protocol.seed)
    duration, settle = int(protocol.block_s * 1e9), int(protocol.settle_s * 1e9)
    every = math.ceil(protocol.min_rounds / protocol.loads)
    patience = protocol.reload_s
    loads: list[int] = []
    number = 0
    gc.collect()
    while not _enough(loaded, protocol, len(loads)):
        rounds = len(loads)
        if rounds and rounds % every == 0 and patience > 0:
            began = clock.ns()
            _load_anew(loaded, order, duration, clock)
            patience -= (clock.ns() - began) / 1e9
            number += 1
        for place in order.permutation(len(loaded)):
            each = loaded[place]
            with collection_off():
                if len(loaded) > 1 or rounds == 0:
                    time_block(each.run, clock.ns, settle)
                each.blocks.append(time_block(each.run, clock.ns, duration))
        loads.append(number)
        say(0.3 + 0.65 * _share(loaded, protocol, rounds + 1), f"round {rounds + 1}")
    return np.array(loads, dtype=np.int32)


def _load_anew(
    loaded: Sequence[Loaded], order: np.random.Generator, settle_ns: int, clock: Clock
) -> None:
    for each in loaded:
        each.close()
    for place in order.permutation(len(loaded)):
        each = loaded[place]
        each.open_again()
        with collection_off():
            time_block(each.run, clock.ns, settle_ns)


def _enough(loaded: Sequence[Loaded], protocol: Protocol, rounds: int) -> bool:
    if rounds < protocol.min_rounds:
        return False
    seconds = [each.seconds for each in loaded]
    if min(seconds) < protocol.min_s:
        return False
    # A round costs every subject a block, so the slowest one's patience ends it for all.
    return min(each.n for each in loaded) >= protocol.needed_n or max(seconds) >= protocol.max_s


def _share(loaded: Sequence[Loaded], protocol: Protocol, rounds: int) -> float:
    shares = [rounds / protocol.min_rounds]
    for each in loaded:
        shares.append(each.seconds / protocol.min_s)
        shares.append(max(each.n / protocol.needed_n, each.seconds / protocol.max_s))
    return min(1.0, *shares)
