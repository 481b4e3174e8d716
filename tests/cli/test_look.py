"""`inspect`, `verify` and `eval` say what their figures are of."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.models import save
from tests.conftest import Command


def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def written(path: Path, *nodes: onnx.NodeProto, ends: tuple, weights: tuple = ()) -> Path:
    graph = helper.make_graph(list(nodes), "net", [ends[0]], [ends[1]], list(weights))
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


@pytest.fixture
def convolution(tmp_path: Path) -> Path:
    """A network of any height and width."""
    kernel = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "kernel")
    conv = helper.make_node("Conv", ["image", "kernel"], ["y"], "conv", pads=[1, 1, 1, 1])
    ends = (tensor("image", "batch", 3, "height", "2*width"), tensor("y", "batch", 4, "h", "w"))
    return written(tmp_path / "conv.onnx", conv, ends=ends, weights=(kernel,))


def test_costs_say_the_sizes_that_they_are_of(edgekit: Command, convolution: Path) -> None:
    one = edgekit("inspect", convolution)
    assert "MACs       216 for one sample at height = 1, width = 1" in one.stdout
    asked = ("inspect", convolution, "--dim", "height=5", "--dim", "width=4", "--json")
    found = json.loads(edgekit(*asked).stdout)
    assert found["macs"] == 4 * 27 * 5 * 8
    assert found["sizes"] == {"height": 5, "width": 4}
    assert found["activation_bytes"] == 4 * (3 + 4) * 5 * 8
    unknown = edgekit("inspect", convolution, "--dim", "hight=5")
    assert unknown.returncode == 2
    assert "It has height, width." in " ".join(unknown.stderr.split())


def test_what_cannot_be_counted_is_not_nothing(edgekit: Command, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((16, 16), np.float32), "inner")
    product = helper.make_node("MatMul", ["image", "inner"], ["a"])
    branch = helper.make_graph([product], "then", [], [tensor("a", "batch", 16)], [weight])
    same = helper.make_node("Identity", ["image"], ["b"])
    other = helper.make_graph([same], "else", [], [tensor("b", "batch", 16)])
    always = numpy_helper.from_array(np.array(True), "always")
    choice = helper.make_node("If", ["always"], ["y"], "if", then_branch=branch, else_branch=other)
    ends = (tensor("image", "batch", 16), tensor("y", "batch", 16))
    path = written(tmp_path / "if.onnx", choice, ends=ends, weights=(always,))
    found = json.loads(edgekit("inspect", path, "--json").stdout)
    assert (found["macs"], found["uncounted"], found["parameters"]) == (None, ["if"], 256)
    assert "MACs       unavailable" in edgekit("inspect", path).stdout


def test_verify_says_what_it_compared_on(
    edgekit: Command, convolution: Path, tmp_path: Path
) -> None:
    random = edgekit("verify", convolution, convolution, "--dim", "width=3", "--samples", "4")
    assert "Compared on random inputs, seed 0: image [4, 3, 16, 6]." in random.stdout
    net = save(tmp_path / "net.onnx")
    np.savez(tmp_path / "d.npz", image=np.ones((30, 16), np.float32))
    told = edgekit("verify", net, net, "--data", "d.npz")
    assert "Compared on 6 of 30 samples, the evaluation split." in told.stdout


def test_classes_that_are_not_all_there_must_be_named(edgekit: Command, tmp_path: Path) -> None:
    save(tmp_path / "net.onnx")
    names = [f"kind {i:02d}" for i in range(16)]
    rng = np.random.default_rng(0)
    labels = np.array(names)[rng.integers(4, 16, 200)]  # none of the first four
    np.savez(tmp_path / "d.npz", image=rng.standard_normal((200, 16)).astype("f"), label=labels)
    (tmp_path / "d.yaml").write_text("npz: d.npz\nsplit: {evaluation: 1.0, calibration: 0}\n")
    done = edgekit("eval", "net.onnx", "--data", "d.yaml")
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "The data has 12 classes (kind 04, " in said
    assert "tells 16 apart" in said
    assert "data: classes:" in said
    with (tmp_path / "d.yaml").open("a") as file:
        file.write(f"classes: {json.dumps(names)}\n")
    done = edgekit("eval", "net.onnx", "--data", "d.yaml")
    assert done.returncode == 0, done.stderr
    assert "on 200 of 200 samples, the evaluation split" in done.stdout
    assert "kind 04" in done.stdout
    assert "kind 00" not in done.stdout
