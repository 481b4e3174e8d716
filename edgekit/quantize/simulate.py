"""A float network in which chosen layers compute with quantized inputs and weights, and no others.

It shows what one layer's quantization does to the network's outputs, without quantizing again: the
weights, scales and zero points are those of a network that was quantized whole. Its biases are not:
each makes up for the layers before it, too. `correct` makes up for what a layer itself does.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.lower.check import Arrays
from edgekit.quantize import bias, floats
from edgekit.quantize.graph import Graph
from edgekit.quantize.placement import insert_pairs, layers
from edgekit.quantize.weights import constant_behind

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
        self._biases: dict[str, NDArray[np.float32]] = {}
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

    def correct(self, feeds: Iterable[Arrays]) -> None:
        """Shift each layer's bias by what its own rounding does to its mean, on float inputs.

        Args:
            feeds: samples; iterated once.
        """
        import onnx

        made = onnx.ModelProto()
        made.CopyFrom(self._reference)
        graph = Graph(made)
        beside: dict[str, tuple[str, str]] = {}
        axes: dict[str, int] = {}
        for node in list(graph.nodes):
            if node.name not in self.layers or node.op_type not in {"Conv", "Gemm"}:
                continue
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name, copy.output[0] = f"{node.name}/alone", f"{node.output[0]}/alone"
            weight = graph.unique(f"{node.input[1]}/simulated")
            copy.input[1] = graph.set_array(weight, self._weights[node.name])
            graph.add(copy)
            beside[node.name] = node.output[0], copy.output[0]
            axes |= dict.fromkeys(beside[node.name], 1 if node.op_type == "Conv" else -1)
        graph.edit()
        self._insert(graph, {f"{name}/alone": name for name in beside})
        means = bias.channel_means(made, axes, feeds) if axes else {}
        source = Graph(self._reference)
        nodes = {n.name: n for n in source.nodes}
        for name, (right, got) in beside.items():
            node = nodes[name]
            held = source.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            plain = all(a.name not in {"alpha", "beta"} or a.f == 1.0 for a in node.attribute)
            if plain and (held is None or held.shape == means[right].shape):
                base = 0.0 if held is None else held
                self._biases[name] = np.asarray(base + means[right] - means[got], np.float32)

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
            if name in self._biases:
                if len(node.input) < 3:
                    node.input.append("")
                bias = graph.unique(f"{name}/bias/simulated")
                node.input[2] = graph.set_array(bias, self._biases[name])
        graph.edit()
        self._insert(graph, {name: name for name in names})
        floats.keep(graph)  # ONNX Runtime runs it
        return made

    def _insert(self, graph: Graph, layers: Mapping[str, str]) -> None:
        """Put pairs before nodes: name of the node to the layer whose pair it is."""
        for name, layer in layers.items():
            if layer in self._pairs:
                tensor = next(n.input[0] for n in graph.nodes if n.name == name)
                insert_pairs(graph, {tensor: [(name, 0)]}, {tensor: self._pairs[layer]})


def _input_pair(graph: Graph, node: "onnx.NodeProto") -> tuple[NDArray[Any], NDArray[Any]] | None:
    made = graph.dequantized(node.input[0])
    if made is None or len(made.input) < 3:
        return None
    scale, zero = graph.array(made.input[1]), graph.array(made.input[2])
    return None if scale is None or zero is None or scale.size > 1 else (scale, zero)
