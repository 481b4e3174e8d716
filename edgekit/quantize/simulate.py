"""A float network in which chosen layers compute with quantized inputs and weights, and no others.

It shows what one layer's quantization does to the network's outputs, without quantizing again: the
weights, scales and zero points are those of a network that was quantized whole.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgekit.quantize.graph import Graph
from edgekit.quantize.placement import insert_pairs, layers
from edgekit.quantize.weights import constant_behind

if TYPE_CHECKING:
    import numpy as np
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
            made = graph.producer(node.input[1])
            value = None if made is None else constant_behind(graph, made)
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
