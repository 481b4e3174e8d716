"""`edgekit snippet` as a user types it, and the snippets beside what a step writes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import UsageError
from edgekit.passes.export_onnx import ExportOnnx
from edgekit.pipeline import apply, write_snippet
from tests.cli.test_bad_input import assert_says
from tests.conftest import Command


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    path = tmp_path / "net.onnx"
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_the_program_finds_the_model(edgekit: Command, model: Path, tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    done = edgekit("snippet", "net.onnx", "--shape", "x=3x4", "-o", "programs/run.py")
    assert done.returncode == 0, done.stderr
    program = tmp_path / "programs" / "run.py"
    run = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, check=False, cwd="/"
    )
    assert run.stdout == "y float32 (3, 4) [0. 0. 0. 0. 0.]\n", run.stderr
    assert_says(edgekit("snippet", model, "--shape", "x=big"), 2, "1x3x224x224")


def test_a_step_writes_them_beside(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = apply(ExportOnnx(batches=(1,)), model, out)
    assert {"infer.py", "infer.cpp"} < set(made.artifact.files)
    for language, name in (("python", "infer.py"), ("cpp", "infer.cpp")):
        assert write_snippet(out, language) == (out / name).read_text()
    (out / "infer.py").write_text("# mine\n")  # no part of the artifact
    assert made.artifact.intact()
    assert made.artifact.size_bytes == (out / "model.onnx").stat().st_size


def test_the_model_is_not_written_over(edgekit: Command, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "apart"
    apply(ExportOnnx(batches=(1,)), model, folder)
    plain = onnx.load(model)
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    plain.graph.initializer.append(tensor)
    plain.graph.node.append(helper.make_node("Add", ["x", "w"], ["y"]))
    del plain.graph.node[0]
    beside = tmp_path / "beside"
    beside.mkdir()
    onnx.external_data_helper.convert_model_to_external_data(plain, True, "w.bin", 0)
    onnx.save(plain, beside / "net.onnx")
    (beside / "net.onnx.json").write_text("{}")
    (tmp_path / "link.py").symlink_to(model)
    for subject, out in (
        (model, model),
        (model, tmp_path / "link.py"),
        (beside / "net.onnx", beside / "w.bin"),
        (beside / "net.onnx", beside / "net.onnx.json"),
        (folder, folder / "model.onnx"),
        (folder, folder / "manifest.json"),
        (folder / "model.onnx", folder / "manifest.json"),
    ):
        before = out.read_bytes()
        assert_says(edgekit("snippet", subject, "-o", out), 2, "belongs to the model", "-o")
        assert out.read_bytes() == before
    for subject, out in ((folder, folder / "infer.py"), (model, tmp_path / "run.py")):
        out.write_text("# an older program")
        done = edgekit("snippet", subject, "-o", out)
        assert done.returncode == 0, done.stderr
        assert "import onnxruntime" in out.read_text()


def test_bad_input(model: Path, tmp_path: Path) -> None:
    engine, cut = tmp_path / "net.engine", tmp_path / "cut.onnx"
    engine.write_bytes(b"")
    cut.write_bytes(model.read_bytes()[:30])
    for path, message in (
        (tmp_path / "gone.onnx", "does not exist"),
        (cut, "cut.onnx"),
        (engine, r"net.engine.json is not beside it"),
        (tmp_path, "manifest"),
    ):
        with pytest.raises(UsageError, match=message):
            write_snippet(path)
    with pytest.raises(UsageError, match="does not fit"):
        write_snippet(model, shapes={"x": [3, 5]})
    with pytest.raises(UsageError, match="cannot be written"):
        write_snippet(model, out=tmp_path / "no" / "such.py")
