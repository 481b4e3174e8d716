"""Giving the activation pairs of a quantized graph other ranges than the engine found."""

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgekit.quantize import dialect
from edgekit.quantize.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

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
        zero = graph.array(quantize.input[2])
        if quantize.input[0] not in joint or zero is None or zero.size != 1:
            continue
        low, high = joint[quantize.input[0]]
        set_pair(
            graph, quantize, *dialect.parameters(low, high, str(zero.dtype), symmetric=symmetric)
        )
        count += 1
    graph.edit()
    return count


def set_pair(
    graph: Graph, quantize: "onnx.NodeProto", scale: NDArray[Any], zero: NDArray[Any]
) -> None:
    """Give a Q/DQ pair a scale and a zero point in initializers of its own."""
    s = graph.set_array(graph.unique(f"{quantize.input[0]}/scale"), scale)
    z = graph.set_array(graph.unique(f"{quantize.input[0]}/zero"), zero)
    for node in (quantize, *graph.readers(quantize.output[0])):
        node.input[1], node.input[2] = s, z


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
