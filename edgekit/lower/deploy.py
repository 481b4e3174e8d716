"""What deployment wants of an ONNX file: fixed shapes, camera frames as they come, ready answers.

Each change is made on a graph, and each is checked: the changed network must compute what the
original does with the change done outside, in NumPy (`reference`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgekit.errors import UsageError

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]
Ending = Literal["softmax", "argmax", "sigmoid"]
_IMAGE_RANK = 4


class ImageInput(BaseModel):
    """How frames come in: the graph turns them into what the network was trained on.

    Attributes:
        name: the input; may be left out where there is one alone.
        dtype: `uint8` as cameras give it, or `float32`.
        layout: `NHWC` as cameras give it, or `NCHW`.
        scale: factor on every value, first of all: 1/255 where the network takes 0 to 1.
        mean: subtracted from each channel after that.
        std: each channel is divided by it, last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    dtype: Literal["uint8", "float32"] = "uint8"
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    scale: float = Field(default=1 / 255, gt=0, allow_inf_nan=False)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @model_validator(mode="after")
    def _divides(self) -> "ImageInput":
        if any(s <= 0 for s in self.std):
            raise ValueError("std: each must be over 0")
        return self


class Boxes(BaseModel):
    """Box decoding and non-maximum suppression, after a detector's raw output.

    The detector gives (batch, boxes, 4 + classes), or (batch, 4 + classes, boxes) with
    `transposed`. The result is `detections`: (found, 3), int64: batch, class and box index, as
    ONNX's NonMaxSuppression gives them; `boxes` (batch, boxes, 4), corners, float32; and `scores`
    (batch, classes, boxes).

    Attributes:
        output: the detector's output; may be left out where there is one alone.
        format: `corners` (x1, y1, x2, y2) or `centre` (x, y, width, height).
        transposed: boxes stand on the last axis.
        score_threshold: smallest score.
        iou_threshold: boxes that overlap more are one.
        most: at most so many boxes for each class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str | None = None
    format: Literal["corners", "centre"] = "centre"
    transposed: bool = False
    score_threshold: float = Field(default=0.25, ge=0, le=1)
    iou_threshold: float = Field(default=0.45, ge=0, le=1)
    most: int = Field(default=100, ge=1)


class Deployment(BaseModel):
    """All that is asked for; nothing by default.

    Attributes:
        shapes: fixed shape of an input; other inputs keep theirs.
        image: how frames come in.
        outputs: which outputs stay, in this order; all where empty.
        rename: new names of inputs and outputs, by old name.
        append: what follows an output: softmax, sigmoid or argmax over axis 1.
        boxes: box decoding and non-maximum suppression.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shapes: dict[str, Shape] = {}
    image: ImageInput | None = None
    outputs: tuple[str, ...] = ()
    rename: dict[str, str] = {}
    append: dict[str, Ending] = {}
    boxes: Boxes | None = None

    @property
    def asked(self) -> bool:
        """Whether anything is."""
        return self != Deployment()


def deploy(model: "onnx.ModelProto", wanted: Deployment) -> None:
    """Change a graph in place: shapes, outputs, endings, image input and then names.

    Args:
        model: checked, with names for its dimensions.
        wanted: what to change.

    Raises:
        UsageError: an input or output does not exist, or does not fit what is asked.
    """
    import onnx

    from edgekit.lower import endings, image_input

    model.graph.ClearField("value_info")
    for name, shape in wanted.shapes.items():
        fix_shape(model, name, shape)
    for name, ending in wanted.append.items():
        endings.append(model, name, ending)
    if wanted.boxes is not None:
        endings.append_boxes(model, wanted.boxes)
    if wanted.outputs:
        select_outputs(model, wanted.outputs)
    if wanted.image is not None:
        image_input.take_images(model, wanted.image)
    rename(model, wanted.rename)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise UsageError(
            f"The network does not take what was asked: {str(e).strip().splitlines()[0]}",
            "A fixed shape must be one that the network runs with.",
        ) from e


def fix_shape(model: "onnx.ModelProto", name: str, shape: Shape) -> None:
    """Fix the shape of an input, and with it every dimension of the same name.

    Raises:
        UsageError: there is no such input, or the shape contradicts its fixed sizes.
    """
    import onnx

    value = find(model.graph.input, name, "input")
    dims = value.type.tensor_type.shape.dim
    fits = len(dims) == len(shape) and all(
        size >= 1 and (not d.HasField("dim_value") or d.dim_value == size)
        for d, size in zip(dims, shape, strict=True)
    )
    if not fits:
        have = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]
        raise UsageError(
            f"Input {name!r} is {have}; it cannot be fixed to {list(shape)}.",
            "Give one size for each dimension, and the fixed ones as they are.",
        )
    sizes = {d.dim_param: size for d, size in zip(dims, shape, strict=True) if d.dim_param}
    for each in model.graph.input:
        for dim in each.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    for dim, size in zip(dims, shape, strict=True):
        dim.dim_value = size
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(known)


def select_outputs(model: "onnx.ModelProto", names: tuple[str, ...]) -> None:
    """Keep these outputs, in this order, and drop what only the others needed.

    Raises:
        UsageError: an output does not exist, or is named twice.
    """
    if len(set(names)) < len(names):
        raise UsageError("An output is named twice.", "Name each once.")
    chosen = [find(model.graph.output, name, "output") for name in names]
    copies = [type(c).FromString(c.SerializeToString()) for c in chosen]
    del model.graph.output[:]
    model.graph.output.extend(copies)
    drop_unread(model)


def drop_unread(model: "onnx.ModelProto") -> None:
    """Drop nodes and initializers whose results nothing reads, in place. Inputs stay."""
    graph = model.graph
    wanted = {o.name for o in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= set(node.input) | inner_names(node)
    copies = [type(n).FromString(n.SerializeToString()) for n in reversed(nodes)]
    del graph.node[:]
    graph.node.extend(copies)
    held = [i for i in graph.initializer if i.name in wanted]
    if len(held) < len(graph.initializer):
        kept = [type(i).FromString(i.SerializeToString()) for i in held]
        del graph.initializer[:]
        graph.initializer.extend(kept)


def inner_names(node: "onnx.NodeProto") -> set[str]:
    """Every name that a node's sub-graphs read."""
    found: set[str] = set()
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            found |= {o.name for o in graph.output}
            for inner in graph.node:
                found |= set(inner.input) | inner_names(inner)
    return found


def rename(model: "onnx.ModelProto", names: Mapping[str, str]) -> None:
    """Give inputs and outputs new names, in place.

    Raises:
        UsageError: there is no such input or output, or the new name is taken.
    """
    graph = model.graph
    known = {v.name for v in (*graph.input, *graph.output)}
    if missing := sorted(set(names) - known):
        raise UsageError(
            f"There is no input or output {missing[0]!r}.", f"They are {', '.join(sorted(known))}."
        )
    taken = {n for node in graph.node for n in (*node.input, *node.output)}
    taken = (taken | known) - set(names)
    new = list(names.values())
    if clash := sorted({n for n in new if n in taken or not n or new.count(n) > 1}):
        raise UsageError(
            f"The name {clash[0]!r} is in use, or given twice.", "Give each a name of its own."
        )
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    _rename_in(graph, names)


def _rename_in(graph: "onnx.GraphProto", names: Mapping[str, str]) -> None:
    for node in graph.node:
        for listed in (node.input, node.output):
            for place, name in enumerate(listed):
                listed[place] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _rename_in(inner, names)
                for output in inner.output:
                    output.name = names.get(output.name, output.name)


def find(values: Any, name: str | None, what: str) -> Any:
    """The input or output of this name; the only one where None.

    Raises:
        UsageError: there is none, or several and no name.
    """
    listed = ", ".join(v.name for v in values)
    if name is None:
        if len(values) == 1:
            return values[0]
        raise UsageError(f"The model has several {what}s.", f"Name one of {listed}.")
    for value in values:
        if value.name == name:
            return value
    raise UsageError(f"The model has no {what} {name!r}.", f"It has {listed}.")


def add_constant(model: "onnx.ModelProto", name: str, value: NDArray[Any]) -> str:
    """Add an initializer under a name that is free; gives that name."""
    from onnx import numpy_helper

    made = free_name(model, name)
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), made))
    return made


def free_name(model: "onnx.ModelProto", name: str) -> str:
    """The name, with a number where it is taken."""
    graph = model.graph
    taken = {n for node in graph.node for n in (*node.input, *node.output, node.name)}
    taken |= {v.name for v in (*graph.input, *graph.output, *graph.initializer)}
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    return found
