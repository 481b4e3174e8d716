"""What a network that was quantized before gives to one with fewer layers in int8.

A search that gives layers back to float32 would calibrate and round weights again for each attempt,
and find the same numbers: the range of a tensor and the rounding of a weight do not depend on other
layers. They are taken from the earlier model instead. Corrected biases are not: each makes up for
the layers before it too.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quantize.graph import Graph
from edgekit.quantize.placement import layers

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

Levels = dict[str, "tuple[NDArray[Any], NDArray[Any]]"]


def levels(earlier: Graph) -> Levels:
    """Scale and zero point of each activation that is quantized per tensor, by tensor name."""
    found: Levels = {}
    for quantize in earlier.activation_quantizers():
        held = earlier.levels(quantize)
        if held is not None and held[1].size == 1:
            found[quantize.input[0]] = held
    return found


def take_levels(graph: Graph, known: Levels) -> tuple[str, ...]:
    """Give activations the levels that are known, in place; the tensors whose are not."""
    left: list[str] = []
    for quantize in graph.activation_quantizers():
        held = graph.levels(quantize)
        other = known.get(quantize.input[0])
        if held is None or other is None or held[1].size != 1 or held[1].dtype != other[1].dtype:
            left.append(quantize.input[0])
            continue
        graph.set_levels(quantize, *other)
    graph.edit()
    return tuple(dict.fromkeys(left))


def take_weights(graph: Graph, earlier: Graph) -> int:
    """Give layers the integers of their weights in the earlier model, in place; how many differ."""
    before = {n.name: _integers(earlier, n) for n in layers(earlier)}
    count = 0
    for node in layers(graph):
        mine, other = _integers(graph, node), before.get(node.name)
        if mine is None or other is None or not _alike(graph, mine, earlier, other):
            continue
        held, wanted = graph.array(mine.input[0]), earlier.array(other.input[0])
        if held is None or wanted is None or np.array_equal(held, wanted):
            continue
        mine.input[0] = graph.set_array(graph.unique(f"{mine.input[0]}/taken"), wanted)
        count += 1
    graph.edit()
    return count


def _alike(graph: Graph, mine: "onnx.NodeProto", earlier: Graph, other: "onnx.NodeProto") -> bool:
    """Whether two weights mean the same by the same integers."""
    one, two = graph.array(mine.input[0]), earlier.array(other.input[0])
    first, second = graph.array(mine.input[1]), earlier.array(other.input[1])
    if one is None or two is None or first is None or second is None:
        return False
    return one.shape == two.shape and one.dtype == two.dtype and np.array_equal(first, second)


def _integers(graph: Graph, node: "onnx.NodeProto") -> "onnx.NodeProto | None":
    made = graph.producer(node.input[1])
    constant = made is not None and graph.array(made.input[0]) is not None
    return made if made is not None and made.op_type == "DequantizeLinear" and constant else None
