"""Files for other runtimes: what they hold, what they compute, and what is refused."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.artifact import SNIPPETS
from edgekit.bench.runtimes.onnxruntime import OnnxRuntime
from edgekit.bench.runtimes.openvino import OpenVino
from edgekit.errors import PassError, UnavailableError, UsageError
from edgekit.lower import convert, ort_format
from edgekit.lower.check import onnx_runner
from edgekit.lower.convert import REPORT, convert_onnx

PROBE = OpenVino.probe()
needs_openvino = pytest.mark.skipif(not PROBE.ok, reason=PROBE.reason)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    x: Sequence[int | str],
    y: Sequence[int | str],
    weights: Sequence[onnx.TensorProto] = (),
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.fixture
def conv(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((8, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Identity", ["r"], ["y"]),
    ]
    shape = ["batch", 3, 8, 8], ["batch", 8, 8, 8]
    return save(tmp_path / "net.onnx", nodes, *shape, [weight])


@pytest.fixture
def determinant(tmp_path: Path) -> Path:
    """ONNX Runtime has the operator; OpenVINO and phones have not."""
    node = helper.make_node("Det", ["x"], ["y"], name="odd/Det")
    return save(tmp_path / "det.onnx", [node], ["batch", 4, 4], ["batch"])


def beside(out: Path) -> list[str]:
    """What a conversion that failed left there."""
    return [p.name for p in out.parent.iterdir() if out.name in p.name]


def test_ort_lists_the_operators_that_run(conv: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    report = convert_onnx(conv, out, "ort")
    names = {"net.ort", "net.required_operators.config", REPORT, *SNIPPETS}
    assert {p.name for p in out.iterdir()} == names
    # After fusion: a build with Conv and Relu could not run the file.
    assert report.operators == {"com.microsoft;1": ("FusedConv",)}
    text = (out / "net.required_operators.config").read_text()
    assert text == "# Generated from net.ort\ncom.microsoft;1;FusedConv\n"
    assert report.checked == ("x[1, 3, 8, 8]", "x[2, 3, 8, 8]", "x[5, 3, 8, 8]")
    assert report.max_abs_error < 1e-4
    assert report.size_bytes == (out / "net.ort").stat().st_size
    assert json.loads((out / REPORT).read_text())["operators"] == {"com.microsoft;1": ["FusedConv"]}
    feed = {"x": np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    with OnnxRuntime(out / "net.ort", {}) as runtime:
        np.testing.assert_allclose(
            runtime.infer(feed)["y"], onnx_runner(conv)(feed)["y"], rtol=1e-4, atol=1e-4
        )


def test_the_mobile_report_sees_shapes_and_operators(conv: Path, determinant: Path) -> None:
    found, warnings = ort_format.mobile_report(conv)
    assert [m.provider for m in found] == ["NNAPI", "CoreML NeuralNetwork", "CoreML MLProgram"]
    assert warnings == ()
    assert {m.verdict for m in found} == {"no"}  # the batch is dynamic
    assert {m.verdict_fixed for m in found} == {"yes"}
    assert any("Conv" in caveat for caveat in found[0].caveats)
    found, _ = ort_format.mobile_report(determinant)
    assert {m.verdict_fixed for m in found} == {"no"}
    assert {m.unsupported for m in found} == {("ai.onnx:Det",)}


def test_the_tools_leave_no_log_handler(conv: Path, tmp_path: Path) -> None:
    for name in [n for n in sys.modules if n.startswith("onnxruntime.tools")]:
        del sys.modules[name]
    handlers = list(logging.getLogger().handlers)
    convert_onnx(conv, tmp_path / "out", "ort")
    assert logging.getLogger().handlers == handlers


@needs_openvino
@pytest.mark.parametrize("fp16", [False, True])
def test_openvino(conv: Path, tmp_path: Path, fp16: bool) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is not in the way
    report = convert_onnx(conv, out, "openvino", fp16=fp16)
    assert {p.name for p in out.iterdir()} == {"net.xml", "net.bin", REPORT, *SNIPPETS}
    count = 8 * 3 * 3 * 3
    assert count * (2 if fp16 else 4) <= (out / "net.bin").stat().st_size
    assert (count * 4 > (out / "net.bin").stat().st_size) is fp16
    # Rounded weights show in the numbers, and float32 ones do not.
    assert (report.max_rel_error > 1e-5) is fp16
    feed = {"x": np.ones((2, 3, 8, 8), np.float32)}
    with OpenVino(out / "net.xml", {"precision": "f32"}) as runtime:
        got = next(iter(runtime.infer(feed).values()))
    tolerance = 1e-2 if fp16 else 1e-4
    np.testing.assert_allclose(got, onnx_runner(conv)(feed)["y"], rtol=tolerance, atol=tolerance)


@needs_openvino
def test_numbers_that_differ_are_not_kept(conv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(PassError, match="'y' differs"):
        convert_onnx(conv, out, "openvino", fp16=True, atol=1e-7, rtol=1e-7)
    assert beside(out) == []


def test_a_network_that_draws_numbers_is_not_kept(tmp_path: Path) -> None:
    node = helper.make_node("RandomNormalLike", ["x"], ["y"])
    model = save(tmp_path / "random.onnx", [node], ["b", 4], ["b", 4])
    out = tmp_path / "out"
    with pytest.raises(PassError, match="differs"):
        convert_onnx(model, out, "ort")
    assert beside(out) == []


@needs_openvino
def test_openvino_lacks_an_operator(determinant: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(PassError, match=r"OpenVINO does not take .*Det"):
        convert_onnx(determinant, out, "openvino")
    assert beside(out) == []


@pytest.mark.parametrize("kind", ["ort", pytest.param("openvino", marks=needs_openvino)])
def test_an_operator_that_nobody_has(tmp_path: Path, kind: convert.Kind) -> None:
    node = helper.make_node("Foo", ["x"], ["y"], domain="own")
    model = save(tmp_path / "own.onnx", [node], ["b", 4], ["b", 4])
    with pytest.raises(PassError, match="own:Foo"):
        convert_onnx(model, tmp_path / "out", kind)


def test_a_network_that_takes_no_random_input(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([7, -1], np.int64), "shape")
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    model = save(tmp_path / "sevens.onnx", [node], ["b", 4], [7, "n"], [shape])
    with pytest.raises(PassError, match="nothing can be compared"):
        convert_onnx(model, tmp_path / "out", "ort")


def test_openvino_is_not_installed(
    conv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UnavailableError) as caught:
        convert_onnx(conv, tmp_path / "out", "openvino")
    assert caught.value.hint == 'pip install "edgekit[openvino]"'
    assert beside(tmp_path / "out") == []


def test_files_in_the_way_are_left_alone(conv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(UsageError, match="in the way: it holds files"):
        convert_onnx(conv, out, "ort")
    assert (out / "mine").read_text() == "kept"
    with pytest.raises(UsageError, match="in the way: it is no folder"):
        convert_onnx(conv, out / "mine", "ort")
    with pytest.raises(UsageError, match="cannot be written"):
        convert_onnx(conv, out / "mine" / "below", "ort")


def test_bad_files_and_options(conv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="does not exist"):
        convert_onnx(tmp_path / "gone.onnx", out, "ort")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(conv.read_bytes()[:700])
    with pytest.raises(UsageError, match="truncated"):
        convert_onnx(cut, out, "ort")
    with pytest.raises(UsageError, match="float16"):
        convert_onnx(conv, out, "ort", fp16=True)
    with pytest.raises(UsageError, match="no format 'tflite'"):
        convert_onnx(conv, out, "tflite")  # type: ignore[arg-type]
    assert beside(out) == []
