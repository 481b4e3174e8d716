"""What the guard found out about one model, and how a comparison is held against the gate."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PARENT, CHILD = "parent", "quantized"

Decision = Literal["faster", "not slower", "within", "slower", "undecided"]


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
        passed: shown to be no slower than the gate allows, or not measured.
        said: one clause for people.
        verdict: what the comparison says of the gate; None where there was none.
        speedup: the parent's median by the model's.
        low: of its 95 % interval.
        high: of it.
        p50_ms: the model's median, milliseconds.
        parent_p50_ms: the parent's.
    """

    label: Literal["measured", "unavailable"]
    passed: bool
    said: str
    verdict: Decision | None = None
    speedup: float | None = None
    low: float | None = None
    high: float | None = None
    p50_ms: float | None = None
    parent_p50_ms: float | None = None


def held(
    speedup: Any, verdict: str, allowed: float, medians: Mapping[str, float | None]
) -> Latency:
    """Hold a comparison: a model passes where the whole interval is within what is allowed.

    What could not be told from a slow-down does not pass: float32 is there, and is known. Whoever
    wants the smaller file although it may be slower allows more with `slowdown`.

    Args:
        speedup: the figure, with `value`, `low` and `high`.
        verdict: `faster`, `slower` or `inconclusive`.
        allowed: largest slow-down, as a fraction.
        medians: of parent and child, milliseconds.
    """
    ratio = speedup.value
    found = decided(speedup, verdict, allowed)
    interval = "" if speedup.low is None else f" [{speedup.low:.2f}, {speedup.high:.2f}]"
    figure = "no figure" if ratio is None else f"{ratio:.2f}x{interval}"
    words = {
        "faster": "faster",
        "slower": "slower",
        "within": "slower, within the gate",
        "not slower": "not slower",
        "undecided": "undecided, may be slower",
    }
    return Latency(
        label="measured",
        passed=found not in {"slower", "undecided"},
        said=f"{words[found]}: {figure}",
        verdict=found,
        speedup=ratio,
        low=speedup.low,
        high=speedup.high,
        p50_ms=medians[CHILD],
        parent_p50_ms=medians[PARENT],
    )


def decided(speedup: Any, verdict: str, allowed: float) -> Decision:
    """What a comparison says of the gate.

    Args:
        speedup: the figure, with `value` and the ends of its 95 % interval, `low` and `high`.
        verdict: `faster`, `slower` or `inconclusive`.
        allowed: largest slow-down, as a fraction.

    Returns:
        `faster`; `not slower`: equal speed lies within the interval, and even its worst end is no
        slower than allowed, or than the least difference that a benchmark calls one (3 %);
        `slower`, beyond the gate, be it by little; `within` it; else `undecided`.
    """
    from edgekit.bench.api import LEAST_DIFFERENCE

    ratio, low, high = speedup.value, speedup.low, speedup.high
    if ratio is None:
        return "undecided"
    if verdict == "faster":
        return "faster"
    if verdict == "slower" or (high is not None and high < 1):
        return "slower" if 1 / ratio - 1 > allowed else "within"
    if low is not None and low > 0 and 1 / low - 1 <= max(allowed, LEAST_DIFFERENCE):
        return "not slower"
    return "undecided"


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
