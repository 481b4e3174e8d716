"""Mends of constants: biases back to float, weights to symmetric int8 along output channels."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize import dialect
from edgekit.quantize.arithmetic import dequantize_linear, quantize_linear
from edgekit.quantize.graph import WEIGHTED, Graph, output_axis
from edgekit.quantize.lint import over_seven_bits
from edgekit.quantize.rules import Kind, Mended

if TYPE_CHECKING:
    import onnx

    from edgekit.target import IntegerScheme

_MIDDLE = 128
_LEVELS = 127
_SEVEN = 7
_EXACT: Kind = "exact"
_LOSSY: Kind = "lossy"


def float_biases(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    """Write quantized biases as the float numbers that they stand for, where they must be float."""
    if scheme.quantize_bias:
        return []
    done, drop = [], []
    for node in graph.nodes:
        if node.op_type not in WEIGHTED or len(node.input) < 3:
            continue
        made = graph.producer(node.input[2])
        value = None if made is None else constant_behind(graph, made)
        if made is None or value is None:
            continue
        name = graph.set_array(graph.unique(f"{graph.source(node.input[2])}/float"), value)
        done.append(Mended("bias-quantized", made.name, "exact", f"bias of {node.name!r} in float"))
        node.input[2] = name
        drop.append(made)
    _drop_unread(graph, drop)
    return done


def constant_behind(graph: Graph, dequantize: "onnx.NodeProto") -> NDArray[Any] | None:
    """What a DequantizeLinear of a constant, or of a quantized constant, gives; None for others."""
    if dequantize.op_type != "DequantizeLinear":
        return None
    levels, held = graph.levels(dequantize), graph.array(dequantize.input[0])
    quantize = graph.producer(dequantize.input[0])
    if held is None and quantize is not None and quantize.op_type == "QuantizeLinear":
        held = _integers(graph, quantize)
    if levels is None or held is None:
        return None
    return dequantize_linear(held, *levels, _axis(graph, dequantize, levels[0], held.ndim))


def integer_weights(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    """Store float weights with a Q/DQ pair as the integers that the pair makes of them."""
    del scheme
    done, drop = [], []
    for quantize in graph.nodes:
        if quantize.op_type != "QuantizeLinear" or not graph.is_constant(quantize.input[0]):
            continue
        readers, held = graph.readers(quantize.output[0]), _integers(graph, quantize)
        if held is None or not readers or graph.is_output(quantize.output[0]):
            continue
        name = graph.set_array(graph.unique(f"{quantize.input[0]}/{held.dtype}"), held)
        graph.rewire(quantize.output[0], name, lambda _: True)
        what = f"{quantize.input[0]!r} stored as {held.dtype}"
        done.append(Mended("float-weight", quantize.name, "exact", what))
        drop.append(quantize)
    graph.edit(drop=drop)
    return done


def symmetric_weights(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    """Write uint8 weights, weights with zero points and scales on a wrong axis as they should be.

    uint8 with zero points of 128 is int8 with zero points of 0. All else is quantized again from
    the numbers that the integers stand for.
    """
    del scheme
    done = []
    for node in graph.nodes:
        held, levels = graph.array(node.input[0]) if node.input else None, None
        if node.op_type == "DequantizeLinear" and held is not None:
            levels = graph.levels(node)
        if held is None or levels is None or held.dtype not in (np.int8, np.uint8):
            continue
        scale, zero = levels
        layer = next((r for r in graph.readers(node.output[0]) if r.op_type in WEIGHTED), None)
        axis = output_axis(layer, held.ndim) if layer is not None and held.ndim > 1 else None
        mine = _axis(graph, node, scale, held.ndim)
        wrong = None not in (axis, mine) and mine != axis
        if held.dtype == np.int8 and not zero.any() and not wrong:
            continue
        rule = "weight-dtype" if held.dtype == np.uint8 else "weight-zero-point"
        rule = "weight-axis" if wrong else rule
        if held.dtype == np.uint8 and (zero == _MIDDLE).all() and not wrong:
            levels_out = (held.astype(np.int16) - _MIDDLE).astype(np.int8)
            kind, value = _EXACT, (levels_out, scale, mine)
        else:
            value = symmetric_int8(dequantize_linear(held, scale, zero, mine), axis)
            kind = _LOSSY
        _store(graph, node, *value)
        what = f"{node.input[0]!r} as symmetric int8"
        done.append(Mended(rule, node.name, kind, what))
    graph.edit()
    return done


def symmetric_int8(
    weight: NDArray[np.floating[Any]], axis: int | None
) -> tuple[NDArray[np.int8], NDArray[np.float32], int | None]:
    """Quantize a weight: s = max|w| / 127 along an axis, q = clip(round-half-even(w / s)).

    Args:
        weight: float32, any shape.
        axis: one scale for each index of it; None for one scale.

    Returns:
        int8 levels, float32 scales, and the axis.
    """
    others = None if axis is None else tuple(a for a in range(weight.ndim) if a != axis)
    top = np.abs(weight).max(axis=others, initial=0.0)
    scale = np.asarray(np.where(top > 0, top / _LEVELS, 1.0), np.float32)
    levels = quantize_linear(weight, scale, np.zeros(scale.shape, np.int8), axis)
    return levels.astype(np.int8), scale, axis


def seven_bits(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    """Halve the levels of weights whose products would saturate."""
    if scheme.weight_bits != _SEVEN:
        return []
    done = []
    for node in graph.nodes:
        held = graph.array(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if held is not None and held.dtype == np.int8 and over_seven_bits(graph, node, held):
            what = f"{node.input[0]!r} to 7 bits"
            done.append(Mended("weight-bits", node.name, "lossy", what))
    dialect.seven_bit_weights(graph)
    return done


def _store(
    graph: Graph,
    node: "onnx.NodeProto",
    levels: NDArray[np.int8],
    scale: NDArray[np.float32],
    axis: int | None,
) -> None:
    from onnx import helper

    base = node.input[0]
    names = [
        graph.set_array(graph.unique(f"{base}/int8"), levels),
        graph.set_array(graph.unique(f"{base}/scale"), scale),
        graph.set_array(graph.unique(f"{base}/zero"), np.zeros(scale.shape, np.int8)),
    ]
    del node.input[:], node.attribute[:]
    node.input.extend(names)
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))


def _integers(graph: Graph, quantize: "onnx.NodeProto") -> NDArray[Any] | None:
    """What a QuantizeLinear makes of a constant, in 8 bits; None for others."""
    held, levels = graph.array(quantize.input[0]), graph.levels(quantize)
    if held is None or levels is None or str(levels[1].dtype) not in {"int8", "uint8"}:
        return None
    axis = _axis(graph, quantize, levels[0], held.ndim)
    return quantize_linear(held.astype(np.float32), *levels, axis)


def _axis(graph: Graph, node: "onnx.NodeProto", scale: NDArray[Any], rank: int) -> int | None:
    return graph.axis(node) % rank if scale.ndim else None


def _drop_unread(graph: Graph, nodes: "list[onnx.NodeProto]") -> None:
    fresh = Graph(graph.model)  # who reads what has changed
    drop = {id(n): n for n in nodes if not fresh.readers(n.output[0])}
    for node in list(drop.values()):
        made = fresh.producer(node.input[0])
        if made is not None and made.op_type == "QuantizeLinear":
            alone = all(id(r) in drop for r in fresh.readers(made.output[0]))
            drop |= {id(made): made} if alone else {}
    graph.edit(drop=drop.values())
