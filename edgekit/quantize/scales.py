"""Giving the activation pairs of a quantized graph other ranges than the engine found."""

from typing import TYPE_CHECKING

from edgekit.quantize import dialect
from edgekit.quantize.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgekit.quantize.ranges import Limits


def quantized_tensors(graph: Graph, known: set[str]) -> tuple[str, ...]:
    """Names of the tensors that a pair quantizes, each once.

    Args:
        graph: quantized.
        known: tensors that count: those of the float model.
    """
    names = [n.input[0] for n in graph.activation_quantizers() if n.input[0] in known]
    return tuple(dict.fromkeys(names))


def set_ranges(graph: Graph, limits: "Mapping[str, Limits]", *, symmetric: bool) -> int:
    """Give each pair the scale and zero point of its tensor's range, in place.

    Inputs of one Concat keep one scale: they get the union of their ranges.

    Args:
        graph: quantized per tensor.
        limits: lowest and highest value by tensor.
        symmetric: zero points are 0.

    Returns:
        How many pairs changed.
    """
    joint = _joined(graph, dict(limits))
    count = 0
    for quantize in graph.activation_quantizers():
        levels = graph.levels(quantize)
        if quantize.input[0] not in joint or levels is None or levels[1].size != 1:
            continue
        low, high = joint[quantize.input[0]]
        dtype = str(levels[1].dtype)
        graph.set_levels(quantize, *dialect.parameters(low, high, dtype, symmetric=symmetric))
        count += 1
    graph.edit()
    return count


def _joined(graph: Graph, limits: "dict[str, Limits]") -> "dict[str, Limits]":
    for node in graph.nodes:
        if node.op_type != "Concat":
            continue
        members = [m for m in map(graph.source, node.input) if m in limits]
        if len(members) > 1:
            low = min(limits[m][0] for m in members)
            high = max(limits[m][1] for m in members)
            limits.update(dict.fromkeys(members, (low, high)))
    return limits
