"""Does an ONNX file follow an integer scheme? What breaks it is slow or wrong without a word.

Rules come from TensorRT's, ONNX Runtime's and OpenVINO's documentation and parsers, and from what
was measured; `edgekit.quantize.rules` lists them. The file may come from any tool: constants may be
initializers or Constant nodes, weights integers or floats with a pair, zero points left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.quantize import layout
from edgekit.quantize.detect import DYNAMIC, INTEGER, QDQ
from edgekit.quantize.graph import WEIGHTED, Graph, attribute, output_axis
from edgekit.quantize.rules import Finding, found

if TYPE_CHECKING:
    import onnx

    from edgekit.target import IntegerScheme

__all__ = ["Finding", "lint", "over_seven_bits"]

PER_CHANNEL_OPSET = 13
_OWN = {"", "ai.onnx"}
_SEVEN_BITS = 64


def lint(
    model: "onnx.ModelProto", scheme: "IntegerScheme", folder: Path | None = None
) -> list[Finding]:
    """Hold a model against a scheme.

    Args:
        model: any ONNX model; one without quantization has findings on its operators alone.
        scheme: the target's.
        folder: where external data lies that was left unread; a tensor at a time is read.

    Returns:
        Findings, in the order of the nodes.
    """
    graph = Graph(model, folder)
    local = {(f.domain, f.name) for f in model.functions}
    findings = list(_opset(graph))
    for node in graph.nodes:
        findings += _forms(node, scheme, local)
        if node.op_type in QDQ:
            findings += _pair(graph, node, scheme)
        else:
            findings += layout.findings(graph, node, scheme)
    findings += _outputs(graph, scheme)
    return findings


def _opset(graph: Graph) -> Iterator[Finding]:
    opset = next((o.version for o in graph.model.opset_import if o.domain in _OWN), 0)
    first = next((n for n in graph.nodes if n.op_type in QDQ), None)
    if first is not None and opset < PER_CHANNEL_OPSET:
        yield found("opset", first.name, f"The file has opset {opset}.")


def _forms(
    node: "onnx.NodeProto", scheme: "IntegerScheme", local: set[tuple[str, str]]
) -> Iterator[Finding]:
    domain = "" if node.domain in _OWN else node.domain
    if node.op_type in QDQ:
        if domain and domain not in scheme.domains:
            yield found("contrib-qdq", node.name, f"{node.op_type} is of domain {domain!r}.")
    elif node.op_type in DYNAMIC:
        if node.op_type not in scheme.dynamic_operators:
            message = f"{node.op_type} finds its ranges at every run."
            yield found("dynamic-quantization", node.name, message)
    elif node.op_type in INTEGER:
        if not scheme.integer_operators:
            message = f"{scheme.title or scheme.name}: {node.op_type} is not taken."
            yield found("operator-form", node.name, message)
    elif domain and domain not in scheme.domains and (domain, node.op_type) not in local:
        message = f"{domain}.{node.op_type} is unknown to dialect {scheme.name}."
        yield found("unknown-operator", node.name, message)


def _pair(graph: Graph, node: "onnx.NodeProto", scheme: "IntegerScheme") -> Iterator[Finding]:
    """What is wrong with one QuantizeLinear or DequantizeLinear."""
    scale = graph.array(node.input[1])
    if scale is None:
        yield found("scale-not-constant", node.name, "The scale is computed, not a constant.")
        return
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        yield found("scale-not-positive", node.name, "A scale is zero, negative or not finite.")
    if graph.is_constant(node.input[0]):
        yield from _weights(graph, node, scheme)
    elif node.op_type == "QuantizeLinear":
        yield from _activations(graph, node, scheme)
    elif not _of_a_constant(graph, node):
        yield from _dequantizer(graph, node)


def _of_a_constant(graph: Graph, dequantize: "onnx.NodeProto") -> bool:
    made = graph.producer(dequantize.input[0])
    return (
        made is not None and made.op_type == "QuantizeLinear" and graph.is_constant(made.input[0])
    )


def _dequantizer(graph: Graph, node: "onnx.NodeProto") -> Iterator[Finding]:
    made = graph.producer(node.input[0])
    if made is not None and made.op_type in DYNAMIC | INTEGER:
        return
    quantize = graph.integers_from(node.input[0])
    if quantize is None:
        message = f"The integers of {node.input[0]!r} come from no QuantizeLinear."
        yield found("unpaired", node.name, message)
        return
    mine, other = graph.levels(node), graph.levels(quantize)
    if mine is None or other is None:
        return
    if not all(_agree(a.ravel(), b.ravel()) for a, b in zip(mine, other, strict=True)):
        message = f"Its scale or zero point differs from that of {quantize.name!r}."
        yield found("pair-mismatch", node.name, message)


def _agree(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether levels are equal; one value stands for all channels."""
    return np.array_equal(one, other) or (
        1 in (one.size, other.size) and bool(np.all(one == other))
    )


def _activations(
    graph: Graph, node: "onnx.NodeProto", scheme: "IntegerScheme"
) -> Iterator[Finding]:
    tensor, name, levels = node.input[0], node.name, graph.levels(node)
    dtype = graph.integer_dtype(node)
    if levels is not None and levels[0].size > 1 and not scheme.per_channel_activations:
        message = f"Tensor {tensor!r} is quantized with {levels[0].size} scales."
        yield found("activation-per-channel", name, message)
    if dtype not in {"int8", "uint8"}:
        message = f"Tensor {tensor!r} is quantized to {dtype}; {scheme.name} has 8 bits."
        yield found("bit-width", name, message)
        return
    if dtype != scheme.activation:
        message = (
            f"Tensor {tensor!r} is quantized to {dtype}; {scheme.name} wants {scheme.activation}."
        )
        yield found("activation-dtype", name, message)
    if scheme.activation_symmetric and levels is not None and (levels[1] != 0).any():
        message = f"Tensor {tensor!r} has zero point {int(levels[1].ravel()[0])}, and not 0."
        yield found("zero-point", name, message)
    readers = graph.readers(node.output[0])
    if not graph.dequantizers(node) and not any(r.op_type in INTEGER | DYNAMIC for r in readers):
        yield found("unpaired", name, f"Nothing dequantizes {node.output[0]!r}.")


def _weights(graph: Graph, node: "onnx.NodeProto", scheme: "IntegerScheme") -> Iterator[Finding]:
    tensor, name, levels = node.input[0], node.name, graph.levels(node)
    zero = None if levels is None else levels[1]
    quantizes = node.op_type == "QuantizeLinear"
    dtype = graph.integer_dtype(node) if quantizes else graph.dtype(tensor)
    if zero is not None and (zero != 0).any() and dtype == "int8":
        message = f"Weight {tensor!r} has a zero point that is not 0."
        yield found("weight-zero-point", name, message)
    if dtype == "int32":
        if not scheme.quantize_bias:
            message = f"Bias {tensor!r} is an int32 tensor with a DequantizeLinear."
            yield found("bias-quantized", name, message)
        return
    reached = [node] if not quantizes else graph.dequantizers(node)
    layers = [(r, d) for d in reached for r in graph.readers(d.output[0])]
    if any(r.op_type in WEIGHTED and d.output[0] in r.input[2:] for r, d in layers):
        if not scheme.quantize_bias:
            message = f"Bias {tensor!r} is quantized to {dtype}."
            yield found("bias-quantized", name, message)
        return
    if quantizes:
        message = f"Weight {tensor!r} is stored in {graph.dtype(tensor)} and quantized at load."
        yield found("float-weight", name, message)
    if dtype == "uint8":
        yield found("weight-dtype", name, f"Weight {tensor!r} is uint8.")
    elif dtype != "int8":
        message = f"Weight {tensor!r} has dtype {dtype}; {scheme.name} has 8 bits."
        yield found("bit-width", name, message)
    yield from _weight_scales(graph, node, scheme, [r for r, _ in layers])
    if dtype == "int8" and scheme.weight_bits == 7 and not quantizes:
        held = graph.array(tensor)
        if held is not None and over_seven_bits(graph, node, held):
            message = f"Weight {tensor!r} uses 8 bits; without VNNI, u8·s8 sums saturate."
            yield found("weight-bits", name, message)


def _weight_scales(
    graph: Graph, node: "onnx.NodeProto", scheme: "IntegerScheme", layers: "list[onnx.NodeProto]"
) -> Iterator[Finding]:
    layer = next((r for r in layers if r.op_type in WEIGHTED), None)
    shape, scale = graph.shape(node.input[0]), graph.array(node.input[1])
    if layer is None or scale is None or not shape:
        return
    axis = output_axis(layer, len(shape))
    if scale.size == 1:
        if scheme.per_channel and shape[axis] > 1:
            message = f"Weight {node.input[0]!r} has one scale for {shape[axis]} channels."
            yield found("weight-per-tensor", node.name, message)
    elif graph.axis(node) % len(shape) != axis and attribute(node, "block_size", 0) == 0:
        message = (
            f"Weight {node.input[0]!r} has its scales along axis {graph.axis(node)}; "
            f"the outputs of {layer.name!r} are axis {axis}."
        )
        yield found("weight-axis", node.name, message)


def over_seven_bits(graph: Graph, node: "onnx.NodeProto", held: np.ndarray) -> bool:
    """Whether a layer reads int8 weights of more than 7 bits whose products are summed in 16."""
    layers = [r for r in graph.readers(node.output[0]) if r.op_type in WEIGHTED]
    if any(r.op_type == "Conv" for r in layers) and held.ndim > 2 and held.shape[1] == 1:
        return False  # depthwise kernels sum in 32 bits
    return bool(layers) and int(np.abs(held.astype(np.int16)).max(initial=0)) > _SEVEN_BITS


def _outputs(graph: Graph, scheme: "IntegerScheme") -> Iterator[Finding]:
    for output in graph.model.graph.output:
        made = graph.producer(output.name)
        if made is None or made.op_type != "DequantizeLinear":
            continue
        quantize = graph.integers_from(made.input[0])
        if quantize is not None and not layout.makes_integer(graph, quantize, scheme):
            yield found("output-quantized", made.name, f"Output {output.name!r} is quantized.")
