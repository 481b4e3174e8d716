"""The linter finds each planted fault by name, and nothing in a float model."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.quantize.lint import lint
from edgekit.target import IntegerScheme


def model(nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model from x to y: float32, four channels."""
    shape = ["N", 4, 6, 6]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def pair(tensor: str, scale: str, zero: str, out: str) -> list[onnx.NodeProto]:
    axis = {"axis": 1}
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [f"{out}.q"], f"{out}.q", **axis),
        helper.make_node("DequantizeLinear", [f"{out}.q", scale, zero], [out], f"{out}.dq", **axis),
    ]


ARRAYS = {
    "s": np.array(0.1, np.float32),
    "s4": np.full(4, 0.1, np.float32),
    "s0": np.array(0.0, np.float32),
    "i0": np.array(0, np.int8),
    "i04": np.zeros(4, np.int8),
    "i3": np.array(3, np.int8),
    "u0": np.array(0, np.uint8),
    "w": np.full((4, 4, 1, 1), 100, np.int8),
    "wu": np.full((4, 4, 1, 1), 100, np.uint8),
    "wf": np.full((4, 4, 1, 1), 0.5, np.float32),
    "b": np.zeros(4, np.int32),
}


def weight(name: str, out: str, zero: str = "i04") -> onnx.NodeProto:
    return helper.make_node("DequantizeLinear", [name, "s4", zero], [out], f"{out}.dq", axis=0)


def conv(x: str, w: str, out: str, bias: str = "") -> onnx.NodeProto:
    return helper.make_node("Conv", [x, w, bias] if bias else [x, w], [out], out)


def relu(x: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [x], ["y"], "y")


FAULTS = {
    "activation-dtype": [*pair("x", "s", "u0", "d"), relu("d")],
    "zero-point": [*pair("x", "s", "i3", "d"), relu("d")],
    "activation-per-channel": [*pair("x", "s4", "i04", "d"), relu("d")],
    "scale-not-positive": [*pair("x", "s0", "i0", "d"), relu("d")],
    "output-quantized": pair("x", "s", "i0", "y"),
    "weight-dtype": [weight("wu", "wd", "u0"), conv("x", "wd", "c"), relu("c")],
    "weight-zero-point": [weight("w", "wd", "i3"), conv("x", "wd", "c"), relu("c")],
    "float-weight": [*pair("wf", "s", "i0", "wd"), conv("x", "wd", "c"), relu("c")],
    "bias-quantized": [
        weight("w", "wd"),
        helper.make_node("DequantizeLinear", ["b", "s4"], ["bd"], "bd", axis=0),
        conv("x", "wd", "c", "bd"),
        relu("c"),
    ],
    "conv-add": [
        weight("w", "wd"),
        conv("x", "wd", "c"),
        *pair("c", "s", "i0", "d"),
        helper.make_node("Add", ["d", "x"], ["y"], "y"),
    ],
    "concat-scales": [
        *pair("x", "s", "i0", "d"),
        helper.make_node("Neg", ["x"], ["m"], "m"),
        *pair("m", "s9", "i0", "e"),
        helper.make_node("Concat", ["d", "e"], ["y"], "y", axis=1),
    ],
    "dynamic-quantization": [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"], "q"),
        helper.make_node("DequantizeLinear", ["q", "qs", "qz"], ["d"], "d"),
        relu("d"),
    ],
    "operator-form": [
        helper.make_node("QGemm", ["x"], ["d"], "d", domain="com.microsoft"),
        relu("d"),
    ],
}
ARRAYS["s9"] = np.array(0.9, np.float32)


@pytest.mark.parametrize("rule", FAULTS)
def test_a_planted_fault_is_found(schemes: dict[str, IntegerScheme], rule: str) -> None:
    found = lint(model(FAULTS[rule], ARRAYS), schemes["tensorrt"])
    assert rule in [f.rule for f in found]
    first = next(f for f in found if f.rule == rule)
    assert first.node
    assert first.message.endswith(".")
    assert first.mend.endswith(".")


def test_eight_bit_weights_without_vnni(schemes: dict[str, IntegerScheme]) -> None:
    nodes = [*pair("x", "s", "u0", "d"), weight("w", "wd"), conv("d", "wd", "c"), relu("c")]
    assert [f.rule for f in lint(model(nodes, ARRAYS), schemes["ort-x86-avx2"])] == ["weight-bits"]
    assert lint(model(nodes, ARRAYS), schemes["ort-x86-vnni"]) == []


def test_the_right_placement_has_no_finding(schemes: dict[str, IntegerScheme]) -> None:
    nodes = [
        *pair("x", "s", "i0", "d"),
        weight("w", "wd"),
        conv("d", "wd", "c"),
        helper.make_node("Add", ["c", "d"], ["y"], "y"),
    ]
    assert lint(model(nodes, ARRAYS), schemes["tensorrt"]) == []


def test_a_float_model_has_no_finding(residual: Path, schemes: dict[str, IntegerScheme]) -> None:
    for scheme in schemes.values():
        assert lint(onnx.load(residual), scheme) == []
