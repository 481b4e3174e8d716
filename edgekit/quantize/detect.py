"""Is a model quantized already, and how? And back to float, for whoever wants it quantized anew."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import UsageError
from edgekit.quantize.arithmetic import dequantize_linear
from edgekit.quantize.graph import Graph

if TYPE_CHECKING:
    import onnx

QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
DYNAMIC = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
    }
)
INTEGER = frozenset(
    {
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearConv",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMatMul",
        "QLinearMul",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
    }
)
FAKE = frozenset({"FakeQuantize", "TRT_FP8DequantizeLinear", "TRT_FP8QuantizeLinear"})
BLOCKS = frozenset({"GatherBlockQuantized", "MatMulNBits", "TRT_INT4DequantizeLinear"})
_QUANTIZED = QDQ | DYNAMIC | INTEGER | FAKE | BLOCKS


def quantized(model: "onnx.ModelProto") -> str:
    """How a model is quantized already, in words; empty for a float model.

    Args:
        model: any; sub-graphs and functions are looked into.
    """
    found = Counter(
        node.op_type for node in _nodes(model.graph, *model.functions) if node.op_type in _QUANTIZED
    )
    if not found:
        return ""
    held = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
    by = f" {model.producer_name}" if model.producer_name else ""
    return f"it holds {held} (its producer{by or ' is not named'})"


def to_float(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """A float copy of a model in Q/DQ form, to be quantized anew.

    Weights keep the rounding that they have: what is lost is lost. Activations lose their pairs.

    Args:
        model: with QuantizeLinear and DequantizeLinear nodes alone.

    Raises:
        UsageError: it holds integer operators or dynamic quantization, which have no float twin
            inside.
    """
    import onnx

    others = {n.op_type for n in _nodes(model.graph, *model.functions)} & (_QUANTIZED - QDQ)
    inner = {n.op_type for n in _nodes(*_inside(model.graph.node), *model.functions)} & QDQ
    if others or inner:
        raise UsageError(
            f"The model cannot be turned back to float: it holds {', '.join(sorted(others))}."
            if others
            else "The model cannot be turned back to float: its sub-graphs hold Q/DQ nodes.",
            "Give the float32 model that it was made from.",
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear":
            _back_to_constant(graph, node)
    graph.edit(drop=[n for n in graph.nodes if n.op_type in QDQ and graph.bypass(n)])
    copy.graph.ClearField("value_info")
    copy.graph.ClearField("quantization_annotation")
    return copy


def _back_to_constant(graph: Graph, dequantize: "onnx.NodeProto") -> None:
    """Let a DequantizeLinear of a constant read the float numbers that it stands for."""
    held, scale = graph.array(dequantize.input[0]), graph.array(dequantize.input[1])
    if held is None or scale is None:
        return
    name = graph.unique(f"{dequantize.input[0]}/float")
    zero = graph.zero_point(dequantize)
    zero = np.zeros(scale.shape, held.dtype) if zero is None else zero
    block = next((a.i for a in dequantize.attribute if a.name == "block_size"), 0)
    axis = graph.axis(dequantize)
    if block:
        size = held.shape[axis]
        scale, zero = (np.repeat(v, block, axis).take(range(size), axis) for v in (scale, zero))
        value = (held.astype(np.float32) - zero.astype(np.float32)) * scale
    else:
        value = dequantize_linear(held, scale, zero, axis if scale.size > 1 else None)
    dequantize.input[0] = graph.set_array(name, value.astype(scale.dtype))


def _inside(nodes: "list[onnx.NodeProto]") -> "list[onnx.GraphProto]":
    attributes = [a for node in nodes for a in node.attribute]
    return [a.g for a in attributes if a.HasField("g")] + [g for a in attributes for g in a.graphs]


def _nodes(*graphs: "onnx.GraphProto | onnx.FunctionProto") -> "list[onnx.NodeProto]":
    found: list[onnx.NodeProto] = []
    for graph in graphs:
        found += graph.node
        found += _nodes(*_inside(list(graph.node)))
    return found
