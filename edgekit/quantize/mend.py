"""`edgekit lint --fix`: what a file of another tool breaks of a dialect, written as it should be.

Each function mends one rule in place and says what it did. Where a quantizer does the work of a
ReLU that was folded into it, and no longer will, the ReLU is written again. None needs calibration
data: ranges are those that the file holds already. A symmetric range that covers an asymmetric one
has up to twice its step, which is why such mends are called lossy, and why the result is run
against the original.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgekit.quantize import dialect, floats, layout, weights
from edgekit.quantize.detect import QDQ
from edgekit.quantize.graph import WEIGHTED, Graph
from edgekit.quantize.lint import PER_CHANNEL_OPSET
from edgekit.quantize.rules import Kind, Mended

if TYPE_CHECKING:
    import onnx

    from edgekit.target import IntegerScheme

_EIGHT_BITS = frozenset({"int8", "uint8"})
_MIDDLE = 128
_EXACT: Kind = "exact"
_ROUNDING: Kind = "rounding"
_LOSSY: Kind = "lossy"


Step = Callable[[Graph, "IntegerScheme"], list[Mended]]


def mend(
    model: "onnx.ModelProto", scheme: "IntegerScheme"
) -> "tuple[onnx.ModelProto, list[Mended]]":
    """Mend a copy of a model, as far as it can be without calibration data.

    Args:
        model: whole, with its data.
        scheme: the dialect to write.

    Returns:
        The copy, and what was mended in it, in that order.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy, done = _raise_opset(copy)
    for step in STEPS:
        done += step(Graph(copy), scheme)
    if done:
        copy.graph.ClearField("value_info")
        copy.graph.ClearField("quantization_annotation")
        used = {n.domain for n in copy.graph.node} | {f.domain for f in copy.functions}
        kept = [o for o in copy.opset_import if o.domain in {"", "ai.onnx", *used}]
        del copy.opset_import[len(kept) :]
        for place, opset in zip(copy.opset_import, kept, strict=True):
            place.CopyFrom(opset)
    return copy, done


def _raise_opset(model: "onnx.ModelProto") -> "tuple[onnx.ModelProto, list[Mended]]":
    import onnx

    opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 0)
    first = next((n for n in model.graph.node if n.op_type in QDQ), None)
    if first is None or opset >= PER_CHANNEL_OPSET:
        return model, []
    try:
        raised = onnx.version_converter.convert_version(model, PER_CHANNEL_OPSET)
    except Exception:  # noqa: BLE001 - the converter raises whatever its C++ raises
        return model, []
    what = f"opset raised from {opset} to {PER_CHANNEL_OPSET}"
    return raised, [Mended("opset", first.name, "exact", what)]


def _domains(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    done = []
    for node in graph.nodes:
        own = node.domain in {"", "ai.onnx", *scheme.domains}
        if node.op_type in QDQ and not own and graph.integer_dtype(node) in _EIGHT_BITS:
            node.domain = ""
            done.append(Mended("contrib-qdq", node.name, "exact", "written as ONNX's own"))
    return done


def _outputs(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    done, drop = [], []
    for output in graph.model.graph.output:
        made = graph.producer(output.name)
        quantize = None if made is None else graph.producer(made.input[0])
        if made is None or quantize is None or graph.readers(output.name):
            continue
        if (made.op_type, quantize.op_type) != ("DequantizeLinear", "QuantizeLinear"):
            continue
        if graph.is_constant(quantize.input[0]) or layout.makes_integer(graph, quantize, scheme):
            continue
        what = f"{output.name!r} left in float"
        done.append(Mended("output-quantized", made.name, "rounding", what))
        drop += _take_out(graph, quantize, made)
    graph.edit(drop=drop, sort=True)
    return done


def _take_out(
    graph: Graph, quantize: "onnx.NodeProto", dequantize: "onnx.NodeProto"
) -> "list[onnx.NodeProto]":
    """Let whoever reads a pair read the tensor behind it; the nodes that are to be dropped."""
    dequantize.input[0] = _clipped(graph, quantize)
    drop = [dequantize] if graph.bypass(dequantize) else []
    alone = all(r is dequantize for r in graph.readers(quantize.output[0]))
    return [*drop, quantize] if alone and not graph.is_output(quantize.output[0]) else drop


def _clipped(graph: Graph, quantize: "onnx.NodeProto") -> str:
    """The tensor behind a quantizer, cut off where the quantizer cut off a folded activation."""
    from onnx import helper

    source, levels = str(quantize.input[0]), graph.levels(quantize)
    if levels is None or not layout.clips(graph, quantize):
        return source
    out = graph.unique(f"{source}/Clip")
    ends = [
        graph.set_array(graph.unique(f"{source}/{end}"), np.asarray(value, levels[0].dtype))
        for end, value in zip(("low", "high"), dialect.range_of(*levels), strict=True)
    ]
    node = helper.make_node("Clip", [source, *ends], [out], name=out)
    graph.add(node)
    return out


def _rectified(graph: Graph, quantize: "onnx.NodeProto") -> str:
    """The tensor before a quantizer, with the ReLU that was folded into it."""
    from onnx import helper

    source = str(quantize.input[0])
    known = next((r for r in graph.readers(source) if r.op_type == "Relu"), None)
    if known is not None:
        return str(known.output[0])
    out = graph.unique(f"{source}/Relu")
    graph.add(helper.make_node("Relu", [source], [out], name=out))
    return out


def _drop_unread_pairs(graph: Graph) -> None:
    """Drop pairs that nothing reads any more."""
    drop: list[onnx.NodeProto] = []
    gone: set[int] = set()
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        for node in graph.nodes:
            out = node.output[0] if node.output else ""
            read = any(id(r) not in gone for r in graph.readers(out)) or graph.is_output(out)
            if node.op_type == kind and not read:
                drop.append(node)
                gone.add(id(node))
    graph.edit(drop=drop, sort=True)


def _conv_add(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    if not scheme.skip_input_of_add:
        return []
    done = []
    for add in graph.nodes:
        index = layout.between_conv_and_add(graph, add) if add.op_type == "Add" else None
        if index is None:
            continue
        pair = add.input[index]
        what = f"the pair behind {graph.source(pair)!r} taken out"
        done.append(Mended("conv-add", add.name, "rounding", what))
        graph.rewire(pair, graph.source(pair), lambda n, add=add: n is add)  # type: ignore[misc]
    _drop_unread_pairs(graph)
    return done


def _skip_input(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    """Let the add read the pair that its skip tensor has for other readers."""
    if not scheme.skip_input_of_add:
        return []
    done = []
    for add in graph.nodes:
        index = layout.float_skip(graph, add) if add.op_type == "Add" else None
        if index is None:
            continue
        skip = add.input[index]
        pairs = [d for q in layout.quantizers(graph, skip) for d in graph.readers(q.output[0])]
        pairs = [d for d in pairs if d.op_type == "DequantizeLinear"]
        if not pairs:
            continue
        what = f"reads the pair that {skip!r} has for other layers"
        done.append(Mended("skip-input", add.name, "rounding", what))
        add.input[index] = pairs[0].output[0]
    graph.edit(sort=True)
    return done


def _conv_activation(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    """Put a pair behind the activation: quantizing and ReLU commute, as 0 is a level."""
    from onnx import helper

    del scheme
    done = []
    for node in graph.nodes:
        made = layout.paired_producer(graph, node.input[0]) if node.input else None
        if node.op_type not in layout.ACTIVATIONS or made is None or made.op_type not in WEIGHTED:
            continue
        pair, out = graph.producer(node.input[0]), node.output[0]
        quantize = None if pair is None else graph.producer(pair.input[0])
        if pair is None or quantize is None or not layout.alone(graph, node.input[0]):
            continue
        node.input[0] = graph.source(node.input[0])
        if layout.quantizers(graph, out) or graph.is_output(out):
            what, kind = "the pair before it taken out", _ROUNDING
        else:
            q, dq = graph.unique(f"{out}/QuantizeLinear"), graph.unique(f"{out}/DequantizeLinear")
            graph.rewire(out, dq, lambda _: True)
            for old, names in ((quantize, (out, q)), (pair, (q, dq))):
                new = helper.make_node(
                    old.op_type, [names[0], *old.input[1:]], [names[1]], name=names[1]
                )
                new.attribute.extend(old.attribute)
                graph.add(new)
            what = "the pair put behind it"
            kind = _EXACT if node.op_type == "Relu" else _ROUNDING
        done.append(Mended("conv-activation", node.name, kind, what))
    _drop_unread_pairs(graph)
    return done


def _high_precision(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    done = []
    for node in graph.nodes:
        if node.op_type not in scheme.high_precision:
            continue
        for index in layout.needless(graph, node, scheme):
            source = graph.source(node.input[index])
            done.append(
                Mended("high-precision", node.name, "rounding", f"reads {source!r} in float")
            )
            quantize = graph.producer(graph.producer(node.input[index]).input[0])  # type: ignore[union-attr]
            node.input[index] = source if quantize is None else _clipped(graph, quantize)
    _drop_unread_pairs(Graph(graph.model))
    return done


def _per_channel_activations(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    if scheme.per_channel_activations:
        return []
    done = []
    for node in graph.activation_quantizers():
        levels = graph.levels(node)
        if levels is None or levels[0].size == 1 or str(levels[1].dtype) not in _EIGHT_BITS:
            continue
        scale, zero = levels
        if (scale == scale.ravel()[0]).all() and (zero == zero.ravel()[0]).all():
            kind, value = _EXACT, (scale.reshape(-1)[0], zero.reshape(-1)[0])
        else:
            symmetric = bool((zero == 0).all()) and zero.dtype == np.int8
            low, high = dialect.range_of(scale, zero)
            kind, value = _LOSSY, dialect.parameters(low, high, str(zero.dtype), symmetric)
        graph.set_levels(node, np.asarray(value[0], np.float32), np.asarray(value[1], zero.dtype))
        what = f"{scale.size} scales of {node.input[0]!r} became one"
        done.append(Mended("activation-per-channel", node.name, kind, what))
    graph.edit()
    return done


def _activation_levels(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    """Write every activation in the dialect's dtype, with zero points of 0 where it has none."""
    done = []
    quantizers = graph.activation_quantizers()
    rectify = {id(q) for q in quantizers if layout.clips(graph, q)}
    for node in quantizers:
        levels = graph.levels(node)
        dtype = graph.integer_dtype(node)
        if levels is None or dtype not in _EIGHT_BITS:
            continue
        scale, zero = levels
        shift = {"uint8": _MIDDLE, "int8": -_MIDDLE}[scheme.activation]
        moved = zero.astype(np.int32) + (shift if dtype != scheme.activation else 0)
        rule = "activation-dtype" if dtype != scheme.activation else "zero-point"
        if scheme.activation_symmetric and (moved != 0).any():
            low, high = dialect.range_of(scale, zero)
            value = dialect.parameters(low, high, scheme.activation, symmetric=True)
            what = f"{dtype} with zero point {int(zero.ravel()[0])} to symmetric"
            done.append(Mended(rule, node.name, "lossy", f"{what} {scheme.activation}"))
            if id(node) in rectify:
                node.input[0] = _rectified(graph, node)
            graph.set_levels(node, *value)
        elif dtype != scheme.activation:
            what = f"{dtype} to {scheme.activation}: the same levels, 128 apart"
            done.append(Mended(rule, node.name, "exact", what))
            graph.set_levels(node, scale, moved.astype(scheme.activation))
    graph.edit(sort=True)
    return done


def _several_pairs(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    del scheme
    done = []
    for tensor in dict.fromkeys(n.input[0] for n in graph.activation_quantizers()):
        pairs = layout.quantizers(graph, tensor)
        if len(pairs) < 2 or not all(dialect.is_plain_pair(graph, p) for p in pairs):
            continue
        levels = [graph.levels(p) for p in pairs]
        one = levels[0]
        same = one is not None and all(
            lv is not None and np.array_equal(lv[0], one[0]) and np.array_equal(lv[1], one[1])
            for lv in levels
        )
        what = f"{len(pairs)} pairs of {tensor!r} became one"
        kind: Kind = "exact" if same else "rounding"
        done.append(Mended("several-pairs", pairs[1].name, kind, what))
    dialect.one_pair_per_activation(graph)
    return done


def _shared_scales(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    """The largest scale for all that a node joins, until nothing changes any more."""
    done: dict[str, Mended] = {}
    changed = True
    while changed:
        changed = False
        for node in graph.nodes:
            pairs = layout.joined_pairs(graph, node, scheme)
            levels = [lv for lv in map(graph.levels, pairs) if lv is not None]
            if len(levels) != len(pairs) or any(s.size > 1 or (z != 0).any() for s, z in levels):
                continue
            scales = {float(s.ravel()[0]) for s, _ in levels}
            if len(scales) < 2:
                continue
            changed = True
            for pair, (scale, zero) in zip(pairs, levels, strict=True):
                graph.set_levels(pair, np.full_like(scale, max(scales)), zero)
            what = f"{len(scales)} scales became one, the largest"
            kind = _ROUNDING if max(scales) <= 2 * min(scales) else _LOSSY
            done[node.name] = Mended("shared-scale", node.name, kind, what)
    graph.edit()
    return list(done.values())


def _gemm_bias(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    if not (scheme.quantize_bias and scheme.integer_outputs):
        return []
    layers = layout.float_gemm_biases(graph)
    dialect.integer_gemm_bias(graph)
    what = "bias as int32, with the scale of the products"
    return [Mended("gemm-bias", n.name, "rounding", what) for n in layers]


def _float_layers(graph: Graph, scheme: "IntegerScheme") -> list[Mended]:
    kept = floats.keep(graph) if floats.concerns(scheme) else []
    what = "its input's scale written for each channel"
    return [Mended("float-layer", name, "exact", what) for name in kept]


def to_symmetric(graph: Graph, scheme: "IntegerScheme") -> dict[str, int]:
    """Write asymmetric activations symmetrically, with one scale for what a node joins.

    Returns:
        What was done, in how many places.
    """
    return {
        "symmetric activations": len(_activation_levels(graph, scheme)),
        "scales shared": len(_shared_scales(graph, scheme)),
    }


STEPS: tuple[Step, ...] = (
    _domains,
    weights.float_biases,
    weights.integer_weights,
    weights.symmetric_weights,
    _outputs,
    _conv_add,
    _conv_activation,
    _high_precision,
    _per_channel_activations,
    _activation_levels,
    _several_pairs,
    _skip_input,
    _shared_scales,
    weights.seven_bits,
    _gemm_bias,
    _float_layers,
)
