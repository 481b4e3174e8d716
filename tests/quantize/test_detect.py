"""A quantized model is known by whatever form it has, and Q/DQ goes back to float."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import UsageError
from edgekit.graph.onnx_model import read_onnx
from edgekit.lower.check import onnx_runner
from edgekit.quantize import detect
from edgekit.quantize.graph import Graph
from edgekit.quantize.ptq import quantize_onnx
from edgekit.target import IntegerScheme

Batches = Callable[..., Iterator[dict[str, np.ndarray]]]


def made_of(*nodes: onnx.NodeProto, **arrays: np.ndarray) -> onnx.ModelProto:
    """A model from x to y, both float32 of shape (2, 4)."""
    shape = [2, 4]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(v, k) for k, v in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_float_model_is_not_quantized(residual: Path) -> None:
    assert detect.quantized(onnx.load(residual)) == ""


@pytest.mark.parametrize(
    "kind", ["QuantizeLinear", "MatMulInteger", "QGemm", "FakeQuantize", "MatMulNBits"]
)
def test_every_form_is_known(kind: str) -> None:
    said = detect.quantized(made_of(helper.make_node(kind, ["x"], ["y"])))
    assert f"1 {kind}" in said
    assert "producer is not named" in said


def test_inside_a_branch() -> None:
    inner = helper.make_graph([helper.make_node("QGemm", ["x"], ["z"])], "then", [], [])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    assert "2 QGemm" in detect.quantized(made_of(node))
    with pytest.raises(UsageError, match="QGemm"):
        detect.to_float(made_of(node))


@pytest.mark.parametrize("name", ["tensorrt", "ort-x86-avx2"])
def test_back_to_float(
    name: str,
    residual: Path,
    batches: Batches,
    schemes: dict[str, IntegerScheme],
    tmp_path: Path,
) -> None:
    """The float twin differs from the integer file by activation rounding alone."""
    path = tmp_path / "model.onnx"
    quantize_onnx(residual, path, scheme=schemes[name], calibration=batches())
    model = read_onnx(path)
    assert "DequantizeLinear" in detect.quantized(model)
    back = detect.to_float(model)
    onnx.checker.check_model(back, full_check=True)
    assert detect.quantized(back) == ""
    (feed,) = batches(1)
    (right,), (got,) = (
        tuple(onnx_runner(m.SerializeToString())(feed).values())
        for m in (onnx.load(residual), back)
    )
    assert 20 * np.log10(np.linalg.norm(right) / np.linalg.norm(right - got)) > 30
    before, after = Graph(model), Graph(back)
    for node in before.nodes:  # weights are bit for bit what the integers stand for
        held = before.weight(node)
        if held is None:
            continue
        dq = before.producer(node.input[1])
        assert dq is not None
        twin = next(n for n in after.nodes if n.name == node.name)
        q, s = before.array(dq.input[0]), before.array(dq.input[1])
        wide = s.reshape([-1 if a == before.axis(dq) % q.ndim else 1 for a in range(q.ndim)])  # type: ignore[union-attr]
        np.testing.assert_array_equal(after.array(twin.input[1]), q.astype(np.float32) * wide)  # type: ignore[union-attr]


def test_outputs_keep_their_names() -> None:
    pair = [
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    s, z = np.array(0.1, np.float32), np.array(0, np.int8)
    back = detect.to_float(made_of(helper.make_node("Relu", ["x"], ["r"]), *pair, s=s, z=z))
    assert [(n.op_type, n.output[0]) for n in back.graph.node] == [("Relu", "y")]
    pair[0].input[0] = "x"  # from an input straight to an output
    back = detect.to_float(made_of(*pair, s=s, z=z))
    assert [(n.op_type, n.input[0], n.output[0]) for n in back.graph.node] == [
        ("Identity", "x", "y")
    ]


def test_blocks_and_constants() -> None:
    """A weight in blocks of two, with its scales in Constant nodes."""
    scales = np.array([[0.5, 2.0]], np.float32).T  # (2, 1): one for two rows
    w = np.arange(4, dtype=np.int8).reshape(4, 1)
    nodes = [
        helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(scales)),
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=2),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    back = Graph(detect.to_float(made_of(*nodes, w=w)))
    assert [n.op_type for n in back.nodes] == ["MatMul"]
    value = back.array(back.nodes[0].input[1])
    np.testing.assert_array_equal(value, np.array([[0.0], [0.5], [4.0], [6.0]], np.float32))


def test_dynamic_quantization_has_no_way_back() -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    dq = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])
    with pytest.raises(UsageError, match="DynamicQuantizeLinear") as error:
        detect.to_float(made_of(node, dq))
    assert error.value.exit_code == 2
