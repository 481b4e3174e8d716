"""`bench`: measure subjects by a protocol, and say what was found and how sure it is."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bench import conditions, statistics
from edgekit.bench.comparison import noise_floor, paired_ratio
from edgekit.bench.energy import measure_energy, open_meter
from edgekit.bench.fingerprint import fingerprint
from edgekit.bench.measure import (
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
from edgekit.bench.result import (
    BenchResult,
    Comparison,
    Energy,
    Figure,
    Raw,
    SubjectResult,
    Verdict,
)
from edgekit.errors import UnavailableError, UsageError

LEAST_DIFFERENCE = 0.03
LEAST_FOR_MEDIAN = 12


def bench(
    subjects: Sequence[Subject],
    protocol: Protocol | None = None,
    *,
    baseline: str | None = None,
    say: Say | None = None,
    meters: Sequence[str | Meter] = (),
    clock: Clock | None = None,
    opener: Opener = open_runtime,
    stop: Callable[[], bool] | None = None,  # noqa: ARG001 - asked between blocks, from the next change on
) -> BenchResult:
    """Measure models on this machine: latency always, energy where there is a meter.

    All subjects are loaded together and timed in interleaved blocks, so that a comparison sees the
    same machine on both sides.

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
        The result. On Ctrl-C nothing is returned: KeyboardInterrupt goes on to the caller.

    Raises:
        UsageError: a model cannot be loaded, feeds do not fit, a name is unknown or used twice.
        UnavailableError: a runtime, its driver or its device is missing.
    """
    protocol = protocol or Protocol.full()
    clock, say = clock or SystemClock(), say or _silent
    _check_names(subjects, baseline)
    before = conditions.snapshot()
    with all_loaded(subjects, clock, opener) as loaded:
        warm_all(loaded, protocol, clock, say)
        loads = measure_rounds(loaded, protocol, clock, say)
        after = conditions.snapshot()
        energies = _energies(loaded, meters, protocol, clock, say)
        say(0.97, "statistics")
        results = tuple(
            summarize(each, protocol, energy) for each, energy in zip(loaded, energies, strict=True)
        )
        comparisons, floor = compare(loaded, loads, baseline, protocol)
    say(1.0, "done")
    return BenchResult(
        device=fingerprint(),
        conditions={"before": before, "after": after, "threads": conditions.threads()},
        protocol={**dataclasses.asdict(protocol), "quick": protocol.form == "quick"},
        subjects=results,
        baseline=baseline,
        comparisons=comparisons,
        aa_floor=floor,
        peak_rss_bytes=conditions.peak_rss_bytes(),
        warnings=_warnings(results, before, after),
        raw={each.subject.name: _raw(each) for each in loaded},
    )


def summarize(loaded: Loaded, protocol: Protocol, energy: Energy) -> SubjectResult:
    """Turn timed blocks into figures."""
    samples = np.concatenate(loaded.blocks) / 1e6
    ranks = statistics.ranks(samples)
    tau = statistics.correlation_time(ranks)
    moved = statistics.drift(samples)
    mild, extreme = statistics.outliers(samples)
    return SubjectResult(
        name=loaded.subject.name,
        runtime=loaded.subject.runtime,
        model=str(loaded.subject.model),
        options=dict(loaded.runtime.options),
        load_ms=loaded.load_ms,
        first_ms=loaded.first_ms,
        p50_ms=_median_figure(samples, tau, moved.flag, protocol),
        p90_ms=_tail_figure(samples, 0.90, moved.flag, protocol),
        p99_ms=_tail_figure(samples, 0.99, moved.flag, protocol),
        mean_ms=float(samples.mean()),
        min_ms=float(samples.min()),
        n=len(samples),
        ess=len(samples) / tau,
        lag1=statistics.lag1(ranks),
        drift=moved.flag,
        drift_change=moved.change,
        steady=loaded.warm.steady,
        warmup_runs=loaded.warm.runs,
        warmup_s=loaded.warm.seconds,
        throttle_ratio=statistics.throttle_ratio(samples),
        outliers={"mild": mild, "extreme": extreme},
        rss_bytes=loaded.rss_bytes,
        energy=energy,
        inputs={name: _described(array) for name, array in loaded.subject.feeds.items()},
        block_medians_ms=tuple(round(float(np.median(b)) / 1e6, 7) for b in loaded.blocks),
    )


def compare(
    loaded: Sequence[Loaded],
    loads: npt.NDArray[np.int32],
    baseline: str | None,
    protocol: Protocol,
) -> tuple[dict[str, Comparison], Figure]:
    """Compare every other subject with the baseline, round by round."""
    if baseline is None:
        return {}, Figure.unavailable("fraction", "No baseline was named.")
    base = next(each for each in loaded if each.subject.name == baseline)
    base_logs = base.log_medians()
    floor = noise_floor(base_logs, seed=protocol.seed)
    threshold = max(LEAST_DIFFERENCE, floor or 0.0)
    found = {}
    for each in loaded:
        if each is base:
            continue
        ratio, low, high = paired_ratio(base_logs - each.log_medians(), loads)
        found[each.subject.name] = Comparison(
            subject=each.subject.name,
            baseline=baseline,
            speedup=Figure(ratio, low, high, "x", "measured", _note(protocol)),
            verdict=verdict(ratio, low, high, threshold) if floor is not None else "inconclusive",
            threshold=threshold,
            rounds=len(base_logs),
            loads=int(loads[-1]) + 1,
        )
    if floor is None:
        return found, Figure.unavailable("fraction", "There were too few rounds.")
    return found, Figure(floor, None, None, "fraction", "measured", _note(protocol))


def verdict(ratio: float, low: float | None, high: float | None, threshold: float) -> Verdict:
    """Judge a speedup: real (the interval excludes 1) and large (beyond the threshold), or not."""
    if low is None or high is None or abs(math.log(ratio)) <= math.log1p(threshold):
        return "inconclusive"
    if low > 1:
        return "faster"
    return "slower" if high < 1 else "inconclusive"


def _median_figure(samples: Any, tau: float, drifting: bool, protocol: Protocol) -> Figure:
    value, note = float(np.median(samples)), _note(protocol)
    if drifting:
        return Figure(value, None, None, "ms", "measured", _join(note, "drift: no interval"))
    if len(samples) / tau < LEAST_FOR_MEDIAN:
        return Figure(value, None, None, "ms", "measured", _join(note, "too few runs: no interval"))
    low, high = statistics.median_interval(
        samples, seed=protocol.seed, resamples=protocol.resamples
    )
    return Figure(value, low, high, "ms", "measured", note)


def _tail_figure(samples: Any, quantile: float, drifting: bool, protocol: Protocol) -> Figure:
    found = statistics.tail(samples, quantile)
    if found.value is None:
        return Figure.unavailable(
            "ms",
            f"not estimable: {math.floor(found.effective_n)} effective runs of"
            f" {found.needed_n} needed",
        )
    if drifting:
        note = _join(_note(protocol), "drift: no bound")
        return Figure(found.value, None, None, "ms", "measured", note)
    note = _join(_note(protocol), "high is the one-sided 95 % bound")
    return Figure(found.value, None, found.upper, "ms", "measured", note)


def _described(array: Any) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _note(protocol: Protocol) -> str:
    return "quick" if protocol.form == "quick" else ""


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _raw(loaded: Loaded) -> Raw:
    rounds = np.repeat(np.arange(len(loaded.blocks)), [len(block) for block in loaded.blocks])
    return Raw(np.concatenate(loaded.blocks), rounds.astype(np.int32))


def _energies(
    loaded: Sequence[Loaded],
    meters: Sequence[str | Meter],
    protocol: Protocol,
    clock: Clock,
    say: Say,
) -> list[Energy]:
    meter, reason = open_meter(meters)
    if meter is None:
        return [Energy.unavailable(reason)] * len(loaded)
    loads = [(each.subject.name, each.run) for each in loaded]
    try:
        with meter:
            return measure_energy(meter, loads, protocol, clock, say)
    except UnavailableError as e:
        return [Energy.unavailable(e.message)] * len(loaded)


def _warnings(
    results: Sequence[SubjectResult], before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[str, ...]:
    found = []
    for each in results:
        if not each.steady:
            found.append(f"{each.name}: the latency was not steady when warm-up ended.")
        if each.drift:
            found.append(f"{each.name}: drift of {each.drift_change:+.1%} during the run.")
        if each.throttle_ratio > 1.05:
            found.append(f"{each.name}: slowed down by {each.throttle_ratio - 1:.0%}.")
    stolen = after.get("stolen_s", 0.0) - before.get("stolen_s", 0.0)
    if stolen > 0.1:
        found.append(f"The hypervisor gave {stolen:.1f} s of this machine's time to others.")
    return tuple(found)


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
