"""Load, warm up, and time several subjects in interleaved blocks of random order."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bench.conditions import rss_bytes
from edgekit.bench.protocol import Clock, Nanoseconds, Protocol, WarmUp, time_block, warm_up
from edgekit.bench.runtimes import Runtime, runtime_class

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


@dataclass
class Loaded:
    """A subject that is loaded and bound, with what was measured of it so far.

    Attributes:
        subject: what was asked for.
        runtime: its runtime, entered.
        run: one inference.
        load_ms: time of loading.
        first_ms: time of the first inference.
        rss_bytes: growth of the process by both, None where unknown.
        warm: how warming up went.
        blocks: by round, the timed nanoseconds.
    """

    subject: Subject
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

    def log_medians(self) -> Any:
        """Logarithm of each block's median nanoseconds: shape (rounds,), float64."""
        return np.log([max(1.0, float(np.median(block))) for block in self.blocks])


def load(
    subject: Subject,
    stack: ExitStack,
    clock: Clock,
    opener: Callable[[Subject], Runtime] = open_runtime,
) -> Loaded:
    """Load a subject, bind its feeds and run it once, timing each."""
    before = rss_bytes()
    runtime = opener(subject)
    began = clock.ns()
    stack.enter_context(runtime)
    loaded = clock.ns()
    run = runtime.bind(subject.feeds)
    bound = clock.ns()
    run()
    done = clock.ns()
    after = rss_bytes()
    growth = None if before is None or after is None else max(0, after - before)
    return Loaded(subject, runtime, run, (loaded - began) / 1e6, (done - bound) / 1e6, growth)


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


def measure_rounds(loaded: Sequence[Loaded], protocol: Protocol, clock: Clock, say: Say) -> None:
    """Time every subject once a round, in a new random order each round, until the rules are met.

    Ctrl-C leaves whole rounds behind: the round that was under way is taken back.
    """
    order = np.random.default_rng(protocol.seed)
    duration, settle = int(protocol.block_s * 1e9), int(protocol.settle_s * 1e9)
    rounds = 0
    gc.collect()
    try:
        while not _enough(loaded, protocol, rounds):
            for place in order.permutation(len(loaded)):
                each = loaded[place]
                with collection_off():
                    if len(loaded) > 1 or rounds == 0:
                        time_block(each.run, clock.ns, settle)
                    each.blocks.append(time_block(each.run, clock.ns, duration))
            rounds += 1
            say(0.3 + 0.65 * _share(loaded, protocol, rounds), f"round {rounds}")
    finally:
        for each in loaded:
            del each.blocks[rounds:]


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
