"""Layers that stay in float between integer ones, and what ONNX Runtime does to them.

Where a convolution or Gemm with float weights stands between a DequantizeLinear with one scale and
a QuantizeLinear (a ReLU or Clip may be between), ONNX Runtime quantizes its weights at load, with
one scale for all channels (`WeightBiasQuantization`; seen in 1.32). The layer that was left in
float for its sensitivity is then coarser than in int8: EfficientNet-Lite0 with its first depthwise
convolution left in float has a signal to noise ratio of 5 dB, and 21 dB without that pass; wholly
in int8 it has 20 dB. A DequantizeLinear with the same scale written once for each channel computes
the same numbers, and the pass leaves the layer alone.
"""

from typing import TYPE_CHECKING

import numpy as np

from edgekit.quantize.graph import Graph, attribute

if TYPE_CHECKING:
    import onnx

    from edgekit.target import IntegerScheme

_TAKEN = frozenset({"Conv", "ConvTranspose", "Gemm"})
_BETWEEN = frozenset({"Relu", "Clip"})


def concerns(scheme: "IntegerScheme") -> bool:
    """Whether a dialect is ONNX Runtime's."""
    return scheme.integer_outputs and scheme.quantize_bias


def is_taken(graph: Graph, node: "onnx.NodeProto") -> bool:
    """Whether ONNX Runtime would quantize a layer's float weights at load."""
    return _read_by(graph, node) is not None and _channels(graph, node) > 0


def _read_by(graph: Graph, node: "onnx.NodeProto") -> "onnx.NodeProto | None":
    """The DequantizeLinear that such a layer reads."""
    if node.op_type not in _TAKEN:
        return None
    weight, made = graph.array(node.input[1]), graph.producer(node.input[0])
    if weight is None or weight.dtype != np.float32 or made is None:
        return None
    scale = graph.array(made.input[1]) if made.op_type == "DequantizeLinear" else None
    if scale is None or scale.size != 1 or len(made.input) < 3:
        return None
    after = node
    while True:
        readers = graph.readers(after.output[0])
        if len(readers) != 1 or graph.is_output(after.output[0]):
            return None
        after = readers[0]
        if after.op_type == "QuantizeLinear":
            return made
        if after.op_type not in _BETWEEN:
            return None


def keep(graph: Graph) -> list[str]:
    """Give each such layer a DequantizeLinear with one scale a channel, all equal, in place.

    Args:
        graph: a quantized network.

    Returns:
        Names of the layers.
    """
    import onnx

    before: dict[int, list[onnx.NodeProto]] = {}
    names = []
    for node in list(graph.nodes):
        made, count = _read_by(graph, node), _channels(graph, node)
        levels = None if made is None else graph.levels(made)
        if made is None or levels is None or not count:
            continue
        base = graph.source(node.input[0])
        out = graph.unique(f"{base}/DQ")
        held = [
            graph.set_array(graph.unique(f"{base}/{what}"), np.full(count, value.ravel()[0]))
            for what, value in zip(("s", "z"), levels, strict=True)
        ]
        pair = onnx.helper.make_node(
            "DequantizeLinear", [made.input[0], *held], [out], name=out, axis=1
        )
        before[id(node)] = [pair]
        node.input[0] = out
        names.append(node.name)
    if names:
        graph.edit(before=before)
        unread = [
            n
            for n in graph.nodes
            if n.op_type == "DequantizeLinear"
            and not graph.readers(n.output[0])
            and not graph.is_output(n.output[0])
        ]
        graph.edit(drop=unread)
    return names


def _channels(graph: Graph, node: "onnx.NodeProto") -> int:
    """Input channels: the size of axis 1 of what the layer reads; 0 where that is not its axis."""
    weight = graph.array(node.input[1]) if node.op_type in _TAKEN else None
    if weight is None:
        return 0
    if node.op_type == "Conv":
        return int(weight.shape[1]) * attribute(node, "group", 1)
    if node.op_type == "ConvTranspose":
        return int(weight.shape[0])
    if attribute(node, "transA", 0):
        return 0
    return int(weight.shape[1 if attribute(node, "transB", 0) else 0])
