"""Mending what NNCF writes into the exact form that a runtime's integer kernels fuse.

Each function edits the graph in place, says in how many places, and leaves what is right alone.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize import layout, lint
from edgekit.quantize.graph import Graph

if TYPE_CHECKING:
    import onnx

Places = dict[str, list[tuple[str, int]]]
Parameters = dict[str, tuple[NDArray[Any], NDArray[Any]]]

_FUSED = {"Relu", "Clip"}
_RANGE: dict[str, tuple[int, int]] = {"uint8": (0, 255), "int8": (-128, 127)}


def one_scale_per_activation(graph: Graph) -> int:
    """Give each activation one scale, over the union of its channels' ranges.

    NNCF quantizes the input of a depthwise convolution channel by channel. No runtime has a kernel
    for that: ONNX Runtime then runs the layer in float between conversions, 3.4 times slower.
    """
    count = 0
    for quantize in graph.activation_quantizers():
        levels = graph.levels(quantize)
        if levels is None or levels[0].size == 1:
            continue
        scale, zero = levels
        low, high = range_of(scale, zero)
        graph.set_levels(quantize, *parameters(low, high, str(zero.dtype), bool((zero == 0).all())))
        count += 1
    graph.edit()
    return count


def one_pair_per_activation(graph: Graph) -> int:
    """Let all readers of a tensor share one Q/DQ pair, over the union of the pairs' ranges."""
    first: dict[str, onnx.NodeProto] = {}
    drop: list[onnx.NodeProto] = []
    count = 0
    for quantize in graph.activation_quantizers():
        if not is_plain_pair(graph, quantize):
            continue
        kept = first.setdefault(quantize.input[0], quantize)
        if kept is quantize:
            continue
        _widen(graph, kept, quantize)
        target = _dequantize_of(graph, kept)
        for dequantize in graph.readers(quantize.output[0]):
            graph.rewire(dequantize.output[0], target.output[0], lambda _: True)
            drop.append(dequantize)
        drop.append(quantize)
        count += 1
    if drop:
        graph.edit(drop=drop, sort=True)
    return count


def is_plain_pair(graph: Graph, quantize: "onnx.NodeProto") -> bool:
    """Whether 8-bit integers go straight to DequantizeLinear nodes inside the model."""
    readers, levels = graph.readers(quantize.output[0]), graph.levels(quantize)
    return (
        levels is not None
        and str(levels[1].dtype) in _RANGE
        and bool(readers)
        and all(r.op_type == "DequantizeLinear" for r in readers)
        and not any(graph.is_output(r.output[0]) for r in readers)
    )


def activation_dtype(graph: Graph, dtype: str) -> int:
    """Write every activation as `dtype`: uint8 and int8 hold the same levels, 128 apart.

    Without VNNI, x86 kernels are fast for u8·s8 and 1.7 times slower for s8·s8.

    Args:
        graph: quantized per tensor.
        dtype: `uint8` or `int8`.
    """
    count = 0
    for quantize in graph.activation_quantizers():
        levels = graph.levels(quantize)
        if levels is None or str(levels[1].dtype) not in _RANGE or levels[1].dtype == dtype:
            continue
        scale, zero = levels
        shift = 128 if dtype == "uint8" else -128
        moved = (zero.astype(np.int32) + shift).astype(dtype)
        graph.set_levels(quantize, scale, moved)
        count += 1
    graph.edit()
    return count


def float_convolution_outputs(graph: Graph) -> Places:
    """Outputs of quantized convolutions that inner float operators read, such as a SiLU.

    ONNX Runtime's integer convolution is one with integers on both sides: without a pair on its
    output it dequantizes input and weights and computes in float.

    Returns:
        Tensor name to (node name, input index) of its readers, for `placement.insert_pairs`.
    """
    found: Places = {}
    for conv in graph.nodes:
        held = graph.weight(conv) if conv.op_type == "Conv" else None
        if held is None or not held[1] or graph.dequantized(conv.input[0]) is None:
            continue
        out = conv.output[0]
        readers = graph.readers(out)
        if len(readers) == 1 and readers[0].op_type in _FUSED and not graph.is_output(out):
            out = readers[0].output[0]  # becomes part of the convolution
            readers = graph.readers(out)
        if graph.is_output(out) or any(r.op_type == "QuantizeLinear" for r in readers):
            continue
        found[out] = [(r.name, i) for r in readers for i, n in enumerate(r.input) if n == out]
    return {tensor: readers for tensor, readers in found.items() if readers}


def between_integers(graph: Graph, dtype: str) -> tuple[Places, Parameters]:
    """Tensors between quantized ones, where a pair lets ONNX Runtime stay in integers.

    The output of a Concat of tensors with one scale gets that scale again, which loses nothing. The
    output of a SiLU's Sigmoid gets the scale 1/255, and the Sigmoid becomes a table.
    """
    where: Places = {}
    found: Parameters = {}
    for node in graph.nodes:
        out = node.output[0] if node.output else ""
        readers = graph.readers(out)
        if not readers or graph.is_output(out) or any(_quantizes(r) for r in readers):
            continue
        if node.op_type == "Concat":
            sources = [_pair(graph, name) for name in node.input]
            first = sources[0]
            if first is None or any(s is None or not _same(s, first) for s in sources):
                continue
            found[out] = first
        elif node.op_type == "Sigmoid" and _in_quantized_silu(graph, node):
            zero = 0 if dtype == "uint8" else -128
            found[out] = np.array(1 / 255, np.float32), np.array(zero, dtype)
        else:
            continue
        where[out] = [(r.name, i) for r in readers for i, n in enumerate(r.input) if n == out]
    return where, found


def _in_quantized_silu(graph: Graph, sigmoid: "onnx.NodeProto") -> bool:
    readers = graph.readers(sigmoid.output[0])
    if len(readers) != 1 or readers[0].op_type != "Mul" or _pair(graph, sigmoid.input[0]) is None:
        return False
    after = graph.readers(readers[0].output[0])
    return sigmoid.input[0] in readers[0].input and bool(after) and all(map(_quantizes, after))


def _quantizes(node: "onnx.NodeProto") -> bool:
    return node.op_type == "QuantizeLinear"


def _pair(graph: Graph, name: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Scale and zero point of a dequantized tensor."""
    made = graph.producer(name)
    if made is None or made.op_type != "DequantizeLinear" or len(made.input) < 3:
        return None
    scale, zero = graph.array(made.input[1]), graph.array(made.input[2])
    return None if scale is None or zero is None or scale.size > 1 else (scale, zero)


def _same(a: tuple[NDArray[Any], NDArray[Any]], b: tuple[NDArray[Any], NDArray[Any]]) -> bool:
    return bool(a[0] == b[0] and a[1] == b[1] and a[1].dtype == b[1].dtype)


def seven_bit_weights(graph: Graph) -> int:
    """Halve the levels of int8 weights that the engine left at 8 bits, and double their scale.

    NNCF limits the weights of layers alone, not a table that an embedding shares with a layer.
    """
    count = 0
    for node in graph.nodes:
        if node.op_type != "DequantizeLinear":
            continue
        held, scale = graph.array(node.input[0]), graph.array(node.input[1])
        if held is None or scale is None or held.dtype != np.int8:
            continue
        if not lint.over_seven_bits(graph, node, held):
            continue
        levels = np.rint(held.astype(np.float32) / 2).astype(np.int8)
        node.input[0] = graph.set_array(graph.unique(f"{node.input[0]}/7bit"), levels)
        node.input[1] = graph.set_array(graph.unique(f"{node.input[1]}/7bit"), scale * 2)
        count += 1
    graph.edit()
    return count


def integer_gemm_bias(graph: Graph) -> int:
    """Write the bias of each quantized Gemm with a float output as int32 with a DequantizeLinear.

    Without it ONNX Runtime cannot use its integer kernel and dequantizes the weights at every run
    (a layer of 512 to 1000: 102 µs, float32 46 µs, with the integer bias 26 µs). Its scale is the
    product of the input's and the weight's, so that the addition is exact.
    """
    before: dict[int, list[onnx.NodeProto]] = {}
    for gemm in layout.float_gemm_biases(graph):
        bias = graph.array(gemm.input[2])
        if bias is not None:
            before[id(gemm)] = [_integer_bias(graph, gemm, bias, layout.product_scale(graph, gemm))]
    graph.edit(before=before)
    return len(before)


def _integer_bias(
    graph: Graph, gemm: "onnx.NodeProto", bias: NDArray[Any], scale: NDArray[Any]
) -> "onnx.NodeProto":
    from onnx import helper

    scale = np.broadcast_to(scale, bias.shape).astype(np.float32)
    limits = np.iinfo(np.int32)
    levels = np.clip(np.rint(bias.astype(np.float64) / scale), limits.min, limits.max)
    base = gemm.input[2]
    q = graph.set_array(graph.unique(f"{base}/int32"), levels.astype(np.int32))
    s = graph.set_array(graph.unique(f"{base}/scale"), scale)
    out = graph.unique(f"{base}/DequantizeLinear")
    gemm.input[2] = out
    return helper.make_node("DequantizeLinear", [q, s], [out], name=out, axis=0)


def range_of(scale: NDArray[Any], zero: NDArray[Any]) -> tuple[float, float]:
    """The real numbers that a quantizer covers, as one interval over its channels."""
    low, high = _RANGE[str(zero.dtype)]
    z, s = zero.astype(np.float64), scale.astype(np.float64)
    return float(((low - z) * s).min()), float(((high - z) * s).max())


def parameters(
    low: float, high: float, dtype: str, symmetric: bool
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Scale and zero point that cover an interval; zero stays exact."""
    bottom, top = _RANGE[dtype]
    if symmetric:
        scale = max(abs(low), abs(high)) / top
        zero = 0
    else:
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / (top - bottom)
        zero = int(np.clip(np.rint(bottom - low / scale), bottom, top)) if scale > 0 else 0
    return np.array(scale if scale > 0 else 1.0, np.float32), np.array(zero, dtype)


def _widen(graph: Graph, kept: "onnx.NodeProto", other: "onnx.NodeProto") -> None:
    mine, theirs = graph.levels(kept), graph.levels(other)
    if mine is None or theirs is None:
        return
    (s1, z1), (s2, z2) = mine, theirs
    if np.array_equal(s1, s2) and np.array_equal(z1, z2) and z1.dtype == z2.dtype:
        return
    (l1, h1), (l2, h2) = range_of(s1, z1), range_of(s2, z2)
    symmetric = bool((z1 == 0).all() and (z2 == 0).all()) and z1.dtype == z2.dtype
    graph.set_levels(kept, *parameters(min(l1, l2), max(h1, h2), str(z1.dtype), symmetric))


def _dequantize_of(graph: Graph, quantize: "onnx.NodeProto") -> "onnx.NodeProto":
    return next(r for r in graph.readers(quantize.output[0]) if r.op_type == "DequantizeLinear")
