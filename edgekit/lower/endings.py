"""What follows a network in deployment, written into its graph: probabilities, classes, boxes."""

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import UsageError
from edgekit.lower.deploy import Boxes, Ending, add_constant, find, free_name

if TYPE_CHECKING:
    import onnx

_OPERATORS = {"softmax": "Softmax", "sigmoid": "Sigmoid", "argmax": "ArgMax"}
_COORDINATES = 4


def append(model: "onnx.ModelProto", name: str, ending: Ending) -> None:
    """Let an output go through an ending over axis 1, in place; it keeps its name.

    Raises:
        UsageError: there is no such output, or it has no axis 1.
    """
    import onnx

    output = find(model.graph.output, name, "output")
    if len(output.type.tensor_type.shape.dim) < 2:
        raise UsageError(
            f"Output {name!r} has no classes on axis 1 to take the {ending} of.",
            "Append it to an output of shape (batch, classes, ...).",
        )
    raw = free_name(model, f"{name}/raw")
    _rewire(model, name, raw)
    attributes: dict[str, Any] = {} if ending == "sigmoid" else {"axis": 1}
    if ending == "argmax":
        attributes["keepdims"] = 0
        output.type.tensor_type.elem_type = onnx.TensorProto.INT64
        dims = output.type.tensor_type.shape.dim
        kept = [type(d).FromString(d.SerializeToString()) for i, d in enumerate(dims) if i != 1]
        del dims[:]
        dims.extend(kept)
    node_name = free_name(model, f"{name}/{_OPERATORS[ending]}")
    model.graph.node.append(
        onnx.helper.make_node(_OPERATORS[ending], [raw], [name], node_name, **attributes)
    )


def append_boxes(model: "onnx.ModelProto", wanted: Boxes) -> None:
    """Decode boxes and suppress those that overlap, in place.

    The raw output gives way to `boxes`, `scores` and `detections`.

    Raises:
        UsageError: the output is not (batch, boxes, 4 + classes).
    """
    import onnx

    raw = find(model.graph.output, wanted.output, "output")
    dims = raw.type.tensor_type.shape.dim
    width = dims[1 if wanted.transposed else 2].dim_value if len(dims) == 3 else 0
    if width <= _COORDINATES:
        raise UsageError(
            f"Output {raw.name!r} does not hold boxes: it should be (batch, boxes, 4 + classes)"
            + (", transposed." if wanted.transposed else "."),
            "Give `transposed` where the boxes stand on the last axis.",
        )
    taken = {o.name for o in model.graph.output} & {"boxes", "scores", "detections"}
    if taken:
        raise UsageError(
            f"The model has an output {taken.pop()!r} already.", "Rename it first, in another step."
        )
    batch = dims[0].dim_param or dims[0].dim_value
    count_dim = dims[2 if wanted.transposed else 1]
    count = count_dim.dim_param or count_dim.dim_value
    _box_nodes(_Chain(model), raw.name, wanted, width)
    kept = [type(o).FromString(o.SerializeToString()) for o in model.graph.output if o is not raw]
    kept = [o for o in kept if o.name != raw.name]
    info = onnx.helper.make_tensor_value_info
    kept += [
        info("boxes", onnx.TensorProto.FLOAT, [batch, count, _COORDINATES]),
        info("scores", onnx.TensorProto.FLOAT, [batch, width - _COORDINATES, count]),
        info("detections", onnx.TensorProto.INT64, ["found", 3]),
    ]
    del model.graph.output[:]
    model.graph.output.extend(kept)


class _Chain:
    """Appends nodes under names that are free."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        self._model = model

    def constant(self, name: str, value: Any, dtype: str) -> str:
        return add_constant(self._model, f"nms/{name}", np.asarray(value, dtype))

    def node(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        import onnx

        made = output or free_name(self._model, f"nms/{operator}")
        name = free_name(self._model, f"nms/{operator}/node")
        self._model.graph.node.append(
            onnx.helper.make_node(operator, inputs, [made], name, **attributes)
        )
        return made


def _box_nodes(chain: _Chain, raw: str, wanted: Boxes, width: int) -> None:
    if wanted.transposed:
        raw = chain.node("Transpose", [raw], perm=[0, 2, 1])
    axis = chain.constant("axis", [2], "int64")

    def columns(source: str, start: int, stop: int, output: str = "") -> str:
        bounds = [chain.constant(n, [v], "int64") for n, v in (("from", start), ("to", stop))]
        return chain.node("Slice", [source, *bounds, axis], output)

    if wanted.format == "corners":
        boxes = columns(raw, 0, _COORDINATES, "boxes")
    else:
        centre, size = columns(raw, 0, 2), columns(raw, 2, _COORDINATES)
        half = chain.node("Mul", [size, chain.constant("half", 0.5, "float32")])
        ends = [chain.node(operator, [centre, half]) for operator in ("Sub", "Add")]
        boxes = chain.node("Concat", ends, "boxes", axis=2)
    by_class = chain.node(
        "Transpose", [columns(raw, _COORDINATES, width)], "scores", perm=[0, 2, 1]
    )
    limits = [
        chain.constant("most", [wanted.most], "int64"),
        chain.constant("iou", [wanted.iou_threshold], "float32"),
        chain.constant("score", [wanted.score_threshold], "float32"),
    ]
    chain.node("NonMaxSuppression", [boxes, by_class, *limits], "detections")


def _rewire(model: "onnx.ModelProto", name: str, new: str) -> None:
    """Call a tensor otherwise wherever it is made and read."""
    for node in model.graph.node:
        for listed in (node.input, node.output):
            for place, each in enumerate(listed):
                if each == name:
                    listed[place] = new
