"""Where TensorRT wants Q/DQ, and with which scales.

NNCF places quantizers for OpenVINO's kernels: after a convolution that feeds a residual add, on
uint8 after a ReLU, per channel before a depthwise convolution. TensorRT reads uint8 as int8 without
a word and stops fusing at a pair between a convolution and the add. So NNCF's activation quantizers
are taken out (its weights, their scales and the corrected biases stay) and placed again:

- one per-tensor int8 pair on the input of each layer with quantized weights; readers share it;
- on the skip input of a residual add, and not on the input that comes from a convolution (of two
  convolutions the later one is fused with the add, the other one is the skip);
- none on outputs, biases, LayerNorm, softmax, attention products and recurrent layers;
- one scale for all inputs of a Concat that are quantized.

Scales are symmetric, max|x|/127 over the calibration samples; NNCF's uint8 ranges are not mapped.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.graph import CONVOLUTIONS, WEIGHTED, Graph

if TYPE_CHECKING:
    import onnx

LEVELS = 127


def strip_activations(graph: Graph) -> int:
    """Take out every activation Q/DQ pair, and quantized embeddings' pairs; weights stay."""
    drop = []
    for quantize in graph.activation_quantizers():
        for dequantize in graph.readers(quantize.output[0]):
            graph.rewire(dequantize.output[0], quantize.input[0], lambda _: True)
            drop.append(dequantize)
        drop.append(quantize)
    graph.edit(drop=drop)
    return len(drop) // 2


def layers(graph: Graph) -> "list[onnx.NodeProto]":
    """The layers whose weights are quantized, in topological order."""
    found = []
    for node in graph.nodes:
        weight = graph.weight(node) if node.op_type in WEIGHTED else None
        if weight is not None and weight[1]:
            found.append(node)
    return found


def places(graph: Graph) -> dict[str, list[tuple[str, int]]]:
    """Which tensors to quantize, and for whom.

    Returns:
        Tensor name to (node name, input index) of the readers that see it quantized.
    """
    found: dict[str, list[tuple[str, int]]] = {}
    quantized = layers(graph)
    for node in quantized:
        found.setdefault(node.input[0], []).append((node.name, 0))
    depth = {n.name: i for i, n in enumerate(graph.nodes)}
    fused = {n.name for n in quantized if n.op_type in CONVOLUTIONS}
    for add in graph.nodes:
        skip = skip_input(graph, add, fused, depth)
        if skip is not None:
            found.setdefault(add.input[skip], []).append((add.name, skip))
    return found


def skip_input(
    graph: Graph, add: "onnx.NodeProto", fused: set[str], depth: Mapping[str, int]
) -> int | None:
    """Which input of a residual add is the skip; None where the node is no residual add."""
    if add.op_type != "Add" or len(add.input) != 2 or add.input[0] == add.input[1]:
        return None
    if any(graph.is_constant(name) for name in add.input):
        return None
    main = []
    for index, name in enumerate(add.input):
        made = graph.producer(name)
        alone = len(graph.readers(name)) == 1 and not graph.is_output(name)
        if made is not None and made.name in fused and alone:
            main.append((depth[made.name], index))
    return 1 - max(main)[1] if main else None


def insert(
    graph: Graph, where: Mapping[str, list[tuple[str, int]]], magnitudes: Mapping[str, float]
) -> int:
    """Insert int8 pairs with zero point 0 and scale max|x|/127.

    Args:
        graph: without activation quantizers.
        where: from `places`.
        magnitudes: max|x| of each tensor in it.

    Returns:
        How many pairs were inserted.
    """
    joint = _shared(graph, where, magnitudes)
    zero = np.array(0, np.int8)
    scales = {t: np.array(top / LEVELS if top > 0 else 1.0, np.float32) for t, top in joint.items()}
    return insert_pairs(graph, where, {tensor: (scales[tensor], zero) for tensor in where})


def insert_pairs(
    graph: Graph,
    where: Mapping[str, list[tuple[str, int]]],
    parameters: Mapping[str, tuple[NDArray[np.float32], NDArray[Any]]],
) -> int:
    """Insert a Q/DQ pair on each tensor, for some of its readers.

    Args:
        graph: is edited.
        where: tensor name to (node name, input index) of the readers.
        parameters: scale and zero point of each tensor, scalars.

    Returns:
        How many pairs were inserted.
    """
    from onnx import helper

    nodes = {n.name: n for n in graph.nodes}
    order = {n.name: i for i, n in enumerate(graph.nodes)}
    before: dict[int, list[onnx.NodeProto]] = {}
    for tensor, readers in where.items():
        s = graph.set_array(graph.unique(f"{tensor}/scale"), parameters[tensor][0])
        z = graph.set_array(graph.unique(f"{tensor}/zero"), parameters[tensor][1])
        q, dq = graph.unique(f"{tensor}/QuantizeLinear"), graph.unique(f"{tensor}/DequantizeLinear")
        pair = [
            helper.make_node("QuantizeLinear", [tensor, s, z], [q], name=q),
            helper.make_node("DequantizeLinear", [q, s, z], [dq], name=dq),
        ]
        for name, index in readers:
            nodes[name].input[index] = dq
        first = min((name for name, _ in readers), key=order.__getitem__)
        before.setdefault(id(nodes[first]), []).extend(pair)
    graph.edit(before=before)
    return len(where)


def _shared(
    graph: Graph, where: Mapping[str, list[tuple[str, int]]], magnitudes: Mapping[str, float]
) -> dict[str, float]:
    """max|x| of each tensor; quantized inputs and the output of one Concat get the same."""
    joint = {tensor: magnitudes[tensor] for tensor in where}
    for node in graph.nodes:
        if node.op_type != "Concat" or node.output[0] not in joint:
            continue
        members = [n for n in (*node.input, node.output[0]) if n in joint]
        top = max(joint[n] for n in members)
        joint.update(dict.fromkeys(members, top))
    return joint
