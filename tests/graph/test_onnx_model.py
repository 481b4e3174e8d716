"""An ONNX file is read only when its sizes are true and its data lies beside it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import UsageError
from edgekit.graph.onnx_model import read_onnx, specs, write_onnx


def model(rows=4):
    weights = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def path(tmp_path):
    write_onnx(model(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def external(tmp_path):
    write_onnx(model(), tmp_path / "net.onnx", external_over_bytes=0)
    return tmp_path / "net.onnx"


def edit(path, change):
    loaded = onnx.load_model(path, load_external_data=False)
    change(loaded)
    path.write_bytes(loaded.SerializeToString())


def set_entry(key, value):
    def change(loaded):
        for entry in loaded.graph.initializer[0].external_data:
            if entry.key == key:
                entry.value = value

    return change


def test_round_trip_and_specs(path, tmp_path):
    loaded = read_onnx(path)
    assert loaded == model()
    write_onnx(loaded, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob(".*"))
    inputs, outputs = specs(loaded)
    assert [str(s) for s in (*inputs, *outputs)] == [
        "x: float32[batch, 4]",
        "y: float32[batch, 3]",
    ]


def test_external_data_is_read_from_the_models_folder(external):
    assert (external.parent / "net.onnx.data").stat().st_size == 48
    assert len(external.read_bytes()) < 400
    weights = numpy_helper.to_array(read_onnx(external).graph.initializer[0])
    assert np.array_equal(weights, np.arange(12, dtype=np.float32).reshape(4, 3))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.9])
def test_truncated_files_are_told(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UsageError) as error:
        read_onnx(path)
    assert "net.onnx" in error.value.message


def test_missing_files_and_other_files_are_told(path):
    with pytest.raises(UsageError, match="does not exist"):
        read_onnx(path.with_name("other.onnx"))
    path.write_text("hello, this is text")
    with pytest.raises(UsageError, match=r"not an ONNX file|no graph"):
        read_onnx(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", "", "..\\x"])
def test_external_data_outside_the_folder_is_refused(external, location):
    (external.parent.parent / "secret").write_bytes(b"x" * 48)
    edit(external, set_entry("location", location))
    with pytest.raises(UsageError, match="outside the model's folder"):
        read_onnx(external)


def test_linked_external_data_is_refused(external, tmp_path):
    data = external.parent / "net.onnx.data"
    target = tmp_path.parent / f"{tmp_path.name}-target"
    data.rename(target)
    data.symlink_to(target)
    with pytest.raises(UsageError, match="is a link"):
        read_onnx(external)
    data.unlink()
    folder = tmp_path.parent / f"{tmp_path.name}-folder"
    folder.mkdir()
    target.rename(folder / "w")
    (external.parent / "sub").symlink_to(folder)
    edit(external, set_entry("location", "sub/w"))
    with pytest.raises(UsageError, match="is a link"):
        read_onnx(external)


def test_missing_external_data_is_told(external):
    (external.parent / "net.onnx.data").unlink()
    with pytest.raises(UsageError, match="is missing"):
        read_onnx(external)


@pytest.mark.parametrize(
    ("key", "value"),
    [("length", "99999999999"), ("length", "-1"), ("offset", "40"), ("offset", "x")],
)
def test_external_sizes_must_be_true(external, key, value):
    edit(external, set_entry(key, value))
    with pytest.raises(UsageError, match=r"declares|number"):
        read_onnx(external)


def huge(loaded):
    loaded.graph.initializer[0].dims[0] = 2**40


def huge_external_shape(loaded):
    loaded.graph.initializer[0].dims[0] = 2**20


def negative(loaded):
    loaded.graph.initializer[0].dims[0] = -4


def huge_constant(loaded):
    tensor = helper.make_tensor("c", TensorProto.FLOAT, [1], [1.0])
    tensor.dims[0] = 2**40
    loaded.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def unknown_dtype(loaded):
    loaded.graph.initializer[0].data_type = 63


@pytest.mark.parametrize("change", [huge, negative, huge_constant, unknown_dtype])
def test_declared_sizes_must_be_true(path, change):
    edit(path, change)
    with pytest.raises(UsageError):
        read_onnx(path)


def test_external_shapes_must_be_true(external):
    edit(external, huge_external_shape)
    with pytest.raises(UsageError, match="its shape needs"):
        read_onnx(external)


def test_invalid_graphs_are_told(path):
    edit(path, lambda loaded: loaded.graph.node[0].input.__setitem__(0, "nothing"))
    with pytest.raises(UsageError, match="not a valid ONNX model"):
        read_onnx(path)


def test_unnamed_dimensions_get_names_and_other_types_are_refused():
    loaded = model()
    loaded.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_param")
    assert specs(loaded)[0][0].shape == ("x_dim_0", 4)
    loaded.graph.output[0].type.tensor_type.ClearField("shape")
    assert specs(loaded)[1][0].shape[1] == 3
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [1])
    loaded.graph.input.append(sequence)
    with pytest.raises(UsageError, match="'s' is not a tensor"):
        specs(loaded)


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        write_onnx(model(), tmp_path / "nowhere" / "net.onnx")
