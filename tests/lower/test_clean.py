"""Foreign ONNX files come out plain, and compute the same."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import PassError, UsageError
from edgekit.graph.onnx_model import specs
from edgekit.lower import check
from edgekit.lower.clean import clean_onnx
from edgekit.lower.preflight import preflight
from edgekit.target import load


def constant(name: str, value: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))


def foreign(path: Path, axes: tuple[int, ...] = (-1, -2), keepdims: int = 0) -> onnx.ModelProto:
    """Weights in Constant nodes, batch norm, doc strings, a mean over pixels, no node names."""
    rng = np.random.default_rng(0)
    vector = lambda: rng.uniform(0.5, 1.5, 4).astype(np.float32)  # noqa: E731
    nodes = [
        constant("w", rng.standard_normal((4, 3, 3, 3)).astype(np.float32)),
        *(constant(n, vector()) for n in ("scale", "shift", "mean", "var")),
        constant("axes", np.array(axes, np.int64)),
        helper.make_node("Conv", ["x", "w"], ["c"], doc_string="/home/somebody/train.py"),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("ReduceMean", ["n", "axes"], ["m"], keepdims=keepdims),
        helper.make_node("Identity", ["m"], ["y"]),
    ]
    spatial = {(1,): ["N", 8, 8]}.get(axes, ["N", 4])
    shape = ["N", 4, 1, 1] if keepdims else spatial
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return model


@pytest.mark.parametrize("keepdims", [0, 1])
def test_constants_batch_norm_and_means(tmp_path: Path, keepdims: int) -> None:
    src, dst = tmp_path / "a.onnx", tmp_path / "b.onnx"
    foreign(src, keepdims=keepdims)
    report = clean_onnx(src, dst, atol=1e-5, rtol=1e-4)
    model = onnx.load(dst)
    found = [n.op_type for n in model.graph.node]
    assert found == ["Conv", "GlobalAveragePool"] + ["Reshape"] * (1 - keepdims)
    assert sum(i.dims == [4, 3, 3, 3] for i in model.graph.initializer) == 1
    assert b"somebody" not in dst.read_bytes()
    assert all(n.name for n in model.graph.node)
    assert report.nodes_before == 10
    assert len(report.checked) == 3
    assert report.max_abs_error < 1e-5


def test_a_mean_over_other_axes_is_left_alone(tmp_path: Path) -> None:
    src, dst = tmp_path / "a.onnx", tmp_path / "b.onnx"
    foreign(src, axes=(1,))
    clean_onnx(src, dst)
    assert [n.op_type for n in onnx.load(dst).graph.node] == ["Conv", "ReduceMean"]


@pytest.mark.parametrize(
    ("equation", "plain"),
    [("B Q c, B K c -> B Q K", "abc,adc->abd"), ("...Qc,...Kc->...QK", "...ab,...cb->...ac")],
)
def test_equations_are_spelt_as_tensorrt_reads_them(
    tmp_path: Path, equation: str, plain: str
) -> None:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, rows, width])
        for name, rows, width in (("q", 3, 5), ("k", 4, 5), ("y", 3, 4))
    ]
    node = helper.make_node("Einsum", ["q", "k"], ["y"], equation=equation)
    graph = helper.make_graph([node], "attention", ends[:2], ends[2:])
    opset = helper.make_opsetid("", 17)
    path = tmp_path / "einsum.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    clean_onnx(path, tmp_path / "clean.onnx")  # it compares the numbers itself
    (made,) = onnx.load(tmp_path / "clean.onnx").graph.node
    assert made.attribute[0].s.decode() == plain
    if importlib.util.find_spec("tensorrt_rtx"):
        assert not preflight(tmp_path / "clean.onnx", load("rtx")).findings


def test_a_clean_file_stays_as_it_is(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{i}.onnx" for i in range(3))
    foreign(first)
    clean_onnx(first, second)
    clean_onnx(second, third)
    assert second.read_bytes() == third.read_bytes()


@pytest.mark.parametrize("field", [{"dim_value": -1}, {"dim_param": "?"}])
def test_an_open_dimension_gets_a_name(tmp_path: Path, field: dict[str, object]) -> None:
    src, dst = tmp_path / "a.onnx", tmp_path / "b.onnx"
    model = foreign(src)
    first = onnx.TensorShapeProto.Dimension(**field)
    model.graph.input[0].type.tensor_type.shape.dim[0].CopyFrom(first)
    onnx.save(model, src)
    report = clean_onnx(src, dst)
    assert specs(onnx.load(dst))[0][0].shape == ("batch", 3, 8, 8)
    assert len(report.checked) == 3


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    src = tmp_path / "a.onnx"
    foreign(src)
    src.write_bytes(src.read_bytes()[:100])
    with pytest.raises(UsageError):
        clean_onnx(src, tmp_path / "b.onnx")


def runner(value: np.ndarray) -> check.Runner:
    return lambda _: {"y": value}


def test_the_comparison_has_teeth() -> None:
    right = np.array([1.0, 100.0, np.nan], np.float32)
    feeds = [{"x": np.zeros(1, np.float32)}]
    near = right + np.float32(5e-4)
    found = check.compare(runner(right), runner(near), feeds, atol=1e-5, rtol=0)
    assert found.max_abs == pytest.approx(5e-4, rel=0.02)
    with pytest.raises(PassError, match="'y' differs"):
        check.compare(runner(right), runner(right + 0.01), feeds, atol=1e-5, rtol=0)
    with pytest.raises(PassError, match="'y' differs"):
        check.compare(runner(right), runner(np.nan * right), feeds, atol=1, rtol=1)
    with pytest.raises(PassError, match="should be"):
        check.compare(runner(right), runner(right[:2]), feeds, atol=1, rtol=1)
    one, other = runner(np.array([1, 2])), runner(np.array([1, 3]))
    with pytest.raises(PassError, match="1 of 2 elements"):
        check.compare(one, other, feeds, atol=9, rtol=9)
