"""What `edgekit build` and `preflight` refuse: the message and the exit code."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.bench.engine import library
from tests.cli.models import save
from tests.cli.test_bad_input import assert_says
from tests.conftest import Command

needs_builder = pytest.mark.skipif(
    not library.available("tensorrt-rtx")[0], reason="tensorrt-rtx is not installed"
)


@needs_builder
def test_sizes_that_do_not_fit(edgekit: Command, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    open_ = save(tmp_path / "open.onnx", shape=("batch", "length"))
    done = edgekit("build", open_, "-o", out, "--target", "rtx")
    assert_says(done, 2, "dynamic dimensions besides the batch", "shapes")
    fixed = save(tmp_path / "fixed.onnx", shape=(4, 16))
    done = edgekit("build", fixed, "-o", out, "--target", "rtx", "--shapes", "image=1x16/4x16/8x16")
    assert_says(done, 2, "do not fit input image", "smallest <= usual <= largest")
    done = edgekit("build", fixed, "-o", out, "--target", "rtx", "--timing-cache", tmp_path)
    assert_says(done, 2, "no timing cache", "Leave")
    assert not out.exists()


@needs_builder
def test_an_operator_that_the_parser_does_not_take(edgekit: Command, tmp_path: Path) -> None:
    model = onnx.load(save(tmp_path / "model.onnx", shape=(16, 16)))
    model.graph.node[0].output[0] = "inner"
    model.graph.node.append(helper.make_node("Det", ["inner"], ["logits"], "head/Det"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, []))
    onnx.save(model, tmp_path / "model.onnx")
    done = edgekit("build", tmp_path / "model.onnx", "-o", tmp_path / "e", "--target", "rtx")
    assert_says(done, 4, "head/Det", "edgekit preflight")


def test_a_dla_where_there_is_none(edgekit: Command, tmp_path: Path) -> None:
    model = save(tmp_path / "model.onnx")
    for command in (["build", model, "-o", tmp_path / "e"], ["preflight", model]):
        assert_says(edgekit(*command, "--target", "rtx", "--dla", 0), 2, "rtx has no DLA", "--dla")


def test_files_that_are_none(edgekit: Command, tmp_path: Path) -> None:
    model = save(tmp_path / "model.onnx")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(model.read_bytes()[:300])
    done = edgekit("preflight", cut, "--target", "rtx")
    assert_says(done, 2, "cut.onnx", "Export the model again")
    proto = onnx.load(model)
    tensor = proto.graph.initializer[0]
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", str(size))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "outside.onnx").write_bytes(proto.SerializeToString())
    done = edgekit("preflight", tmp_path / "outside.onnx", "--target", "rtx")
    assert_says(done, 2, "lies outside the model's folder", "external data")


def test_a_file_over_two_gib(edgekit: Command, tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(2**31 + 1)  # sparse: it takes no space
    done = edgekit("preflight", path, "--target", "rtx")
    assert_says(done, 2, "larger than 2 GiB", "external data")


@pytest.mark.skipif(library.available("tensorrt")[0], reason="tensorrt is installed")
def test_no_tensorrt(edgekit: Command, tmp_path: Path) -> None:
    model = save(tmp_path / "model.onnx")
    done = edgekit("build", model, "-o", tmp_path / "e", "--target", "jetson-orin")
    assert_says(done, 3, "tensorrt is not installed", 'pip install "edgekit[tensorrt]"')
