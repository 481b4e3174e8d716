"""What the guard found out about one model, and how a comparison is held against the gate."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PARENT, CHILD = "parent", "quantized"


@dataclass(frozen=True)
class Accuracy:
    """What a model lost.

    Attributes:
        by: what it was judged by.
        loss: what the gate holds; the smaller the better, in the unit of `by`.
        passed: within the gate.
        said: one clause for people.
        value: the metric, the agreement, or the SQNR in decibels; None where it is not finite.
        drop: of the metric, positive where worse; None where judged otherwise.
        low: of the drop's 95 % interval.
        high: of it.
        agreement: share of samples with the parent's answer, None without classes.
        sqnr_db: of the worst output, None where equal or not known.
    """

    by: Literal["metric", "agreement", "sqnr"]
    loss: float
    passed: bool
    said: str
    value: float | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None


@dataclass(frozen=True)
class Latency:
    """How fast a model is against its parent.

    Attributes:
        label: `measured`, or `unavailable` with the reason in `said`.
        passed: not slower than the gate allows, as far as was measured.
        said: one clause for people.
        speedup: the parent's median by the model's.
        low: of its 95 % interval.
        high: of it.
        p50_ms: the model's median, milliseconds.
        parent_p50_ms: the parent's.
    """

    label: Literal["measured", "unavailable"]
    passed: bool
    said: str
    speedup: float | None = None
    low: float | None = None
    high: float | None = None
    p50_ms: float | None = None
    parent_p50_ms: float | None = None


def held(
    speedup: Any, verdict: str, allowed: float, medians: Mapping[str, float | None]
) -> Latency:
    """Hold a comparison: what was seen to be slower fails, and what could not be told from it.

    Args:
        speedup: the figure, with `value`, `low` and `high`.
        verdict: `faster`, `slower` or `inconclusive`.
        allowed: largest slow-down, as a fraction.
        medians: of parent and child, milliseconds.
    """
    ratio = speedup.value
    seen = verdict == "slower" and ratio is not None and 1 / ratio - 1 > allowed
    slower = seen or undecided(verdict, ratio, allowed)
    interval = "" if speedup.low is None else f" [{speedup.low:.2f}, {speedup.high:.2f}]"
    return Latency(
        label="measured",
        passed=not slower,
        said=f"{verdict}: {ratio:.2f}x{interval}" if ratio is not None else "no figure",
        speedup=ratio,
        low=speedup.low,
        high=speedup.high,
        p50_ms=medians[CHILD],
        parent_p50_ms=medians[PARENT],
    )


def undecided(verdict: str, ratio: float | None, allowed: float) -> bool:
    """Whether a model looks slower than allowed, in a run too noisy to say so."""
    from edgekit.bench.api import LEAST_DIFFERENCE

    looks = ratio is not None and 1 / ratio - 1 > max(allowed, LEAST_DIFFERENCE)
    return verdict == "inconclusive" and looks


def structure(path: Path) -> str:
    """What decides a file's latency: its nodes and the shapes of its tensors, not their values."""
    import hashlib

    from edgekit.graph.onnx_model import read_onnx

    model = read_onnx(path)
    total = hashlib.sha256()
    for node in model.graph.node:
        total.update(f"{node.op_type} {list(node.input)} {list(node.output)}".encode())
    for held in sorted(model.graph.initializer, key=lambda i: i.name):
        total.update(f"{held.name} {held.data_type} {list(held.dims)}".encode())
    return total.hexdigest()
