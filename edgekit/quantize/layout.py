"""Rules on where pairs stand around layers, adds, concats and what computes in float."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize import floats, placement
from edgekit.quantize.graph import CONVOLUTIONS, MOVES, RECURRENT, WEIGHTED, Graph, attribute
from edgekit.quantize.rules import Finding, found

if TYPE_CHECKING:
    import onnx

    from edgekit.target import IntegerScheme

ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu"})
_POSITIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp"})
_KEEPS_SIGN = MOVES | {"Concat", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"}
_LAYER_NORM = "LayerNormalization"


def findings(graph: Graph, node: "onnx.NodeProto", scheme: "IntegerScheme") -> Iterator[Finding]:
    """What is wrong around a node that is neither Q nor DQ."""
    if node.op_type == "Add" and scheme.skip_input_of_add:
        yield from _residual(graph, node)
    if node.op_type in scheme.shared_scales or node.op_type in scheme.kept_scales:
        yield from _shared(graph, node, scheme)
    if node.op_type in scheme.high_precision:
        yield from _high_precision(graph, node, scheme)
    if node.op_type in ACTIVATIONS:
        yield from _activation(graph, node)
    if node.op_type in WEIGHTED:
        yield from _layer(graph, node, scheme)
    for name in dict.fromkeys(node.output):
        pairs = quantizers(graph, name)
        if len(pairs) > 1:
            message = f"Tensor {name!r} is quantized {len(pairs)} times."
            yield found("several-pairs", pairs[1].name, message)


def quantizers(graph: Graph, name: str) -> "list[onnx.NodeProto]":
    """The QuantizeLinear nodes that read a tensor."""
    return [r for r in graph.readers(name) if r.op_type == "QuantizeLinear"]


def paired_producer(graph: Graph, name: str) -> "onnx.NodeProto | None":
    """What computes the tensor behind a Q/DQ pair; None where `name` is no dequantized tensor."""
    source = graph.source(name)
    return None if source == name else graph.producer(source)


def alone(graph: Graph, name: str) -> bool:
    """Whether a Q/DQ pair, and the tensor behind it, have one reader each."""
    pair = graph.producer(name)
    tensors = (name, graph.source(name), *([] if pair is None else [pair.input[0]]))
    return all(len(graph.readers(t)) == 1 and not graph.is_output(t) for t in tensors)


def is_integer(graph: Graph, layer: "onnx.NodeProto") -> bool:
    """Whether a layer has quantized weights and a quantized input."""
    held = graph.weight(layer)
    return held is not None and held[1] and graph.dequantized(layer.input[0]) is not None


def clips(graph: Graph, quantize: "onnx.NodeProto") -> bool:
    """Whether a quantizer does the work of a ReLU that was folded into it.

    ONNX Runtime's quantizer takes a ReLU out where the range that follows begins at zero.
    """
    levels = graph.levels(quantize)
    if levels is None or str(levels[1].dtype) not in {"int8", "uint8"}:
        return False
    lowest = np.iinfo(levels[1].dtype).min
    return bool((levels[1] == lowest).all()) and not _positive(graph, quantize.input[0])


def _positive(graph: Graph, name: str) -> bool:
    """Whether a tensor is known to have no negative value."""
    made = graph.producer(name)
    if made is None:
        return False
    if made.op_type in _POSITIVE:
        return True
    if made.op_type == "Clip":
        low = graph.array(made.input[1]) if len(made.input) > 1 else None
        return low is not None and bool((low >= 0).all())
    if made.op_type == "DequantizeLinear":
        levels = graph.levels(made)
        return levels is not None and bool((levels[1] == np.iinfo(levels[1].dtype).min).all())
    if made.op_type in _KEEPS_SIGN:
        data = made.input if made.op_type == "Concat" else made.input[:1]
        return all(_positive(graph, each) for each in data)
    return False


def between_conv_and_add(graph: Graph, add: "onnx.NodeProto") -> int | None:
    """The input of a residual add with a pair that keeps a convolution from being fused with it.

    Of two convolutions the later one is fused, the other one is the skip and has its pair rightly.
    """
    order = {n.output[0]: i for i, n in enumerate(graph.nodes) if n.output}
    behind = []
    if len(add.input) != 2 or add.input[0] == add.input[1]:
        return None
    for index, name in enumerate(add.input):
        made = graph.producer(graph.source(name))
        if made is None or made.op_type not in CONVOLUTIONS:
            continue
        pair = graph.producer(name)
        paired = graph.source(name) != name
        if paired and pair is not None:
            quantize = graph.integers_from(pair.input[0])
            if quantize is not None and clips(graph, quantize):
                continue  # there is a ReLU between the two
        if not paired and len(graph.readers(name)) == 1:
            return None  # this convolution is fused with the add
        if paired and alone(graph, name):
            behind.append((order[made.output[0]], index))
    return max(behind)[1] if behind else None


def float_skip(graph: Graph, add: "onnx.NodeProto") -> int | None:
    """The input of a residual add that should be quantized and is not."""
    order = {n.name: i for i, n in enumerate(graph.nodes)}
    made = [graph.producer(name) for name in add.input]
    fused = {
        m.name for m in made if m is not None and m.op_type in CONVOLUTIONS and is_integer(graph, m)
    }
    skip = placement.skip_input(graph, add, fused, order)
    if skip is None or graph.dequantized(add.input[skip]) is not None:
        return None
    return skip


def _residual(graph: Graph, add: "onnx.NodeProto") -> Iterator[Finding]:
    index = between_conv_and_add(graph, add)
    if index is not None:
        made = paired_producer(graph, add.input[index])
        name = made.name if made is not None else ""
        message = f"Q/DQ stands between the convolution {name!r} and the residual add."
        yield found("conv-add", add.name, message)
        return
    index = float_skip(graph, add)
    if index is not None:
        message = f"Its skip input {add.input[index]!r} is not quantized."
        yield found("skip-input", add.name, message)


def _shared(graph: Graph, node: "onnx.NodeProto", scheme: "IntegerScheme") -> Iterator[Finding]:
    scales = {s for s in joined_scales(graph, node, scheme) if s is not None}
    if len(scales) > 1:
        kept = node.op_type in scheme.kept_scales
        what = "inputs and output" if kept else "inputs"
        message = f"The {what} of {node.op_type} {node.name!r} have {len(scales)} scales."
        yield found("shared-scale", node.name, message)


def joined_scales(
    graph: Graph, node: "onnx.NodeProto", scheme: "IntegerScheme"
) -> list[float | None]:
    """Scales of what a node's integers share, None for a scale that is not one number."""
    found_scales: list[float | None] = []
    for pair in joined_pairs(graph, node, scheme):
        scale = graph.array(pair.input[1])
        found_scales.append(None if scale is None or scale.size > 1 else float(scale.ravel()[0]))
    return found_scales


def joined_pairs(
    graph: Graph, node: "onnx.NodeProto", scheme: "IntegerScheme"
) -> "list[onnx.NodeProto]":
    """The QuantizeLinear nodes of the tensors whose scales a node wants to be one."""
    pairs = []
    if node.op_type in scheme.shared_scales or node.op_type in scheme.kept_scales:
        for name in node.input:
            made = graph.producer(name)
            if made is not None and made.op_type == "DequantizeLinear":
                pairs.append(graph.integers_from(made.input[0]))
    if pairs and node.op_type in scheme.kept_scales:
        pairs += quantizers(graph, node.output[0])[:1]
    return [p for p in pairs if p is not None]


def makes_integer(graph: Graph, quantize: "onnx.NodeProto", scheme: "IntegerScheme") -> bool:
    """Whether the pair is what lets the convolution before it have an integer kernel."""
    made = graph.producer(quantize.input[0])
    if made is not None and made.op_type in ACTIVATIONS:
        made = graph.producer(made.input[0])
    return scheme.integer_outputs and made is not None and made.op_type == "Conv"


def needless(graph: Graph, node: "onnx.NodeProto", scheme: "IntegerScheme") -> list[int]:
    """Inputs of an operator that computes in float which have a pair of their own tensor."""
    found_inputs = []
    for index, name in enumerate(node.input):
        source = graph.source(name)
        if source == name or graph.is_constant(source):
            continue
        made, pair = graph.producer(source), graph.producer(name)
        quantize = None if pair is None else graph.integers_from(pair.input[0])
        if quantize is None or makes_integer(graph, quantize, scheme):
            continue
        if node.op_type == _LAYER_NORM and made is not None and made.op_type in CONVOLUTIONS:
            continue  # TensorRT fuses this one
        found_inputs.append(index)
    return found_inputs


def _high_precision(
    graph: Graph, node: "onnx.NodeProto", scheme: "IntegerScheme"
) -> Iterator[Finding]:
    inputs = needless(graph, node, scheme)
    if inputs:
        message = f"{node.op_type} reads {graph.source(node.input[inputs[0]])!r} quantized."
        yield found("high-precision", node.name, message)
    elif node.op_type in RECURRENT:
        made = [graph.producer(name) for name in node.input[1:3]]
        if any(m is not None and m.op_type == "DequantizeLinear" for m in made):
            message = f"{node.op_type} has quantized weights, and computes in float."
            held = found("high-precision", node.name, message)
            yield Finding(held.node, held.rule, message, "Leave its weights in float.", "note")


def _activation(graph: Graph, node: "onnx.NodeProto") -> Iterator[Finding]:
    made = paired_producer(graph, node.input[0])
    if made is None or made.op_type not in WEIGHTED or not alone(graph, node.input[0]):
        return
    message = f"Q/DQ stands between {made.name!r} and its {node.op_type}."
    yield found("conv-activation", node.name, message)


def _layer(graph: Graph, node: "onnx.NodeProto", scheme: "IntegerScheme") -> Iterator[Finding]:
    if not is_integer(graph, node):
        if floats.concerns(scheme) and floats.is_taken(graph, node):
            yield found("float-layer", node.name, f"The weights of {node.name!r} are float.")
        return
    if scheme.integer_outputs and node.op_type == "Conv" and not _integer_output(graph, node):
        message = f"The output of {node.op_type} {node.name!r} stays in float."
        yield found("unfused-layer", node.name, message)
    if scheme.integer_outputs and scheme.quantize_bias and _float_bias(graph, node):
        yield found("gemm-bias", node.name, f"The bias of {node.name!r} is float.")
    channels = _channels(graph, node)
    if channels and min(channels) < scheme.minimum_channels:
        message = f"{node.op_type} {node.name!r} has {min(channels)} channels."
        yield found("narrow-layer", node.name, message)


def _integer_output(graph: Graph, node: "onnx.NodeProto") -> bool:
    """Whether a layer's output, or that of its activation, is quantized, or leaves the model."""
    out = node.output[0]
    readers = graph.readers(out)
    if len(readers) == 1 and readers[0].op_type in ACTIVATIONS and not graph.is_output(out):
        out = readers[0].output[0]
        readers = graph.readers(out)
    return graph.is_output(out) or any(r.op_type == "QuantizeLinear" for r in readers)


def _channels(graph: Graph, node: "onnx.NodeProto") -> tuple[int, ...]:
    """Output and input channels of a dense convolution; none for other layers."""
    held = graph.weight(node)
    shape = graph.shape(held[0]) if held is not None else None
    groups = attribute(node, "group", 1)
    if node.op_type != "Conv" or not shape or (groups > 1 and shape[1] == 1):
        return ()
    return shape[0], shape[1] * groups


def float_gemm_biases(graph: Graph) -> "list[onnx.NodeProto]":
    """Quantized Gemm layers with a float bias and a float output."""
    return [n for n in graph.nodes if n.op_type == "Gemm" and _float_bias(graph, n)]


def _float_bias(graph: Graph, gemm: "onnx.NodeProto") -> bool:
    if gemm.op_type != "Gemm" or len(gemm.input) < 3 or not _plain_gemm(gemm):
        return False
    bias, weights = graph.array(gemm.input[2]), graph.producer(gemm.input[1])
    inputs = graph.dequantized(gemm.input[0])
    quantized = [r.op_type == "QuantizeLinear" for r in graph.readers(gemm.output[0])]
    if bias is None or bias.ndim != 1 or (quantized and all(quantized)):
        return False
    if any(n is None or n.op_type != "DequantizeLinear" for n in (weights, inputs)):
        return False
    return bool(np.isfinite(product_scale(graph, gemm)).all())


def product_scale(graph: Graph, gemm: "onnx.NodeProto") -> NDArray[Any]:
    """The scale of a layer's products, one for each output; NaN where one is computed."""
    scale = np.ones((), np.float64)
    for node in (graph.dequantized(gemm.input[0]), graph.producer(gemm.input[1])):
        known = None if node is None else graph.array(node.input[1])
        scale = scale * (np.nan if known is None else known.reshape(-1))
    return scale


def _plain_gemm(gemm: "onnx.NodeProto") -> bool:
    attributes = {a.name: a for a in gemm.attribute}
    return all(attributes[n].f == 1.0 for n in ("alpha", "beta") if n in attributes)
