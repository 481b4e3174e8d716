"""`bench`: measure subjects by a protocol, and say what was found and how sure it is."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bench import conditions, statistics
from edgekit.bench.comparison import noise_floor, paired_ratio
from edgekit.bench.energy import measure_energy, open_meter
from edgekit.bench.events import device_ms
from edgekit.bench.fingerprint import fingerprint
from edgekit.bench.highwater import HighWater
from edgekit.bench.load import load_of
from edgekit.bench.measure import (
    Check,
    Loaded,
    Opener,
    Say,
    Subject,
    all_loaded,
    measure_rounds,
    open_runtime,
    warm_all,
)
from edgekit.bench.meters import Meter
from edgekit.bench.protocol import Clock, Protocol, SystemClock
from edgekit.bench.result import BenchResult, Comparison, Energy, Figure, Raw, Verdict
from edgekit.bench.summary import note, summarize, warnings, why_throttled
from edgekit.bench.sustain import measure_sustained
from edgekit.errors import UnavailableError, UsageError

LEAST_DIFFERENCE = 0.03
STOPPED = "The run was stopped: what is here is of whole rounds, and no verdict is drawn from it."


def bench(
    subjects: Sequence[Subject],
    protocol: Protocol | None = None,
    *,
    baseline: str | None = None,
    say: Say | None = None,
    meters: Sequence[str | Meter] = (),
    clock: Clock | None = None,
    opener: Opener = open_runtime,
    stop: Callable[[], object] | None = None,
) -> BenchResult:
    """Measure models on this machine: latency always, energy where there is a meter.

    All subjects are loaded together and timed in interleaved blocks, so that a comparison sees the
    same machine on both sides. A sustained run takes one after the other instead.

    Args:
        subjects: what to measure; names are unique.
        protocol: the rules; `Protocol.full()` where None.
        baseline: name of the subject that the others are compared with.
        say: called with the fraction done and a short text.
        meters: names of meters to try, best first (`edgekit.bench.meters.METERS`), or meters.
        clock: time; a test gives its own.
        opener: makes a subject's runtime; a test gives its own.
        stop: asked between blocks; true ends the run as Ctrl-C does.

    Returns:
        The result. Once there is a whole round, Ctrl-C gives what was measured until then, with
        `complete` false and no verdict.

    Raises:
        UsageError: a model cannot be loaded, feeds do not fit, a name is unknown or used twice.
        UnavailableError: a runtime, its driver or its device is missing.
        KeyboardInterrupt: stopped before anything was measured.
    """
    protocol = protocol or Protocol.full()
    clock, say, check = clock or SystemClock(), say or _silent, _checker(stop)
    _check_names(subjects, baseline)
    high = HighWater()
    with (
        conditions.pinned(protocol.affinity),
        all_loaded(subjects, protocol, clock, opener, high) as loaded,
    ):
        before = conditions.snapshot()
        warm_all(loaded, protocol, clock, say, check)
        if protocol.sustained_s is None:
            rounds = measure_rounds(loaded, protocol, clock, say, check)
            loads, complete = rounds.loads, rounds.complete
        else:
            loads = None
            complete = measure_sustained(loaded, protocol, clock, say, check)
        after = conditions.snapshot()
        threads = conditions.threads()
        timed = [each for each in loaded if len(each.tally)]
        energies, whole = _energies(timed, meters, protocol, clock, say, check, skip=not complete)
        complete = complete and whole
        say(0.97, "statistics")
        later = [*(stretch.conditions for each in timed for stretch in each.series), after]
        throttled = why_throttled(before, later)
        results = tuple(
            dataclasses.replace(
                summarize(each, protocol, energy, bool(throttled)),
                device_ms=device_ms(each.runs[0], protocol, clock) if complete else {},
            )
            for each, energy in zip(timed, energies, strict=True)
        )
        comparisons, floor = compare(timed, loads, baseline, protocol, complete=complete)
    said = warnings(results, before, after, throttled)
    say(1.0, "done")
    return BenchResult(
        device=fingerprint(),
        conditions={"before": before, "after": after, "threads": threads},
        protocol={**dataclasses.asdict(protocol), "quick": protocol.form == "quick"},
        subjects=results,
        baseline=baseline,
        comparisons=comparisons,
        aa_floor=floor,
        peak_rss_bytes=high.process_bytes(),
        complete=complete,
        warnings=said if complete else (*said, STOPPED),
        raw={
            each.subject.name: Raw(each.tally.ns, each.tally.rounds, each.tally.stride)
            for each in timed
        },
    )


def compare(
    loaded: Sequence[Loaded],
    loads: npt.NDArray[np.int32] | None,
    baseline: str | None,
    protocol: Protocol,
    *,
    complete: bool = True,
) -> tuple[dict[str, Comparison], Figure]:
    """Compare every other subject with the baseline, round by round.

    Args:
        loaded: the subjects, timed.
        loads: shape (rounds,): the load of each round; None where there were no rounds.
        baseline: the baseline's name, None for no comparison.
        protocol: the rules they were timed by.
        complete: a run that was stopped has no verdict.
    """
    base = next((each for each in loaded if each.subject.name == baseline), None)
    if base is None:
        return {}, Figure.unavailable("fraction", "No baseline was named.")
    others = [each for each in loaded if each is not base]
    if loads is None:
        found = {each.subject.name: _one_after_the_other(base, each, protocol) for each in others}
        return found, Figure.unavailable("fraction", "The models ran one after the other.")
    base_logs = base.log_medians()
    floor = noise_floor(base_logs, seed=protocol.seed)
    threshold = max(LEAST_DIFFERENCE, floor or 0.0)
    found = {}
    for each in others:
        ratio, low, high = paired_ratio(base_logs - each.log_medians(), loads)
        judged = complete and floor is not None
        found[each.subject.name] = Comparison(
            subject=each.subject.name,
            baseline=base.subject.name,
            speedup=Figure(ratio, low, high, "x", "measured", note(protocol)),
            verdict=verdict(ratio, low, high, threshold) if judged else "inconclusive",
            threshold=threshold,
            rounds=len(base_logs),
            loads=int(loads[-1]) + 1,
        )
    if floor is None:
        return found, Figure.unavailable("fraction", "There were too few rounds.")
    return found, Figure(floor, None, None, "fraction", "measured", note(protocol))


def _one_after_the_other(base: Loaded, other: Loaded, protocol: Protocol) -> Comparison:
    """Ratio of what two sustained runs came to: the medians of their last fifths."""
    ends = [statistics.last_fifth(each.tally.ns / 1e6) for each in (base, other)]
    ratio = float(np.median(ends[0]) / np.median(ends[1]))
    said = "of the runs' last fifths; not interleaved: no interval, no verdict"
    said = f"{note(protocol)}; {said}" if note(protocol) else said
    return Comparison(
        subject=other.subject.name,
        baseline=base.subject.name,
        speedup=Figure(ratio, None, None, "x", "measured", said),
        verdict="inconclusive",
        threshold=LEAST_DIFFERENCE,
        rounds=0,
        loads=1,
    )


def verdict(ratio: float, low: float | None, high: float | None, threshold: float) -> Verdict:
    """Judge a speedup: real (the interval excludes 1) and large (beyond the threshold), or not."""
    if low is None or high is None or abs(math.log(ratio)) <= math.log1p(threshold):
        return "inconclusive"
    if low > 1:
        return "faster"
    return "slower" if high < 1 else "inconclusive"


def _energies(
    loaded: Sequence[Loaded],
    meters: Sequence[str | Meter],
    protocol: Protocol,
    clock: Clock,
    say: Say,
    check: Check,
    *,
    skip: bool,
) -> tuple[list[Energy], bool]:
    """Energy of each subject, and whether it was measured to its end."""

    def none(reason: str) -> list[Energy]:
        return [Energy.unavailable(reason)] * len(loaded)

    meter, reason = open_meter(meters)
    if meter is None:
        return none(reason), True
    if skip:
        return none("The run was stopped before energy was measured."), True
    if protocol.mode.streams > 1:
        return none("Energy is measured with one inference at a time: take one stream."), True

    def heard(fraction: float, text: str) -> None:
        check()
        say(fraction, text)

    loads = [(each.subject.name, load_of(each.run, protocol, clock)) for each in loaded]
    try:
        with meter:
            return measure_energy(meter, loads, protocol, clock, heard), True
    except UnavailableError as e:
        return none(e.message), True
    except KeyboardInterrupt:
        return none("The run was stopped while energy was measured."), False


def _checker(stop: Callable[[], object] | None) -> Check:
    def check() -> None:
        if stop is not None and stop():
            raise KeyboardInterrupt

    return check


def _check_names(subjects: Sequence[Subject], baseline: str | None) -> None:
    names = [each.name for each in subjects]
    if not names:
        raise UsageError("There is nothing to measure.", "Give at least one model.")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"Two subjects are called {name!r}.", "Give each its own name.")
    if baseline is not None and baseline not in names:
        raise UsageError(
            f"The baseline {baseline!r} is not among the subjects.",
            f"Subjects: {', '.join(names)}.",
        )


def _silent(fraction: float, text: str) -> None:
    del fraction, text


def model_inputs(model: Path, runtime: str = "onnxruntime") -> tuple[Any, ...]:
    """Load a model for a moment to learn its inputs (as `IoSpec`s), for `random_feeds`."""
    with open_runtime(Subject("", runtime, model, {})) as opened:
        return opened.inputs
