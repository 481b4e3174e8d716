"""MACs and parameters of an ONNX model, quantized or not.

Weights are followed through DequantizeLinear, so that the Q/DQ form of a layer costs what the layer
costs; scales and zero points are not parameters.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from edgekit.graph.macs import Cost

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]


def onnx_cost(model: "onnx.ModelProto", dims: Mapping[str, int] | None = None) -> Cost:
    """Count a model's MACs and parameters for one sample.

    Args:
        model: with its weights as initializers or Constant nodes.
        dims: sizes of dynamic dimensions by name. The first axis of the inputs counts as 1, and
            any other dimension that is not given as one unit (`32*h` as 32).

    Returns:
        The cost; `by_layer` is keyed by node name, and nodes whose shapes cannot be inferred, or
        that hold graphs of their own, are in `uncounted`. Their parameters count: of a branch, all
        that the file holds.
    """
    shapes = _Shapes(model, dims or {})
    layers: dict[str, tuple[int, int]] = {}
    uncounted: list[str] = []
    counted: set[str] = set()
    for index, node in enumerate(model.graph.node):
        key = node.name or f"{node.op_type}_{index}"
        rule = _RULES.get(node.op_type)
        macs = 0
        if rule is not None:
            try:
                macs = rule(node, shapes)
            except (KeyError, IndexError, ValueError):
                uncounted.append(key)
        elif _graphs(node):
            uncounted.append(key)
        parameters = 0
        for name in _weights(node, shapes):
            if name not in counted:
                counted.add(name)
                parameters += math.prod(shapes.weights[name])
        parameters += sum(map(_nested_parameters, _graphs(node)))
        if macs or parameters:
            old = layers.get(key, (0, 0))
            layers[key] = (old[0] + macs, old[1] + parameters)
    return Cost(
        macs=sum(m for m, _ in layers.values()),
        parameters=sum(p for _, p in layers.values()),
        by_layer=layers,
        uncounted=tuple(uncounted),
    )


def macs_by_precision(model: "onnx.ModelProto", cost: Cost) -> dict[str, int]:
    """Split a model's MACs by what they are computed in: `int8`, `float16`, `bfloat16`, `float32`.

    A product is in int8 where both its operands come out of DequantizeLinear, or its operator is a
    quantized one; weights alone in int8 are multiplied as floats.

    Args:
        model: the model that was counted.
        cost: what `onnx_cost` said of it.
    """
    found: dict[str, int] = {}
    for index, (node, precision) in enumerate(
        zip(model.graph.node, precisions(model), strict=True)
    ):
        macs = cost.by_layer.get(node.name or f"{node.op_type}_{index}", (0, 0))[0]
        if macs and precision:
            found[precision] = found.get(precision, 0) + macs
    return found


def precisions(model: "onnx.ModelProto") -> list[str]:
    """What each node multiplies in, as `macs_by_precision` has it; empty where it does not."""
    graph = model.graph
    types = {t.name: t.data_type for t in graph.initializer}
    types |= {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info)}
    dequantized = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    found = []
    for node in graph.node:
        operands = [name for name in node.input[:2] if name]
        if node.op_type not in _RULES:
            found.append("")
        elif node.op_type in _QUANTIZED_SLOTS or all(name in dequantized for name in operands):
            found.append("int8")
        else:
            kinds = [types[name] for name in operands if name in types]
            found.append(next((_HALVES[kind] for kind in kinds if kind in _HALVES), "float32"))
    return found


def weight_bytes(model: "onnx.ModelProto") -> int:
    """Bytes of a model's constants, as they are stored."""
    return sum(size_bytes(tensor.dims, tensor.data_type) for tensor in model.graph.initializer)


def size_bytes(shape: Iterable[int], data_type: int) -> int:
    """Bytes of a tensor of one of ONNX's element types."""
    import onnx

    bits = _BITS.get(data_type)
    if bits is None:
        bits = 8 * int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)
    return int(math.prod(shape) * bits + 7) // 8


class _Shapes:
    """Shapes of a model's tensors, with dynamic dimensions fixed.

    Attributes:
        known: tensor name to shape.
        weights: the same for initializers and constants.
        source: output of Q/DQ, Identity, Cast, Transpose and Reshape to the weight that it carries.
    """

    def __init__(self, model: "onnx.ModelProto", dims: Mapping[str, int]) -> None:
        graph = model.graph
        self.weights: dict[str, Shape] = {t.name: tuple(t.dims) for t in graph.initializer}
        self.floating = {t.name for t in graph.initializer if t.data_type in _FLOATS}
        self.source: dict[str, str] = {}
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.HasField("t"):
                    self.weights[node.output[0]] = tuple(attribute.t.dims)
                    if attribute.t.data_type in _FLOATS:
                        self.floating.add(node.output[0])
            carried = node.input[0] if node.input else ""
            carried = self.source.get(carried, carried)
            if node.op_type in _CARRIERS and carried in self.weights:
                self.source[node.output[0]] = carried
        fixed = fix_inputs(model, dims)
        self.known = {**_inferred(fixed), **self.weights}
        needed = {
            name
            for node in graph.node
            if node.op_type in _RULES
            for name in (*node.input, node.output[0])
            if name and name not in self.known and name not in self.source
        }
        if needed:
            self.known.update(_observed(fixed, sorted(needed)))

    def __call__(self, name: str) -> Shape:
        if name not in self.known and name in self.source:
            return self.weights[self.source[name]]
        return self.known[name]


def fix_inputs(model: "onnx.ModelProto", dims: Mapping[str, int]) -> "onnx.ModelProto":
    """A copy whose inputs have fixed shapes, and whose other shapes are forgotten."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    held = {t.name for t in copy.graph.initializer}
    for value in copy.graph.input:
        if value.name in held:
            continue
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                dim.dim_value = _fixed(dim.dim_param, axis, dims)
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    return copy


def _inferred(fixed: "onnx.ModelProto") -> dict[str, Shape]:
    """Shapes by ONNX's own inference, on a copy without the large tensors' data."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(fixed)
    for tensor in copy.graph.initializer:
        if tensor.data_type in _FLOATS and len(tensor.raw_data) > 1024:
            tensor.ClearField("raw_data")
    copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    found: dict[str, Shape] = {}
    for value in (*copy.graph.input, *copy.graph.value_info, *copy.graph.output):
        shape = value.type.tensor_type.shape
        if all(dim.HasField("dim_value") for dim in shape.dim) and value.type.tensor_type.HasField(
            "shape"
        ):
            found[value.name] = tuple(dim.dim_value for dim in shape.dim)
    return found


def _observed(fixed: "onnx.ModelProto", names: list[str]) -> dict[str, Shape]:
    """Shapes that inference does not find (behind a computed Reshape): run on zeros and look."""
    import numpy as np
    import onnx
    import onnxruntime as ort

    copy = onnx.ModelProto()
    copy.CopyFrom(fixed)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    held = {t.name for t in copy.graph.initializer}
    feeds = {
        value.name: np.zeros(
            [dim.dim_value for dim in value.type.tensor_type.shape.dim],
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
        )
        for value in copy.graph.input
        if value.name not in held
    }
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(
            copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        values = session.run(names, feeds)
    except Exception:  # noqa: BLE001 - onnxruntime's errors share no base; then it is uncounted
        return {}
    return {name: tuple(value.shape) for name, value in zip(names, values, strict=True)}


def _fixed(text: str, axis: int, dims: Mapping[str, int]) -> int:
    if text in dims:
        return dims[text]
    found = re.fullmatch(r"(?:(\d+)\s*\*\s*)?(\w+)", text or "one")
    factor, name = (int(found[1] or 1), found[2]) if found else (1, "")
    if axis == 0 and name not in dims:
        return 1
    return factor * dims.get(name, 1)


def _weights(node: "onnx.NodeProto", shapes: _Shapes) -> list[str]:
    """Names of the weights among a node's inputs, scales and zero points left out."""
    if node.op_type in _CARRIERS or node.op_type in _SETTINGS:
        return []
    slots = _QUANTIZED_SLOTS.get(node.op_type)
    found = []
    for place, name in enumerate(node.input):
        if slots is not None and place not in slots:
            continue
        if node.op_type == "BatchNormalization" and place > 2:
            continue  # running statistics are not trained
        root = shapes.source.get(name, name)
        if root not in shapes.weights:
            continue
        carried = root != name or slots is not None
        if carried or (root in shapes.floating and _is_weight(node, shapes.weights[root])):
            found.append(root)
    return found


def _graphs(node: "onnx.NodeProto") -> list["onnx.GraphProto"]:
    """The graphs inside a node: branches, bodies of loops."""
    found = [a.g for a in node.attribute if a.HasField("g")]
    return [*found, *(g for a in node.attribute for g in a.graphs)]


def _nested_parameters(graph: "onnx.GraphProto") -> int:
    """Floating-point constants of a graph inside a node, of more than one number each."""
    held = list(graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            held += [a.t for a in node.attribute if a.HasField("t")]
    sizes = [math.prod(t.dims) for t in held if t.data_type in _FLOATS]
    own: int = sum(size for size in sizes if size > 1)
    return own + sum(_nested_parameters(g) for node in graph.node for g in _graphs(node))


def _is_weight(node: "onnx.NodeProto", shape: Shape) -> bool:
    """Whether a constant is trained: a single number beside arithmetic is a setting."""
    return math.prod(shape) > 1 or (shape != () and node.op_type in {*_RULES, "PRelu"})


def _conv(node: "onnx.NodeProto", shapes: _Shapes, weight: int = 1) -> int:
    return math.prod(shapes(node.output[0])) * math.prod(shapes(node.input[weight])[1:])


def _conv_transpose(node: "onnx.NodeProto", shapes: _Shapes) -> int:
    return math.prod(shapes(node.input[0])) * math.prod(shapes(node.input[1])[1:])


def _gemm(node: "onnx.NodeProto", shapes: _Shapes) -> int:
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    left = shapes(node.input[0])
    return math.prod(shapes(node.output[0])) * (left[0] if transposed else left[-1])


def _matmul(node: "onnx.NodeProto", shapes: _Shapes) -> int:
    return math.prod(shapes(node.output[0])) * shapes(node.input[0])[-1]


def _qlinear_matmul(node: "onnx.NodeProto", shapes: _Shapes) -> int:
    left, right = shapes(node.input[0]), shapes(node.input[3])
    batch = math.prod(left[:-2]) if len(left) >= len(right) else math.prod(right[:-2])
    return batch * left[-2] * left[-1] * right[-1]


def _recurrent(node: "onnx.NodeProto", shapes: _Shapes) -> int:
    """Input (time, batch, features); weights (directions, gates * hidden, features)."""
    steps = math.prod(shapes(node.input[0])[:-1])
    return steps * sum(math.prod(shapes(name)) for name in node.input[1:3])


def _einsum(node: "onnx.NodeProto", shapes: _Shapes) -> int:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if "." in equation or len(terms) != 2:
        raise ValueError(equation)
    letters: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        for letter, size in zip(term, shapes(name), strict=True):
            letters[letter] = max(size, letters.get(letter, 1))
    return math.prod(letters.values())


_HALVES = {10: "float16", 16: "bfloat16"}
_BITS = {21: 4, 22: 4, 23: 4}  # uint4, int4, float4e2m1: two to a byte
_FLOATS = frozenset({1, 10, 11, 16})  # float32, float16, float64, bfloat16
_CARRIERS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "Identity", "Cast", "Transpose", "Reshape"}
)
_SETTINGS = frozenset({"Clip", "Resize", "Pad", "Constant", "ConstantOfShape", "Range", "Upsample"})
_QUANTIZED_SLOTS = {
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "QGemm": (0, 3, 6),
    "DynamicQuantizeLSTM": (1, 2, 3),
    "DynamicQuantizeMatMul": (0, 1, 4),
    "MatMulIntegerToFloat": (0, 1, 6),
}
_RULES: dict[str, Callable[["onnx.NodeProto", _Shapes], int]] = {
    "Conv": _conv,
    "FusedConv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": lambda node, shapes: _conv(node, shapes, weight=3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "MatMulInteger": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "QLinearMatMul": _qlinear_matmul,
    "QGemm": _qlinear_matmul,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,
    "Einsum": _einsum,
}
