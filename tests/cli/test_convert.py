"""`edgekit convert` as a user types it, and `edgekit bench` on what it wrote."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.bench.runtimes.openvino import OpenVino
from tests.cli.test_bad_input import assert_says
from tests.conftest import Command

PROBE = OpenVino.probe()
needs_openvino = pytest.mark.skipif(not PROBE.ok, reason=PROBE.reason)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])

    node = helper.make_node("Relu", ["x"], ["y"], name="act/Relu")
    graph = helper.make_graph([node], "g", [value("x")], [value("y")])
    path = tmp_path / "net.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return path


@pytest.mark.parametrize(
    ("to", "suffix", "runtime"),
    [
        ("ort", ".ort", "onnxruntime"),
        pytest.param("openvino", ".xml", "openvino", marks=needs_openvino),
    ],
)
def test_what_it_writes_can_be_measured(
    edgekit: Command, model: Path, to: str, suffix: str, runtime: str
) -> None:
    done = edgekit("convert", model, "--to", to, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert f"out/net{suffix}: " in done.stdout
    assert ("CoreML MLProgram" in done.stdout) is (to == "ort")
    measured = edgekit("bench", f"out/net{suffix}", "--quick", "--json")
    assert measured.returncode == 0, measured.stderr
    assert f'"{runtime}"' in measured.stdout


def test_json(edgekit: Command, model: Path) -> None:
    done = edgekit("convert", model, "--to", "ort", "-o", "out", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["operators"] == {"ai.onnx;14": ["Relu"]}
    assert found == json.loads((model.parent / "out" / "conversion.json").read_text())


def test_bad_input(edgekit: Command, model: Path, tmp_path: Path) -> None:
    assert_says(edgekit("convert", "gone.onnx", "--to", "ort", "-o", "out"), 2, "gone.onnx")
    assert_says(edgekit("convert", "net.pt2", "--to", "ort", "-o", "out"), 2, "no ONNX file")
    assert_says(edgekit("convert", model, "--to", "ort", "-o", model), 2, "in the way")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/sitecustomize.py").write_text(
        "import sys\nsys.modules['openvino'] = None\n"
    )
    done = edgekit(
        "convert",
        model,
        "--to",
        "openvino",
        "-o",
        "out",
        env={"PYTHONPATH": str(tmp_path / "hidden")},
    )
    assert_says(done, 3, 'pip install "edgekit[openvino]"')
    assert not (tmp_path / "out").exists()


@needs_openvino
def test_a_file_of_another_runtime_is_refused_by_bench(edgekit: Command, model: Path) -> None:
    assert edgekit("convert", model, "--to", "ort", "-o", "out").returncode == 0
    done = edgekit("bench", "out/net.ort", "--runtime", "openvino", "--quick")
    assert_says(done, 2, ".ort file, which openvino does not run")
