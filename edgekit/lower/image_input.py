"""Frames as cameras give them: 8-bit, channels last, not normalised.

The network was trained on x·scale, less mean, by std. With s = scale/std that is
(x - mean/scale)·s, and a convolution with zero padding keeps its meaning when s moves into its
weights: one subtraction is left. Without a convolution first, a multiplication is left too.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.lower.deploy import ImageInput, add_constant, find, free_name

if TYPE_CHECKING:
    import onnx

_RANK = 4


def take_images(model: "onnx.ModelProto", wanted: ImageInput) -> None:
    """Let an input take frames, in place.

    Raises:
        UsageError: the input is no float32 NCHW tensor, or has another number of channels.
    """
    import onnx

    held = {i.name for i in model.graph.initializer}
    value = find([i for i in model.graph.input if i.name not in held], wanted.name, "input")
    kind = value.type.tensor_type
    dims = kind.shape.dim
    if kind.elem_type != onnx.TensorProto.FLOAT or len(dims) != _RANK:
        raise UsageError(
            f"Input {value.name!r} is not a float32 tensor (batch, channels, height, width).",
            "Ask for image input on such an input; `edgekit inspect` shows them.",
        )
    channels = dims[1].dim_value
    mean, std = (
        _per_channel(v, channels, n) for v, n in ((wanted.mean, "mean"), (wanted.std, "std"))
    )
    name, inner = value.name, free_name(model, f"{value.name}/normalised")
    first = _only_convolution(model, name)
    for node in model.graph.node:
        for place, read in enumerate(node.input):
            if read == name:
                node.input[place] = inner
    factor = (wanted.scale / std).astype(np.float32)
    if first is not None:
        _scale_weights(model, first, factor)
        factor = np.ones(1, np.float32)
    nodes = _front(model, wanted, (name, inner), mean / wanted.scale, factor)
    behind = [type(n).FromString(n.SerializeToString()) for n in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *behind])
    kind.elem_type = onnx.TensorProto.UINT8 if wanted.dtype == "uint8" else onnx.TensorProto.FLOAT
    if wanted.layout == "NHWC":
        copies = [type(d).FromString(d.SerializeToString()) for d in dims]
        for dim, source in zip(dims, (copies[0], copies[2], copies[3], copies[1]), strict=True):
            dim.CopyFrom(source)


def _per_channel(values: tuple[float, ...], channels: int, name: str) -> NDArray[np.float64]:
    if len(values) not in {1, channels}:
        raise UsageError(
            f"`{name}` has {len(values)} values; the input has {channels} channels.",
            "Give one for each channel, or one for all.",
        )
    return np.asarray(values, np.float64)


def _only_convolution(model: "onnx.ModelProto", name: str) -> "onnx.NodeProto | None":
    """The convolution that alone reads a tensor, with weights of its own; else None."""
    readers = [n for n in model.graph.node if name in n.input]
    if len(readers) != 1 or readers[0].op_type != "Conv":
        return None
    node = readers[0]
    grouped = any(a.name == "group" and a.i != 1 for a in node.attribute)
    constant = any(i.name == node.input[1] for i in model.graph.initializer)
    shared = sum(list(n.input).count(node.input[1]) for n in model.graph.node) > 1
    return node if constant and not grouped and not shared else None


def _scale_weights(
    model: "onnx.ModelProto", node: "onnx.NodeProto", factor: NDArray[np.float32]
) -> None:
    from onnx import numpy_helper

    tensor = next(i for i in model.graph.initializer if i.name == node.input[1])
    weight = numpy_helper.to_array(tensor)
    scaled = weight * factor.reshape(1, -1, *([1] * (weight.ndim - 2)))
    tensor.CopyFrom(numpy_helper.from_array(scaled.astype(weight.dtype), tensor.name))


def _front(
    model: "onnx.ModelProto",
    wanted: ImageInput,
    ends: tuple[str, str],
    shift: NDArray[np.float64],
    factor: NDArray[np.float32],
) -> "list[onnx.NodeProto]":
    """The nodes between the frames and the network."""
    import onnx

    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if wanted.dtype == "uint8":  # first of all: TensorRT transposes no uint8
        steps.append(("Cast", [], {"to": onnx.TensorProto.FLOAT}))
    if wanted.layout == "NHWC":
        steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    for operator, value, neutral in (("Sub", shift, 0.0), ("Mul", factor, 1.0)):
        if (value != neutral).any():
            array = value.astype(np.float32).reshape(1, -1, 1, 1)
            constant = add_constant(model, f"{ends[0]}/{operator}.by", array)
            steps.append((operator, [constant], {}))
    if not steps:
        steps.append(("Identity", [], {}))
    nodes, current = [], ends[0]
    for place, (operator, extra, attributes) in enumerate(steps):
        last = place == len(steps) - 1
        made = ends[1] if last else free_name(model, f"{ends[0]}/{operator}")
        name = free_name(model, f"{ends[0]}/{operator}/node")
        nodes.append(onnx.helper.make_node(operator, [current, *extra], [made], name, **attributes))
        current = made
    return nodes
