"""`edgekit lint` as a user types it: text, JSON, SARIF, the mend, and exit codes."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.test_bad_input import assert_says
from tests.conftest import Command


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """One uint8 pair with zero point 128, in `tmp_path/model.onnx`."""

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="act/QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="act/DequantizeLinear"),
        helper.make_node("Relu", ["d"], ["y"], name="act/Relu"),
    ]
    held = {"s": np.array(0.1, np.float32), "z": np.array(128, np.uint8)}
    arrays = [numpy_helper.from_array(v, k) for k, v in held.items()]
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], arrays)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_file_that_breaks_the_dialect(edgekit: Command, model: Path) -> None:
    done = edgekit("lint", model, "--target", "jetson-orin")
    assert_says(done, 5, "breaks dialect tensorrt", "act/QuantizeLinear", "--fix -o OUT")
    assert "[activation-dtype]" in done.stdout
    assert "of layer act" in done.stdout
    assert "mend:" in done.stdout
    preflight = edgekit("preflight", model, "--target", "jetson-orin", "--json")
    assert preflight.returncode == 5
    assert "activation-dtype" in [f["rule"] for f in json.loads(preflight.stdout)["findings"]]


def test_json_and_sarif(edgekit: Command, model: Path) -> None:
    done = edgekit("lint", model, "--target", "x86-vnni", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["schema_version"], found["ok"], found["findings"]) == (1, True, [])
    assert found["dialect"] == "ort-x86-vnni"
    assert found["unverified"] == ""
    arm = json.loads(edgekit("lint", model, "--target", "raspberry-pi-5", "--json").stdout)
    assert "emulation" in arm["unverified"]
    done = edgekit("lint", model, "--target", "rtx", "--sarif")
    assert done.returncode == 5
    found = json.loads(done.stdout)
    assert found["version"] == "2.1.0"
    assert {r["ruleId"] for r in found["runs"][0]["results"]} == {"activation-dtype", "zero-point"}


def test_fix(edgekit: Command, model: Path) -> None:
    done = edgekit("lint", model, "--target", "rtx", "--fix", "-o", "mended.onnx")
    assert done.returncode == 0, done.stderr
    assert "[activation-dtype, exact]" in done.stdout
    assert "moved by up to 0.00" in done.stdout
    assert edgekit("lint", model.with_name("mended.onnx"), "--target", "rtx").returncode == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target", "jetson-orion"), ("Did you mean 'jetson-orin'?",)),
        (("--target", "rtx", "--fix"), ("--fix needs a file",)),
        (("--target", "rtx", "-o", "m.onnx"), ("--out is for --fix",)),
        (("--target", "rtx", "--fix", "-o", "m.txt"), (".onnx",)),
        (("--target", "rtx", "--fix", "-o", "model.onnx"), ("the model itself",)),
        (("--target", "rtx", "--fix", "-o", "no/m.onnx"), ("cannot be written",)),
        (("--target", "rtx", "--sarif", "--json"), ("Choose one",)),
    ],
)
def test_bad_options_are_exit_2(
    edgekit: Command, model: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_says(edgekit("lint", model, *options), 2, *words)


def test_a_truncated_file_is_exit_2(edgekit: Command, model: Path) -> None:
    model.write_bytes(model.read_bytes()[:60])
    assert_says(edgekit("lint", model, "--target", "rtx"), 2, "model.onnx")


def test_scales_for_each_channel_at_an_old_opset(edgekit: Command, model: Path) -> None:
    made = onnx.load(model)
    made.opset_import[0].version = 11
    for node in made.graph.node[:2]:
        node.attribute.append(helper.make_attribute("axis", 1))
    onnx.save(made, model)
    done = edgekit("lint", model, "--target", "rtx")
    assert_says(done, 2, "scales for each channel", "opset 13")
