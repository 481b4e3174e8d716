"""Each layer's sensitivity and cost, and the choice of {float32, int8} for each within a budget.

The noises of single layers nearly add up, so their sum is what the knapsack makes small. What a
model costs beside its layers is taken from the model that is in int8 whole. A prediction of
milliseconds is held against a measurement; where it was too bright, the budget is made tighter.

Half precision and weights of 4 bits would be further options of a layer (`knapsack.Option`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError, UnavailableError, UsageError
from edgekit.quantize import costs, sensitivity
from edgekit.quantize.attempts import artifact_of, excluding
from edgekit.quantize.config import Budget
from edgekit.quantize.knapsack import Option, solve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgekit.quantize.attempts import Attempt, Kind
    from edgekit.quantize.ladder import Ladder

_TRIES = 4


@dataclass(frozen=True)
class LayerRow:
    """What one layer's quantization costs and saves.

    Attributes:
        node: the node's name.
        layer: the user's name for it.
        op: the operator.
        sqnr_db: of the outputs with this layer alone in int8, decibels; None where they stay equal.
        noise: noise power by signal power of the same.
        float_bytes: of its weights in float32.
        int8_bytes: of its weights in int8, with their scales.
        float_ms: its time in the float32 model; None where it is not measured.
        int8_ms: its time in the int8 model.
        float_j: estimated joules in float32; None where the target publishes no rates.
        int8_j: in int8.
        drop: of the task's metric with this layer alone in int8; None where it was not asked for.
        fisher: what the rounding of its weights adds to the loss, by the empirical Fisher matrix;
            None where it was not asked for, or the module has no such weight.
    """

    node: str
    layer: str
    op: str
    sqnr_db: float | None
    noise: float
    float_bytes: int
    int8_bytes: int
    float_ms: float | None = None
    int8_ms: float | None = None
    float_j: float | None = None
    int8_j: float | None = None
    drop: float | None = None
    fisher: float | None = None


def analyse(ladder: "Ladder", start: "Attempt", *, metric: bool = False) -> list[LayerRow]:
    """Sensitivity and costs of each layer of a model that is in int8 whole.

    Args:
        ladder: that made it.
        start: the model, with its latency where it can be measured.
        metric: judge each layer by the task's metric too, on all samples of the guard's split.

    Returns:
        In topological order.

    Raises:
        UsageError: the metric is asked for, and there are no labels.
    """
    from edgekit.graph.onnx_names import layer_names

    source, partial = ladder.source_of(start), ladder.partial(start)
    noise = sensitivity.Noise(source, ladder.ranked_on())
    found = sensitivity.alone(partial, noise, ladder.progress)
    drops = _drops(ladder, partial) if metric else {}
    called, ops = layer_names(source), {n.name: n.op_type for n in source.graph.node}
    sizes = sensitivity.weight_bytes(source, found)
    floats, integers = _times(ladder, start, list(found))
    joules = _joules(ladder, list(found), sizes)
    return [
        LayerRow(
            node=name,
            layer=called.get(name, name),
            op=ops[name],
            sqnr_db=sensitivity.decibels(ratio),
            noise=ratio,
            float_bytes=sizes[name][0],
            int8_bytes=sizes[name][1],
            float_ms=floats.get(name),
            int8_ms=integers.get(name),
            float_j=joules[name][0] if name in joules else None,
            int8_j=joules[name][1] if name in joules else None,
            drop=drops.get(name),
        )
        for name, ratio in found.items()
    ]


def _drops(ladder: "Ladder", partial: sensitivity.Partial) -> dict[str, float]:
    from edgekit.graph.onnx_model import write_onnx

    path = ladder.folder / "alone" / "model.onnx"
    path.parent.mkdir()

    def drop(name: str) -> float:
        write_onnx(partial.quantized([name]), path)
        found = ladder.judge.accuracy(artifact_of(path), {}).drop
        if found is None:
            raise UsageError(
                "The task's metric cannot rank the layers: the data has no targets for it.",
                "Give data with targets and --task, or rank by SQNR (--by sqnr).",
            )
        return found

    return sensitivity.each(partial.layers, drop, ladder.progress)


def _times(
    ladder: "Ladder", start: "Attempt", names: list[str]
) -> tuple[dict[str, float], dict[str, float]]:
    latency = start.latency
    if latency is None or latency.label == "unavailable":
        return {}, {}
    judge = ladder.judge
    try:
        return (
            judge.layer_ms(ladder.float_file, names, latency.parent_p50_ms),
            judge.layer_ms(start.path, names, latency.p50_ms),
        )
    except EdgekitError:
        return {}, {}


def _joules(
    ladder: "Ladder", names: list[str], sizes: "Mapping[str, tuple[int, int]]"
) -> costs.Costs:
    place = ladder.judge.place
    if place is None or place.energy is None:
        return {}
    shapes = {name: tuple(value.shape) for name, value in ladder.judge.feeds.items()}
    return costs.layer_joules(ladder.reference, names, sizes, shapes, place.energy)


def options(rows: "Sequence[LayerRow]", unit: str) -> list[list[Option]]:
    """What each layer may be, at which cost.

    Args:
        rows: from `analyse`.
        unit: a budget's name.

    Raises:
        UnavailableError: the costs in that unit are not known.
    """
    found = []
    for row in rows:
        pairs = {
            "size_bytes": (row.float_bytes, row.int8_bytes),
            "latency_ms": (row.float_ms, row.int8_ms),
            "energy_j": (row.float_j, row.int8_j),
        }
        floats, integers = pairs[unit]
        if floats is None or integers is None:
            raise UnavailableError(
                f"The layers' {unit} is not known here.",
                "Measure on the target, or take a budget in bytes.",
            )
        found.append([Option("float32", floats, 0.0), Option("int8", integers, row.noise)])
    return found


def within(ladder: "Ladder", kind: "Kind", budget: Budget, *, guarded: bool) -> "Attempt":
    """The model with the least noise that keeps a budget.

    Args:
        ladder: where to make it.
        kind: how to quantize.
        budget: for the whole model.
        guarded: it must hold the guard's gate as well.

    Raises:
        GateError: not even int8 throughout keeps the budget, or what does breaks the gate.
        UnavailableError: the costs are not known here.
    """
    ((unit, limit),) = budget.given().items()
    start = ladder.attempt("int8 throughout", kind, ladder.config, timed=True)
    if start.report is None:
        raise ladder.failed()
    rows = analyse(ladder, start)
    choices = options(rows, unit)
    fixed = _cost(start, rows, unit) - sum(each[1].cost for each in choices)
    tight = limit
    for _ in range(_TRIES):
        chosen = solve(choices, tight - fixed)
        if chosen is None:
            break
        out = [r.node for r, i in zip(rows, chosen.options, strict=True) if i == 0]
        found = start
        if out:
            rung = f"{len(out)} layers in float32 within {unit} {limit:g}"
            found = ladder.attempt(
                rung, kind, excluding(ladder.config, out), timed=True, earlier=start
            )
        made = chosen.cost + fixed if unit == "energy_j" else _cost(found, rows, unit)
        if made <= limit and found.report is not None:
            if guarded and not found.passed:
                break
            return found
        tight *= limit / made
    raise ladder.failed(f"No mix of float32 and int8 keeps {unit} {limit:g} and the gate.")


def _cost(attempt: "Attempt", rows: "Sequence[LayerRow]", unit: str) -> float:
    """What a model costs as a whole, in the budget's unit."""
    if unit == "size_bytes" and attempt.report is not None:
        return attempt.report.size_bytes
    if unit == "latency_ms":
        if attempt.latency is None or attempt.latency.p50_ms is None:
            raise UnavailableError(
                "Latency cannot be measured here: a budget in milliseconds cannot be held.",
                "Quantize on the target, or take a budget in bytes.",
            )
        return attempt.latency.p50_ms
    return sum(row.int8_j or 0.0 for row in rows)
