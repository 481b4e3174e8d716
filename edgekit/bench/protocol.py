"""How long to warm up, how much to measure: the rules, as data.

The clock is a parameter everywhere, so that the rules are tested without waiting.
"""

import difflib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args
from typing import Protocol as Interface

import numpy as np
import numpy.typing as npt

from edgekit.bench.statistics import needed_runs
from edgekit.errors import UsageError

Nanoseconds = npt.NDArray[np.int64]


class Clock(Interface):
    """Time, for the harness: nanoseconds that never step back, and waiting."""

    @property
    def ns(self) -> Callable[[], int]:
        """The call that reads the clock; taken once, and called in the timing loop."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's monotonic performance counter."""

    ns = staticmethod(time.perf_counter_ns)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


Kind = Literal["back-to-back", "paced", "streams", "server", "offline"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Mode:
    """How requests come.

    Attributes:
        kind: `back-to-back`: the next inference starts when the last one ends. `paced`: one starts
            every 1/`rate_hz` seconds, and latency counts from then, whether or not the one before
            has ended. `streams`: `streams` threads, each with its own binding, back to back.
            `server`: requests arrive at random (Poisson) and queue for `streams` threads; latency
            counts from the arrival. `offline`: back to back; samples a second are what counts.
        rate_hz: frames a second of `paced`, mean arrivals a second of `server`.
        deadline_ms: latest answer after the scheduled time or the arrival. One period in `paced`
            where it is None, no deadline in `server`.
        streams: concurrent inferences in `streams` and `server`.
    """

    kind: Kind = "back-to-back"
    rate_hz: float | None = None
    deadline_ms: float | None = None
    streams: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            near = difflib.get_close_matches(str(self.kind), KINDS, n=1, cutoff=0.4)
            guess = f"Did you mean {near[0]!r}? " if near else ""
            raise UsageError(
                f"There is no mode {self.kind!r}.", f"{guess}Modes: {', '.join(KINDS)}."
            )
        for name in ("rate_hz", "deadline_ms"):
            value = getattr(self, name)
            if value is not None and not self.scheduled:
                raise UsageError(
                    f"The mode {self.kind!r} has no {name}.",
                    "Only the modes 'paced' and 'server' have one.",
                )
            if value is not None and not 0 < _number(name, value) < math.inf:
                raise UsageError(f"The mode's {name} is {value}.", "Give a number over 0.")
        if self.scheduled and self.rate_hz is None:
            raise UsageError(
                f"The mode {self.kind!r} needs a rate.", "Give it, such as --rate 30 (rate_hz)."
            )
        if isinstance(self.streams, bool) or not isinstance(self.streams, int) or self.streams < 1:
            raise UsageError(f"The mode's streams are {self.streams!r}.", "Give 1 or more.")
        if self.streams > 1 and self.kind not in ("streams", "server"):
            raise UsageError(
                f"The mode {self.kind!r} runs one inference at a time.",
                "Give --mode streams or --mode server for several.",
            )

    @property
    def scheduled(self) -> bool:
        """Requests come at times of their own, not when the last answer is there."""
        return self.kind in ("paced", "server")

    @property
    def deadline(self) -> float | None:
        """The deadline in milliseconds, the default filled in; None where there is none."""
        if self.deadline_ms is None and self.kind == "paced" and self.rate_hz is not None:
            return 1e3 / self.rate_hz
        return self.deadline_ms


@dataclass(frozen=True)
class Protocol:
    """The rules of one benchmark. Times in seconds.

    Attributes:
        form: `full` or `quick`; a report says which.
        seed: of the order of blocks and of the bootstrap.
        warmup_s: least warm-up.
        warmup_runs: least inferences of warm-up.
        warmup_block_s: warm-up goes on in blocks of this length until they agree.
        warmup_max_s: then measuring starts all the same, with `steady: false`.
        block_s: length of one subject's block within an interleaved round.
        settle_s: untimed running at the start of a block, to refill the caches that the subject
            before has emptied (at least one inference).
        min_rounds: least interleaved rounds.
        loads: how often the models are loaded anew over `min_rounds` rounds, the first included.
        reload_s: seconds that may be spent on that; no load is begun after them.
        min_s: least timed seconds of each subject.
        quantile: the highest percentile wanted; with `exceedances` it sets the least sample size.
        above: samples that shall lie beyond the bound of that percentile.
        max_s: timed seconds of a subject after which no further round starts for the sample size.
        resamples: of the bootstrap.
        idle_s: idle time before and after energy windows.
        window_s: least length of an energy window.
        windows: energy windows of each subject.
        mode: how requests come.
        sustained_s: run each subject alone for so long instead of in rounds, and say how it changed
            over that time; None: in rounds.
        affinity: CPUs that the run is pinned to, None: wherever the system puts it.
    """

    form: Literal["full", "quick"] = "full"
    seed: int = 0
    warmup_s: float = 3.0
    warmup_runs: int = 50
    warmup_block_s: float = 1.0
    warmup_max_s: float = 60.0
    block_s: float = 0.2
    settle_s: float = 0.01
    min_rounds: int = 40
    loads: int = 8
    reload_s: float = 30.0
    min_s: float = 10.0
    quantile: float = 0.99
    above: int = 1
    max_s: float = 60.0
    resamples: int = 1000
    idle_s: float = 30.0
    window_s: float = 5.0
    windows: int = 5
    mode: Mode = Mode()
    sustained_s: float | None = None
    affinity: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        positive = (
            "warmup_block_s",
            "block_s",
            "min_rounds",
            "loads",
            "min_s",
            "max_s",
            "resamples",
        )
        for name in positive:
            if getattr(self, name) <= 0:
                raise UsageError(f"The protocol's {name} must be over 0.", "Give a larger value.")
        if not 0 < self.quantile < 1:
            raise UsageError("The protocol's quantile must lie in (0, 1).", "Give 0.99 or so.")
        if self.sustained_s is not None and not 0 < self.sustained_s < math.inf:
            raise UsageError(
                f"A sustained run of {self.sustained_s} s makes no sense.",
                "Give seconds over 0, such as 1800.",
            )
        if self.affinity is not None:
            _check_affinity(self.affinity)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Protocol":
        """Read what `dataclasses.asdict` wrote, also after a trip through JSON.

        Args:
            data: some or all of the fields; the others have their defaults. `quick`, which a result
                carries beside them, is passed over.

        Raises:
            UsageError: a field is unknown or has a value without sense.
        """
        known = {each.name: each.default for each in fields(cls)}
        found: dict[str, Any] = {}
        for name, value in data.items():
            if name == "quick":
                continue
            if name not in known:
                raise UsageError(
                    f"The protocol has no field {name!r}.", f"Fields: {', '.join(known)}."
                )
            found[name] = _field(name, value, known[name])
        return cls(**found)

    @classmethod
    def full(cls, seed: int = 0) -> "Protocol":
        """Return the default: about 15 s for a subject, more for slow or unsteady ones."""
        return cls(seed=seed)

    @classmethod
    def quick(cls, seed: int = 0) -> "Protocol":
        """Return the short form."""
        return cls(
            form="quick",
            seed=seed,
            warmup_s=0.2,
            warmup_runs=5,
            warmup_block_s=0.05,
            warmup_max_s=0.6,
            block_s=0.04,
            settle_s=0.004,
            min_rounds=20,
            loads=5,
            reload_s=2.0,
            min_s=0.8,
            quantile=0.9,
            above=0,
            max_s=2.0,
            idle_s=2.0,
            window_s=1.0,
            windows=3,
        )

    @property
    def needed_n(self) -> int:
        """Runs that the highest percentile needs."""
        return needed_runs(self.quantile, above=self.above)


def _field(name: str, value: Any, default: Any) -> Any:
    """Give a JSON value the type of a field of `Protocol`."""
    if name == "mode":
        names = [each.name for each in fields(Mode)]
        if not isinstance(value, Mapping) or not set(value) <= set(names):
            raise UsageError("The protocol's mode is broken.", f"Its fields: {', '.join(names)}.")
        return Mode(**value)
    if name == "form":
        if value not in ("full", "quick"):
            raise UsageError(f"The protocol's form is {value!r}.", "Give 'full' or 'quick'.")
        return value
    if name == "affinity":
        if value is not None and not isinstance(value, (list, tuple)):
            raise UsageError("The protocol's affinity is no list.", "Give numbers of CPUs.")
        return None if value is None else tuple(value)
    if name == "sustained_s" and value is None:
        return None
    number = _number(name, value)
    if isinstance(default, int) and not isinstance(number, int):
        raise UsageError(f"The protocol's {name} is {value!r}.", "Give a whole number.")
    return number


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"The protocol's {name} is {value!r}.", "Give a number.")
    return value


def _check_affinity(cpus: tuple[int, ...]) -> None:
    whole = all(isinstance(cpu, int) and not isinstance(cpu, bool) and cpu >= 0 for cpu in cpus)
    if not cpus or not whole or len(set(cpus)) != len(cpus):
        raise UsageError(
            f"{list(cpus)} are not CPUs to pin to.", "Give each CPU's number once, such as 0,1."
        )


def time_block(
    run: Callable[[], object], ns: Callable[[], int], duration_ns: int, least: int = 1
) -> Nanoseconds:
    """Time inferences back to back for a while.

    Args:
        run: one inference.
        ns: the clock.
        duration_ns: no inference starts after this.
        least: inferences that are made in any case.

    Returns:
        Shape (n,), the duration of each in nanoseconds.
    """
    times: list[int] = []
    append = times.append
    start = ns()
    end = start + duration_ns
    while start < end or len(times) < least:
        start = ns()
        run()
        stop = ns()
        append(stop - start)
        start = stop
    return np.array(times, dtype=np.int64)


@dataclass(frozen=True)
class WarmUp:
    """How warming up went.

    Attributes:
        steady: the rule was met.
        runs: inferences.
        seconds: time it took.
    """

    steady: bool
    runs: int
    seconds: float


def warm_up(
    run: Callable[[], object],
    protocol: Protocol,
    clock: Clock,
    check: Callable[[], None] = lambda: None,
) -> WarmUp:
    """Run until the latency is steady, or until time is up.

    Steady: after the least time and runs, the last two blocks agree (medians within 1 %, quartiles
    within 5 %) and the last five do not move in one direction by more than 1 %.

    Args:
        run: one inference.
        protocol: the rules.
        clock: time.
        check: called between blocks; raises where the run shall end.
    """
    ns = clock.ns
    began = ns()
    blocks: list[Nanoseconds] = []
    runs = 0
    while True:
        check()
        blocks.append(time_block(run, ns, int(protocol.warmup_block_s * 1e9)))
        runs += len(blocks[-1])
        del blocks[:-5]
        seconds = (ns() - began) / 1e9
        enough = seconds >= protocol.warmup_s and runs >= protocol.warmup_runs
        if enough and is_steady(blocks):
            return WarmUp(steady=True, runs=runs, seconds=seconds)
        if seconds >= protocol.warmup_max_s:
            return WarmUp(steady=False, runs=runs, seconds=seconds)


def is_steady(blocks: list[Nanoseconds]) -> bool:
    """Tell whether the last of five blocks agree and show no trend."""
    if len(blocks) < 5:
        return False
    lows, medians, highs = (
        np.array([np.quantile(block, part) for block in blocks[-5:]]) for part in (0.25, 0.5, 0.75)
    )

    def agree(values: npt.NDArray[np.float64], tolerance: float) -> bool:
        return bool(abs(values[-1] - values[-2]) <= tolerance * values[-2])

    steps = np.diff(medians)
    one_way = bool((steps > 0).all() or (steps < 0).all())
    trend = one_way and not abs(medians[-1] - medians[0]) <= 0.01 * medians[0]
    return agree(medians, 0.01) and agree(lows, 0.05) and agree(highs, 0.05) and not trend
