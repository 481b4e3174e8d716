"""Figures out of what was timed, and what a reader must be told about them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.bench import shares, statistics, throttle, trend
from edgekit.bench.load import SPIN_NS
from edgekit.bench.measure import Loaded
from edgekit.bench.protocol import Protocol
from edgekit.bench.result import Deadline, Energy, Figure, SubjectResult
from edgekit.bench.statistics import Floats
from edgekit.bench.tally import Tally

LEAST_FOR_MEDIAN = 12
SLOWED = 1.05
TIMER_LATE_US = 1000.0


def summarize(loaded: Loaded, protocol: Protocol, energy: Energy, throttled: bool) -> SubjectResult:
    """Turn what was timed into figures.

    Args:
        loaded: the subject, with at least one round timed.
        protocol: the rules it was timed by.
        energy: what was measured of its joules.
        throttled: the device slowed itself down meanwhile.
    """
    tally = loaded.tally
    samples = tally.ns / 1e6
    ranks = statistics.ranks(samples)
    tau = statistics.correlation_time(ranks)
    moved = trend.drift(samples)
    mild, extreme = statistics.outliers(samples)
    ratio = statistics.throttle_ratio(samples)
    return SubjectResult(
        name=loaded.subject.name,
        runtime=loaded.subject.runtime,
        model=str(loaded.subject.model),
        options=dict(loaded.runtime.options),
        load_ms=loaded.load_ms,
        first_ms=loaded.first_ms,
        p50_ms=median_figure(samples, tau, moved.flag, protocol),
        p90_ms=tail_figure(samples, 0.90, moved.flag, protocol),
        p99_ms=tail_figure(samples, 0.99, moved.flag, protocol),
        mean_ms=tally.total_ns / tally.n / 1e6,
        min_ms=tally.min_ns / 1e6,
        n=tally.n,
        ess=len(samples) / tau,
        lag1=statistics.lag1(ranks),
        drift=moved.flag,
        drift_change=moved.change,
        steady=loaded.warm.steady,
        warmup_runs=loaded.warm.runs,
        warmup_s=loaded.warm.seconds,
        throttle_ratio=ratio,
        outliers={"mild": mild * tally.stride, "extreme": extreme * tally.stride},
        rss_bytes=loaded.rss_bytes,
        energy=energy,
        throughput=_throughput(loaded, protocol),
        deadline=_deadline(tally, protocol),
        overloaded=_overloaded(tally),
        peak_bytes=loaded.peak_bytes,
        series=tuple(loaded.series),
        inputs={name: _described(array) for name, array in loaded.subject.feeds.items()},
        block_medians_ms=tuple(round(each / 1e6, 7) for each in tally.medians_ns),
        throttled=throttled or (bool(loaded.series) and ratio > SLOWED),
        timing=_timing(tally, protocol),
    )


def why_throttled(before: Mapping[str, Any], later: Sequence[Mapping[str, Any]]) -> str:
    """Say how the device slowed itself down, by its flags or its frequency; empty: it did not.

    Args:
        before: the conditions (`conditions.snapshot`) at the start.
        later: those afterwards, at least one.
    """
    found = [throttle.reason(before, later)]
    ratio = throttle.frequency_ratio([before, *later])
    if ratio is not None and ratio < throttle.LEAST_FREQUENCY:
        found.append(f"the CPU's clock fell by {1 - ratio:.0%}")
    return ", ".join(text for text in found if text)


def warnings(
    results: Sequence[SubjectResult],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    throttled: str,
) -> tuple[str, ...]:
    """What a reader of the figures should know, one sentence each."""
    found = []
    for each in results:
        if not each.steady:
            found.append(f"{each.name}: the latency was not steady when warm-up ended.")
        if each.drift:
            found.append(f"{each.name}: drift of {each.drift_change:+.1%} during the run.")
        if each.throttle_ratio > SLOWED:
            found.append(f"{each.name}: slowed down by {each.throttle_ratio - 1:.0%}.")
        if each.overloaded:
            found.append(f"{each.name}: overloaded; it cannot keep up with the rate asked for.")
        late = each.timing.get("timer_late_us", {}).get("p99", 0.0)
        if late > TIMER_LATE_US:
            found.append(
                f"{each.name}: this machine woke up {late / 1e3:.1f} ms late (p99), which is in the"
                " latencies."
            )
        if (chosen := _half_by_choice(each)) is not None:
            found.append(
                f"{each.name}: {each.runtime} chose to compute in {chosen} here; for float32"
                " give --set precision=f32."
            )
    if throttled:
        found.append(f"The device slowed itself down: {throttled}.")
    stolen = after.get("stolen_s", 0.0) - before.get("stolen_s", 0.0)
    if stolen > 0.1:
        found.append(f"The hypervisor gave {stolen:.1f} s of this machine's time to others.")
    return tuple(found)


def _half_by_choice(each: SubjectResult) -> str | None:
    """The half precision that OpenVINO took where none was asked for."""
    if each.options.get("precision") is not None:
        return None
    chosen = each.options.get("properties", {}).get("INFERENCE_PRECISION_HINT")
    return chosen if chosen in {"bf16", "f16"} else None


def note(protocol: Protocol) -> str:
    """What every figure of a run carries."""
    return "quick" if protocol.form == "quick" else ""


def median_figure(samples: Floats, tau: float, drifting: bool, protocol: Protocol) -> Figure:
    """Return the median with its interval; none under drift, or of too few effective runs.

    Args:
        samples: shape (n,), milliseconds in the order of measurement.
        tau: correlation time of their ranks.
        drifting: they moved steadily in one direction.
        protocol: the rules they were timed by.
    """
    value, said = float(np.median(samples)), note(protocol)
    if drifting:
        return Figure(value, None, None, "ms", "measured", _join(said, "drift: no interval"))
    if len(samples) / tau < LEAST_FOR_MEDIAN:
        return Figure(value, None, None, "ms", "measured", _join(said, "too few runs: no interval"))
    low, high = statistics.median_interval(
        samples, seed=protocol.seed, resamples=protocol.resamples
    )
    return Figure(value, low, high, "ms", "measured", said)


def tail_figure(samples: Floats, quantile: float, drifting: bool, protocol: Protocol) -> Figure:
    """Return a quantile with its upper bound; none under drift, no value where not estimable.

    Args:
        samples: shape (n,), milliseconds in the order of measurement.
        quantile: in (0, 1).
        drifting: they moved steadily in one direction.
        protocol: the rules they were timed by.
    """
    found = statistics.tail(samples, quantile)
    if found.value is None:
        return Figure.unavailable(
            "ms",
            f"not estimable: {math.floor(found.effective_n)} effective runs of"
            f" {found.needed_n} needed",
        )
    if drifting:
        said = _join(note(protocol), "drift: no bound")
        return Figure(found.value, None, None, "ms", "measured", said)
    said = _join(note(protocol), "high is the one-sided 95 % bound")
    return Figure(found.value, None, found.upper, "ms", "measured", said)


def _throughput(loaded: Loaded, protocol: Protocol) -> Figure:
    batch = _batch(loaded)
    rate, low, high = shares.rate_interval(
        np.array(loaded.tally.counts, dtype=np.float64) * batch,
        np.array(loaded.tally.spans, dtype=np.float64),
    )
    said = _join(
        note(protocol),
        f"{batch} samples an inference" if batch > 1 else "",
        "too few rounds: no interval" if low is None else "",
    )
    return Figure(rate, low, high, "1/s", "measured", said)


def _batch(loaded: Loaded) -> int:
    """Samples of one inference: the size of the dynamic first dimension that all inputs share."""
    firsts = {spec.shape[0] if spec.shape else None for spec in loaded.runtime.inputs}
    if len(firsts) != 1 or not isinstance(next(iter(firsts)), str):
        return 1
    sizes = {array.shape[0] for array in loaded.subject.feeds.values() if array.ndim}
    return int(next(iter(sizes))) if len(sizes) == 1 else 1


def _deadline(tally: Tally, protocol: Protocol) -> Deadline | None:
    deadline = protocol.mode.deadline
    if deadline is None:
        return None
    missed = (tally.ns > deadline * 1e6).astype(np.float64)
    effective = tally.asked / statistics.correlation_time(missed)
    share = tally.misses / tally.asked
    low, high = shares.share_interval(share * effective, effective)
    figure = Figure(share, low, high, "fraction", "measured", note(protocol))
    return Deadline(deadline_ms=deadline, misses=tally.misses, n=tally.asked, share=figure)


def _overloaded(tally: Tally) -> bool:
    """Requests were left unserved, or took longer to serve than they took to come."""
    return tally.asked > tally.n or (tally.offered_ns > 0 and tally.busy_ns >= tally.offered_ns)


def _timing(tally: Tally, protocol: Protocol) -> dict[str, Any]:
    if not protocol.mode.scheduled:
        return {}
    found: dict[str, Any] = {
        "utilisation": round(tally.busy_ns / tally.offered_ns, 4) if tally.offered_ns else None,
        "sleep": "time.sleep",
        "spin_us": SPIN_NS / 1e3 if protocol.mode.streams == 1 else 0.0,
    }
    late = tally.late.values(np.float64) / 1e3
    if len(late):
        found["timer_late_us"] = {
            "p50": round(float(np.median(late)), 1),
            "p99": round(float(np.quantile(late, 0.99)), 1),
            "max": round(float(late.max()), 1),
        }
    return found


def _described(array: Any) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _join(*notes: str) -> str:
    return "; ".join(each for each in notes if each)
