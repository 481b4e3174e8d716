"""Which layers NVIDIA's deep learning accelerator (DLA, on Jetson Orin) can take, as data.

From "DLA Supported Layers and Restrictions" in NVIDIA's TensorRT documentation, for TensorRT 10 on
JetPack 6. Where the documentation of versions differs (Div and Pow came later), the narrower one
counts: a layer that is predicted for the DLA should be taken. What is not in the table is predicted
for the GPU.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

Shape = Sequence[int | str]

MAX_BATCH = 4096
MAX_SIZE = 8192
SPATIAL = 2
PRECISIONS = frozenset({"float16", "int8"})

# attribute: (lowest, highest, ONNX's default)
Limits = Mapping[str, tuple[int, int, int]]
CONVOLUTION: Limits = {
    "kernel_shape": (1, 32, 1),
    "strides": (1, 8, 1),
    "pads": (0, 31, 0),
    "dilations": (1, 32, 1),
    "group": (1, 8192, 1),
}
DECONVOLUTION: Limits = {
    "kernel_shape": (1, 32, 1),
    "strides": (1, 32, 1),
    "pads": (0, 0, 0),
    "dilations": (1, 1, 1),
    "group": (1, 1, 1),
}
POOLING: Limits = {
    "kernel_shape": (1, 8, 1),
    "strides": (1, 16, 1),
    "pads": (0, 7, 0),
    "dilations": (1, 1, 1),
}
LIMITS: dict[str, Limits] = {
    "Conv": CONVOLUTION,
    "ConvTranspose": DECONVOLUTION,
    "MaxPool": POOLING,
    "AveragePool": POOLING,
}
GLOBAL_POOLING = frozenset({"GlobalAveragePool", "GlobalMaxPool"})
ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Max", "Min", "Sum"})
ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Tanh", "Clip", "LeakyRelu"})
FULLY_CONNECTED = frozenset({"Gemm", "MatMul"})
PLAIN = ACTIVATIONS | ELEMENTWISE | {"BatchNormalization"}
REFUSED = {
    "Div": "the DLA has no Div; multiply by the reciprocal",
    "Pow": "the DLA has no Pow; write x·x",
    "Erf": "the DLA has no Erf, which GELU is made of; use ReLU or Sigmoid",
    "Sqrt": "the DLA has no Sqrt",
    "HardSwish": "the DLA has no HardSwish; use ReLU or Sigmoid",
    "QuantizeLinear": "the DLA takes no Q/DQ nodes in TensorRT 10",
    "DequantizeLinear": "the DLA takes no Q/DQ nodes in TensorRT 10",
}


def why_not(
    node: "onnx.NodeProto",
    shapes: Mapping[str, Shape],
    dtypes: Mapping[str, str],
    constants: set[str],
) -> str:
    """Why a layer cannot run on the DLA; empty where it can.

    Args:
        node: the layer.
        shapes: of its tensors, as far as they are known.
        dtypes: NumPy names of its tensors' dtypes.
        constants: names of the initializers.
    """
    if node.op_type in REFUSED:
        return REFUSED[node.op_type]
    known = PLAIN | FULLY_CONNECTED | GLOBAL_POOLING | set(LIMITS) | {"Concat"}
    if node.op_type not in known:
        return f"{node.op_type} is not in the table of layers that the DLA takes"
    computed = [n for n in (*node.input, *node.output) if n and n not in constants]
    reasons = [
        *_tensors(computed, shapes, dtypes),
        *_attributes(node, shapes),
        *_operands(node, constants),
    ]
    return reasons[0] if reasons else ""


def _tensors(
    names: Sequence[str], shapes: Mapping[str, Shape], dtypes: Mapping[str, str]
) -> Iterator[str]:
    for name in names:
        shape = shapes.get(name)
        if shape is None:
            yield f"the shape of {name!r} is not known"
            continue
        if any(isinstance(size, str) for size in shape):
            yield f"the shape of {name!r} is dynamic; the DLA wants fixed sizes (see --shapes)"
        elif (shape and int(shape[0]) > MAX_BATCH) or any(int(s) > MAX_SIZE for s in shape[1:]):
            yield f"{name!r} is {list(shape)}; the DLA takes batches to {MAX_BATCH}, sizes to 8192"
        if dtypes.get(name, "") not in PRECISIONS:
            yield f"{name!r} is {dtypes.get(name, 'untyped')}; the DLA computes in float16 and int8"


def _attributes(node: "onnx.NodeProto", shapes: Mapping[str, Shape]) -> Iterator[str]:
    shape = shapes.get(node.input[0]) or ()
    spatial = len(shape) - 2
    if node.op_type in LIMITS or node.op_type in GLOBAL_POOLING:
        if shape and spatial != SPATIAL:
            yield f"it works on {spatial} spatial dimensions; the DLA on 2"
        if any(a.name == "auto_pad" and a.s not in {b"", b"NOTSET"} for a in node.attribute):
            yield "its padding is automatic; write it as numbers"
    for name, (low, high, default) in LIMITS.get(node.op_type, {}).items():
        for value in _numbers(node, name) or [default]:
            if not low <= value <= high:
                yield f"{name} {value} is outside {low} to {high}"
    if node.op_type in GLOBAL_POOLING:
        sizes = [s for s in shape[2:] if isinstance(s, int)]
        if any(s > POOLING["kernel_shape"][1] for s in sizes):
            yield f"it pools over {sizes}; the DLA's windows are up to 8"
    if node.op_type == "Concat" and (_numbers(node, "axis") or [0])[0] not in {1, 1 - len(shape)}:
        yield "the DLA concatenates channels only"


def _operands(node: "onnx.NodeProto", constants: set[str]) -> Iterator[str]:
    if node.op_type in FULLY_CONNECTED and not set(node.input[:2]) & constants:
        yield "both factors are computed; the DLA wants constant weights"
    elif (node.op_type in {"Conv", "ConvTranspose"}) and node.input[1] not in constants:
        yield "its weights are computed; the DLA wants constants"


def _numbers(node: "onnx.NodeProto", name: str) -> list[int]:
    found: Any = next((a for a in node.attribute if a.name == name), None)
    if found is None:
        return []
    return [int(v) for v in found.ints] or [int(found.i)]
