"""A float network in which chosen layers compute with quantized inputs and weights, and no others.

It shows what one layer's quantization does to the network's outputs, without quantizing again: the
weights, scales and zero points are those of a network that was quantized whole.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.graph import Graph, dequantize_linear
from edgekit.quantize.placement import insert_pairs, layers

if TYPE_CHECKING:
    import onnx


class Simulation:
    """What is needed to quantize any layers of a float network by themselves.

    Args:
        reference: the float network.
        model: the same network, quantized whole.

    Attributes:
        layers: names of the layers that can be simulated, in topological order.
        unknown: names of quantized layers that cannot.
    """

    def __init__(self, reference: "onnx.ModelProto", model: "onnx.ModelProto") -> None:
        self._reference = reference
        graph = Graph(model)
        known = {n.name: n for n in reference.graph.node}
        self._weights: dict[str, NDArray[np.float32]] = {}
        self._pairs: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
        self.layers: tuple[str, ...] = ()
        self.unknown: tuple[str, ...] = ()
        for node in layers(graph):
            value = _dequantized_weight(graph, node)
            if value is None or node.name not in known:
                self.unknown += (node.name,)
                continue
            self.layers += (node.name,)
            self._weights[node.name] = value
            pair = _input_pair(graph, node)
            if pair is not None:
                self._pairs[node.name] = pair

    def quantized(self, names: Iterable[str]) -> "onnx.ModelProto":
        """The float network with these layers quantized."""
        import onnx

        made = onnx.ModelProto()
        made.CopyFrom(self._reference)
        graph = Graph(made)
        nodes = {n.name: n for n in graph.nodes}
        for name in names:
            node = nodes[name]
            weight = graph.unique(f"{node.input[1]}/simulated")
            node.input[1] = graph.set_array(weight, self._weights[name])
        graph.edit()
        for name in names:
            if name in self._pairs:
                tensor = next(n.input[0] for n in graph.nodes if n.name == name)
                insert_pairs(graph, {tensor: [(name, 0)]}, {tensor: self._pairs[name]})
        return made


def _input_pair(graph: Graph, node: "onnx.NodeProto") -> tuple[NDArray[Any], NDArray[Any]] | None:
    made = graph.dequantized(node.input[0])
    if made is None or len(made.input) < 3:
        return None
    scale, zero = graph.array(made.input[1]), graph.array(made.input[2])
    return None if scale is None or zero is None or scale.size > 1 else (scale, zero)


def _dequantized_weight(graph: Graph, node: "onnx.NodeProto") -> NDArray[np.float32] | None:
    """The weight's value behind its DequantizeLinear; None where more lies between."""
    dequantize = graph.producer(node.input[1])
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    held, scale = graph.array(dequantize.input[0]), graph.array(dequantize.input[1])
    if held is None or scale is None:
        return None
    zero = graph.array(dequantize.input[2]) if len(dequantize.input) > 2 else None
    if zero is None:
        zero = np.zeros(scale.shape, held.dtype)
    axis = next((int(a.i) for a in dequantize.attribute if a.name == "axis"), 1)
    return dequantize_linear(held, scale, zero, axis if scale.size > 1 else None)
