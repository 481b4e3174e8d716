"""Fixed shapes, camera frames, chosen outputs and ready answers: each computes what it should."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.bench.engine import library
from edgekit.errors import PassError, UsageError
from edgekit.graph.onnx_model import read_onnx, specs, write_onnx
from edgekit.lower import check
from edgekit.lower.deploy import Deployment, deploy
from edgekit.lower.deploy_check import check_deployment, decoded
from edgekit.lower.opset import opset_of, upgrade
from edgekit.lower.tensorrt import build_engine

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RNG = np.random.default_rng(0)


def save(path: Path, nodes: list, inputs: dict, outputs: dict, constants: dict) -> Path:
    def values(shapes: dict) -> list:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]

    held = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), held)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A padded convolution, and two outputs."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["logits"], "flat"),
        helper.make_node("Neg", ["c"], ["extra"], "neg"),
    ]
    weight = RNG.standard_normal((5, 3, 3, 3)).astype(np.float32)
    shape = ["batch", 3, "h", "w"]
    outputs = {"logits": ["batch", 5], "extra": ["batch", 5, "h", "w"]}
    return save(tmp_path / "model.onnx", nodes, {"image": shape}, outputs, {"w": weight})


def changed(path: Path, **fields: Any) -> tuple[onnx.ModelProto, check.Difference]:
    wanted = Deployment.model_validate(fields)
    model = read_onnx(path)
    original = model.SerializeToString()
    deploy(model, wanted)
    result = path.with_name("changed.onnx")
    write_onnx(model, result)
    found, _ = check_deployment(original, result, specs(model)[0], wanted, atol=1e-4, rtol=1e-3)
    return model, found


def test_a_fixed_shape(classifier: Path) -> None:
    model, _ = changed(classifier, shapes={"image": (2, 3, 8, 6)})
    inputs, outputs = specs(model)
    assert inputs[0].shape == (2, 3, 8, 6)
    assert [o.shape for o in outputs] == [(2, 5), (2, 5, 8, 6)]


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_frames_as_cameras_give_them(classifier: Path, layout: str, dtype: str) -> None:
    model, _ = changed(classifier, image={"layout": layout, "dtype": dtype, **IMAGENET})
    shape = ("batch", "h", "w", 3) if layout == "NHWC" else ("batch", 3, "h", "w")
    assert (specs(model)[0][0].shape, specs(model)[0][0].dtype) == (shape, dtype)
    kinds = [n.op_type for n in model.graph.node]
    assert "Sub" in kinds
    assert "Mul" not in kinds  # it went into the convolution's weights


def test_without_a_convolution_a_multiplication_is_left(classifier: Path) -> None:
    model = read_onnx(classifier)
    model.graph.node.append(helper.make_node("Relu", ["image"], ["r"], "relu"))
    model.graph.output.append(
        helper.make_tensor_value_info("r", TensorProto.FLOAT, ["batch", 3, "h", "w"])
    )
    onnx.save(model, classifier)
    made, _ = changed(classifier, image=IMAGENET)
    assert "Mul" in [n.op_type for n in made.graph.node]


def test_outputs_are_chosen_and_named(classifier: Path) -> None:
    model, _ = changed(classifier, outputs=["logits"], rename={"logits": "scores", "image": "x"})
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == ["x", "scores"]
    assert "neg" not in [n.name for n in model.graph.node]


@pytest.mark.parametrize("ending", ["softmax", "argmax", "sigmoid"])
@pytest.mark.parametrize("name", ["logits", "extra"])
def test_ready_answers(classifier: Path, ending: str, name: str) -> None:
    model, _ = changed(classifier, append={name: ending})
    assert {o.name for o in model.graph.output} == {"logits", "extra"}


def test_everything_at_once(classifier: Path) -> None:
    model, _ = changed(
        classifier,
        shapes={"image": (1, 3, 8, 8)},
        image=IMAGENET,
        append={"logits": "softmax"},
        outputs=["logits"],
        rename={"logits": "probabilities"},
    )
    assert specs(model)[1][0].shape == (1, 5)


def test_a_wrong_change_is_found(classifier: Path) -> None:
    wanted = Deployment.model_validate({"image": IMAGENET})
    model = read_onnx(classifier)
    original = model.SerializeToString()
    deploy(model, wanted)
    shift = next(i for i in model.graph.initializer if i.name.startswith("image/Sub"))
    shift.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(shift) * 2, shift.name))
    result = classifier.with_name("changed.onnx")
    write_onnx(model, result)
    with pytest.raises(PassError, match="differs"):
        check_deployment(original, result, specs(model)[0], wanted, atol=1e-4, rtol=1e-3)


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """Boxes with three classes that come in as they go out."""
    nodes = [helper.make_node("Identity", ["raw"], ["out"], "id")]
    shape = ["batch", 40, 7]
    return save(tmp_path / "detector.onnx", nodes, {"raw": shape}, {"out": shape}, {})


def boxes(batch: int = 2) -> np.ndarray:
    centre = RNG.random((batch, 40, 2)) * 20
    size = RNG.random((batch, 40, 2)) * 8 + 1
    return np.concatenate([centre, size, RNG.random((batch, 40, 3))], -1).astype(np.float32)


@pytest.mark.parametrize("format_", ["centre", "corners"])
def test_boxes_and_their_suppression(detector: Path, format_: str) -> None:
    wanted = {"format": format_, "score_threshold": 0.3, "iou_threshold": 0.4}
    model, _ = changed(detector, boxes=wanted)
    assert [o.name for o in model.graph.output] == ["boxes", "scores", "detections"]
    raw = boxes()
    if format_ == "corners":
        raw[..., 2:4] += raw[..., :2]
    got = check.onnx_runner(model.SerializeToString())({"raw": raw})
    right = decoded(raw, Deployment.model_validate({"boxes": wanted}).boxes)
    candidates = int((raw[..., 4:] > 0.3).sum())
    assert 0 < len(right["detections"]) < candidates  # some go, some stay
    np.testing.assert_array_equal(got["detections"], right["detections"])
    np.testing.assert_allclose(got["boxes"], right["boxes"], atol=1e-5)


def test_boxes_on_the_last_axis(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["raw"], ["out"], "id")]
    shape = [1, 7, 40]
    path = save(tmp_path / "model.onnx", nodes, {"raw": shape}, {"out": shape}, {})
    model, _ = changed(path, boxes={"transposed": True})
    assert specs(model)[1][0].shape == (1, 40, 4)


@pytest.mark.skipif(not library.available("tensorrt-rtx")[0], reason="no tensorrt-rtx")
def test_tensorrt_takes_frames(classifier: Path, tmp_path: Path) -> None:
    wanted = {"shapes": {"image": (1, 3, 8, 8)}, "image": IMAGENET, "append": {"logits": "argmax"}}
    changed(classifier, **wanted)
    build_engine(tmp_path / "changed.onnx", tmp_path / "a", compute_capabilities=("8.6",))


@pytest.mark.skipif(not library.available("tensorrt-rtx")[0], reason="no tensorrt-rtx")
def test_tensorrt_rtx_parses_boxes_and_has_no_kernel_for_them(
    detector: Path, tmp_path: Path
) -> None:
    changed(detector, shapes={"raw": (1, 40, 7)}, boxes={})
    with pytest.raises(PassError, match=r"could not build.*NonMaxSuppression"):
        build_engine(tmp_path / "changed.onnx", tmp_path / "b", compute_capabilities=("8.6",))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"shapes": {"frame": (1, 3, 8, 8)}}, "no input 'frame'"),
        ({"shapes": {"image": (1, 4, 8, 8)}}, "cannot be fixed"),
        ({"image": {"mean": (0.5, 0.5)}}, "2 values"),
        ({"outputs": ["nothing"]}, "no output 'nothing'"),
        ({"outputs": ["logits", "logits"]}, "named twice"),
        ({"rename": {"logits": "extra"}}, "in use"),
        ({"rename": {"nothing": "x"}}, "no input or output 'nothing'"),
        ({"append": {"nothing": "softmax"}}, "no output 'nothing'"),
        ({"boxes": {"output": "logits"}}, "does not hold boxes"),
        ({"boxes": {}}, "several outputs"),
    ],
)
def test_what_does_not_fit_is_refused(classifier: Path, fields: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        changed(classifier, **fields)


def test_an_older_file_in_a_newer_opset(classifier: Path) -> None:
    old = read_onnx(classifier)
    new = upgrade(old, 21)
    assert opset_of(new) == 21
    assert [n.name for n in new.graph.node] == [n.name for n in old.graph.node]
    feed = {"image": RNG.standard_normal((2, 3, 9, 9)).astype(np.float32)}
    runs = [check.onnx_runner(m.SerializeToString()) for m in (old, new)]
    check.compare(*runs, [feed], atol=1e-6, rtol=0)
    assert upgrade(new, 21) is new
    for opset in (13, 99):
        with pytest.raises(UsageError, match="cannot be written"):
            upgrade(new, opset)
