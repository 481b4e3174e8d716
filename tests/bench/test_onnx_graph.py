"""The skeleton of an ONNX file, read without the onnx package, against the onnx package."""

import contextlib

import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgekit.bench.onnx_graph import read_graph


def test_it_reads_what_the_onnx_package_reads(mlp):
    model, found = onnx.load(mlp).graph, read_graph(mlp)
    assert [node.op for node in found.nodes] == [node.op_type for node in model.node]
    assert [node.name for node in found.nodes] == [node.name for node in model.node]
    assert [node.inputs for node in found.nodes] == [tuple(node.input) for node in model.node]
    assert [node.outputs for node in found.nodes] == [tuple(node.output) for node in model.node]
    assert found.constants == {tensor.name for tensor in model.initializer}
    assert found.inputs == {"x"}


def test_attributes_and_large_tensors_are_stepped_over(tmp_path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])
    node = helper.make_node("Conv", ["x", "w", ""], ["y"], "é/Conv", domain="d", pads=[1] * 4)
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 3, 3, 3], b"\x0a" * 324, raw=True)
    graph = helper.make_graph([node], "g", [value], [], [weight])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    (found,) = read_graph(tmp_path / "m.onnx").nodes
    assert (found.name, found.op, found.domain) == ("é/Conv", "Conv", "d")
    assert found.inputs == ("x", "w", "")


def test_a_node_without_a_name_is_called_after_its_output(tmp_path):
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    assert read_graph(tmp_path / "m.onnx").nodes[0].name == "y"


@given(st.binary(min_size=1, max_size=200))
def test_noise_is_refused_or_read_and_nothing_else(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("noise") / "n.onnx"
    path.write_bytes(noise)
    with contextlib.suppress(ValueError):
        read_graph(path)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_file_is_refused_or_read(tmp_path_factory, place, byte):
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "r")] * 8, "g", [], [])
    data = bytearray(helper.make_model(graph).SerializeToString())
    data[place % len(data)] = byte
    path = tmp_path_factory.mktemp("damaged") / "n.onnx"
    path.write_bytes(data)
    with contextlib.suppress(ValueError):
        read_graph(path)
