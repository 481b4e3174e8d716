"""Does an ONNX file follow an integer scheme? What breaks it is slow or wrong without a word.

Rules come from TensorRT's and ONNX Runtime's documentation and parsers; each names the mend.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgekit.quantize.graph import CONVOLUTIONS, WEIGHTED, Graph

if TYPE_CHECKING:
    import onnx

    from edgekit.target import IntegerScheme

TENSORRT = "tensorrt"
_DYNAMIC = {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"}
_OPERATOR_FORM = {"QLinearConv", "QLinearMatMul", "QLinearAdd", "QGemm", "QLinearGlobalAveragePool"}


@dataclass(frozen=True)
class Finding:
    """Something that the scheme does not allow.

    Attributes:
        node: the node's name.
        rule: the rule's name, in kebab-case.
        message: what is wrong.
        mend: what to do.
        severity: an error is wrong or slow for certain; a warning may be.
    """

    node: str
    rule: str
    message: str
    mend: str
    severity: Literal["error", "warning"] = "error"


def lint(model: "onnx.ModelProto", scheme: "IntegerScheme") -> list[Finding]:
    """Hold a model against a scheme.

    Args:
        model: any ONNX model; one without quantization has no finding.
        scheme: the target's.

    Returns:
        Findings, in the order of the nodes.
    """
    graph = Graph(model)
    found: list[Finding] = []
    for node in graph.nodes:
        found += _forms(node, scheme)
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            constant = graph.is_constant(node.input[0])
            found += _scales(graph, node)
            found += (
                _weights(graph, node, scheme) if constant else _activations(graph, node, scheme)
            )
        elif scheme.skip_input_of_add and node.op_type == "Add":
            found += _residual(graph, node)
        elif scheme.skip_input_of_add and node.op_type == "Concat":
            found += _concat(graph, node)
    found += _outputs(graph, scheme)
    return found


def _forms(node: "onnx.NodeProto", scheme: "IntegerScheme") -> Iterator[Finding]:
    if node.op_type in _DYNAMIC:
        yield Finding(
            node.name,
            "dynamic-quantization",
            f"{node.op_type} finds its ranges at every run.",
            "Quantize statically, with calibration data.",
        )
    if node.op_type in _OPERATOR_FORM and scheme.name == TENSORRT:
        yield Finding(
            node.name,
            "operator-form",
            f"TensorRT does not take {node.op_type}.",
            "Write QuantizeLinear and DequantizeLinear around the float operator.",
        )


def _scales(graph: Graph, node: "onnx.NodeProto") -> Iterator[Finding]:
    scale = graph.array(node.input[1])
    if scale is None:
        yield Finding(
            node.name,
            "scale-not-constant",
            "The scale is computed, not a constant.",
            "Fold it into an initializer.",
        )
    elif not (np.isfinite(scale).all() and (scale > 0).all()):
        yield Finding(
            node.name,
            "scale-not-positive",
            "A scale is zero, negative or not finite.",
            "Calibrate with data that reaches the layer.",
        )


def _zero_point(graph: Graph, node: "onnx.NodeProto") -> np.ndarray | None:
    return graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None


def _activations(
    graph: Graph, node: "onnx.NodeProto", scheme: "IntegerScheme"
) -> Iterator[Finding]:
    if node.op_type != "QuantizeLinear":
        return
    scale, zero = graph.array(node.input[1]), _zero_point(graph, node)
    if scale is not None and scale.size > 1:
        yield Finding(
            node.name,
            "activation-per-channel",
            f"Tensor {node.input[0]!r} is quantized with {scale.size} scales.",
            "Quantize activations with one scale; per channel is for weights.",
        )
    dtype = "uint8" if zero is None else str(zero.dtype)
    if dtype != scheme.activation:
        yield Finding(
            node.name,
            "activation-dtype",
            f"Tensor {node.input[0]!r} is quantized to {dtype}; {scheme.name} wants "
            f"{scheme.activation}.",
            "TensorRT reads uint8 as int8, at half the resolution: quantize again for this target."
            if scheme.name == TENSORRT
            else "Quantize again for this target.",
        )
    if scheme.activation_symmetric and zero is not None and (zero != 0).any():
        yield Finding(
            node.name,
            "zero-point",
            f"Tensor {node.input[0]!r} has zero point {int(zero.ravel()[0])}; "
            f"{scheme.name} wants 0.",
            "Quantize again for this target: its range must be taken anew.",
        )


def _weights(graph: Graph, node: "onnx.NodeProto", scheme: "IntegerScheme") -> Iterator[Finding]:
    held, zero = graph.array(node.input[0]), _zero_point(graph, node)
    if held is None:
        return
    if zero is not None and (zero != 0).any():
        yield Finding(
            node.name,
            "weight-zero-point",
            f"Weight {node.input[0]!r} has a zero point that is not 0.",
            "Quantize weights symmetrically.",
        )
    if node.op_type == "QuantizeLinear":
        yield Finding(
            node.name,
            "float-weight",
            f"Weight {node.input[0]!r} is stored in {held.dtype} and quantized at load.",
            "Store it as int8 with a DequantizeLinear: a quarter of the size.",
            "warning",
        )
    elif held.dtype == np.int32 and not scheme.quantize_bias:
        yield Finding(
            node.name,
            "bias-quantized",
            f"Bias {node.input[0]!r} is an int32 tensor with a DequantizeLinear.",
            "Keep the bias in float32.",
        )
    elif held.dtype not in (np.dtype(np.int8), np.dtype(np.int32)):
        yield Finding(
            node.name,
            "weight-dtype",
            f"Weight {node.input[0]!r} is {held.dtype}.",
            "Quantize weights to int8, symmetrically.",
        )
    elif held.dtype == np.int8 and scheme.weight_bits == 7 and over_seven_bits(graph, node, held):
        yield Finding(
            node.name,
            "weight-bits",
            f"Weight {node.input[0]!r} uses 8 bits; without VNNI, u8·s8 sums saturate.",
            "Limit weights to 7 bits.",
        )


def over_seven_bits(graph: Graph, node: "onnx.NodeProto", held: np.ndarray) -> bool:
    """Whether a layer reads int8 weights of more than 7 bits whose products are summed in 16."""
    layers = [r for r in graph.readers(node.output[0]) if r.op_type in WEIGHTED]
    if any(r.op_type == "Conv" for r in layers) and held.ndim > 2 and held.shape[1] == 1:
        return False  # depthwise kernels sum in 32 bits
    return bool(layers) and int(np.abs(held.astype(np.int16)).max(initial=0)) > 64


def _residual(graph: Graph, add: "onnx.NodeProto") -> Iterator[Finding]:
    """A pair between a convolution and the add is wrong unless the other input is fused with it."""
    broken = ""
    for name in add.input:
        source = graph.source(name)
        made = graph.producer(source)
        if made is None or made.op_type not in CONVOLUTIONS:
            continue
        if source == name:
            return  # this convolution is fused with the add
        if len(graph.readers(source)) == 1:
            broken = made.name
    if broken:
        yield Finding(
            add.name,
            "conv-add",
            f"Q/DQ stands between the convolution {broken!r} and the residual add.",
            "Quantize the skip input only: the pair keeps TensorRT from fusing the two.",
        )


def _concat(graph: Graph, node: "onnx.NodeProto") -> Iterator[Finding]:
    scales = set()
    for name in node.input:
        made = graph.producer(name)
        if made is not None and made.op_type == "DequantizeLinear":
            scale = graph.array(made.input[1])
            scales.add(None if scale is None else float(scale.ravel()[0]))
    if len(scales) > 1:
        yield Finding(
            node.name,
            "concat-scales",
            f"The inputs of {node.name!r} are quantized with {len(scales)} scales.",
            "Give them one scale.",
            "warning",
        )


def _outputs(graph: Graph, scheme: "IntegerScheme") -> Iterator[Finding]:
    for output in graph.model.graph.output:
        made = graph.producer(output.name)
        if made is not None and made.op_type == "DequantizeLinear":
            yield Finding(
                made.name,
                "output-quantized",
                f"Output {output.name!r} is quantized.",
                "Leave outputs in float: the pair costs accuracy and time.",
                "error" if scheme.name == TENSORRT else "warning",
            )
