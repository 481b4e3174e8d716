"""`edgekit preflight` as a user types it: verdict, JSON and exit codes."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli.test_bad_input import assert_says
from tests.conftest import Command


@pytest.fixture
def model(tmp_path: Path) -> Path:
    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])

    node = helper.make_node("Relu", ["x"], ["y"], name="act/Relu")
    graph = helper.make_graph([node], "g", [value("x")], [value("y")])
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return path


def test_a_model_that_fits(edgekit: Command, model: Path) -> None:
    done = edgekit("preflight", model, "--target", "jetson-orin", "--dla", 0, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fit"] is True
    assert found["evidence"] == "proxy"
    assert found["placements"][0]["layer"] == "act"
    assert found["devices"] == {"gpu-fallback": 1}


def test_a_model_that_does_not_fit_is_exit_5(edgekit: Command, model: Path) -> None:
    made = onnx.load(model)
    made.graph.node[0].op_type = "Det"
    made.graph.node[0].name = "head/Det"
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(made, model)
    done = edgekit("preflight", model, "--target", "rtx")
    assert_says(done, 5, "model.onnx does not fit rtx", "head/Det")
    assert "not fit for rtx" in done.stdout
    assert "of layer head" in done.stdout
    assert "mend:" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target", "jetson-orion"), ("Did you mean 'jetson-orin'?",)),
        (("--target", "rtx", "--dla", "0"), ("rtx has no DLA",)),
        (("--target", "rtx", "--shapes", "x=1x4/2x4"), ("--shapes",)),
        (("--target", "rtx", "--shapes", "z=1x4"), ("z", "Its inputs are x")),
        (("--target", "rtx", "--shapes", "x=1x5"), ("do not fit",)),
    ],
)
def test_bad_options_are_exit_2(
    edgekit: Command, model: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_says(edgekit("preflight", model, *options), 2, *words)


def test_a_file_of_another_kind(edgekit: Command, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"")
    assert_says(edgekit("preflight", "model.pt2", "--target", "rtx"), 2, "edgekit export")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target", "rtx", "--dla", "0"), ("rtx has no DLA",)),
        (("--target", "rtx", "-O", "9"), ("optimization_level",)),
        (("--target", "rtx", "--version-compatible"), ("version-compatible",)),
        (("--target", "rtx", "--shapes", "x=4x4/2x4/8x4"), ("do not fit",)),
        (("--target", "x86-vnni"), ("no engine to build",)),
    ],
)
def test_bad_build_options_are_exit_2(
    edgekit: Command, model: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_says(edgekit("build", model, "-o", "out", *options), 2, *words)
    assert not (model.parent / "out").exists()
