"""A float network in which chosen layers compute with quantized inputs and weights, and no others.

It shows what one layer's quantization does to the network's outputs, without quantizing again: the
weights, scales and zero points are those of a network that was quantized whole. Its biases are not:
they make up for the layers before, too. Where biases are corrected, each layer's is shifted here by
what its own rounding does to its mean: E[y_c] - E[y_q,c] = Σ_i (W - W_q)_ci E[x_i], without regard
to padding (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
2019, section 4.2).
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.graph import Graph, attribute
from edgekit.quantize.placement import insert_pairs, layers
from edgekit.quantize.weights import constant_behind

if TYPE_CHECKING:
    import onnx


class Simulation:
    """What is needed to quantize any layers of a float network by themselves.

    Args:
        reference: the float network.
        model: the same network, quantized whole.
        means: of the layers' inputs in the float network, by tensor: shape (channels,); biases are
            shifted where they are given.

    Attributes:
        layers: names of the layers that can be simulated, in topological order.
        unknown: names of quantized layers that cannot.
    """

    def __init__(
        self,
        reference: "onnx.ModelProto",
        model: "onnx.ModelProto",
        means: "Mapping[str, NDArray[np.float64]] | None" = None,
    ) -> None:
        self._reference = reference
        graph, source = Graph(model), Graph(reference)
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
            shifted = _shifted(source, known[node.name], value, means or {})
            if shifted is not None:
                self._biases[node.name] = shifted
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
            if name in self._biases:
                if len(node.input) < 3:
                    node.input.append("")
                bias = graph.unique(f"{name}/bias/simulated")
                node.input[2] = graph.set_array(bias, self._biases[name])
        graph.edit()
        for name in names:
            if name in self._pairs:
                tensor = next(n.input[0] for n in graph.nodes if n.name == name)
                insert_pairs(graph, {tensor: [(name, 0)]}, {tensor: self._pairs[name]})
        return made


def _shifted(
    source: Graph,
    node: "onnx.NodeProto",
    quantized: "NDArray[np.float32]",
    means: "Mapping[str, NDArray[np.float64]]",
) -> "NDArray[np.float32] | None":
    """A layer's bias, made up for what the rounding of its weights does to its mean."""
    mean, weight = means.get(node.input[0]), source.array(node.input[1])
    if node.op_type not in {"Conv", "Gemm"} or mean is None or weight is None:
        return None
    if any(a.name in {"alpha", "beta"} and a.f != 1.0 for a in node.attribute):
        return None
    lost = weight.astype(np.float64) - quantized
    if node.op_type == "Gemm":
        lost = lost if attribute(node, "transB", 0) else lost.T
    else:
        lost = lost.sum(axis=tuple(range(2, lost.ndim)))
    outputs, inputs = lost.shape
    groups = attribute(node, "group", 1) if node.op_type == "Conv" else 1
    if mean.size != inputs * groups:
        return None
    own = np.repeat(mean.reshape(groups, inputs), outputs // groups, axis=0)
    held = source.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if held is not None and held.shape != (outputs,):
        return None
    base = np.zeros(outputs) if held is None else held
    return np.asarray(base + (lost * own).sum(axis=1), np.float32)


def _input_pair(graph: Graph, node: "onnx.NodeProto") -> tuple[NDArray[Any], NDArray[Any]] | None:
    made = graph.dequantized(node.input[0])
    if made is None or len(made.input) < 3:
        return None
    scale, zero = graph.array(made.input[1]), graph.array(made.input[2])
    return None if scale is None or zero is None or scale.size > 1 else (scale, zero)
