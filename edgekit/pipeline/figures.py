"""Turn what the benchmark and the metrics say into the report's figures."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.report.schema import Figure

_PERCENTILES = {"latency_p50_ms": "p50_ms", "latency_p90_ms": "p90_ms", "latency_p99_ms": "p99_ms"}
FRACTIONS = frozenset({"accuracy", "balanced-accuracy", "macro-f1", "roc-auc", "miou"})


def figure(plain: Mapping[str, Any]) -> Figure:
    """One figure of the benchmark's JSON."""
    return Figure(
        value=plain["value"],
        low=plain["low"],
        high=plain["high"],
        unit=str(plain["unit"]).lower(),
        label=plain["label"],
        note=plain["note"],
    )


def latency_fields(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The latency, speed-up and energy of each subject, as fields of a step's report."""
    found: dict[str, dict[str, Any]] = {}
    for subject in result["subjects"]:
        name = subject["name"]
        fields: dict[str, Any] = {
            ours: figure(subject[theirs]) for ours, theirs in _PERCENTILES.items()
        }
        fields["energy_j"] = figure(subject["energy"]["energy_j"])
        comparison = result["comparisons"].get(name)
        if comparison is not None:
            fields["speedup"] = figure(comparison["speedup"])
        elif name == result["baseline"]:
            fields["speedup"] = Figure.unavailable("x", "The others are compared with this one.")
        found[name] = fields
    return found


def metric_unit(metric: str) -> str:
    """The unit of a metric: a fraction where it lies between 0 and 1, dB for PSNR."""
    if metric in FRACTIONS:
        return "fraction"
    return "dB" if metric == "psnr" else ""


def interval_figure(evaluation: Mapping[str, Any] | None, reason: str) -> Figure:
    """A metric with its interval, or why there is none."""
    if evaluation is None:
        return Figure.unavailable("", reason)
    return Figure(
        value=evaluation["value"],
        low=evaluation["low"],
        high=evaluation["high"],
        unit=metric_unit(str(evaluation["metric"])),
    )
