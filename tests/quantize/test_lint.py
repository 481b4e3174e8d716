"""The linter finds each planted fault by name, and nothing in a float model."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.onnx_model import read_onnx, write_onnx
from edgekit.quantize.lint import lint
from edgekit.quantize.rules import RULES
from edgekit.target import IntegerScheme


def model(
    nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray], opset: int = 20
) -> onnx.ModelProto:
    """A model from x to y: float32, four channels."""
    shape = ["N", 4, 6, 6]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "c", "h", "w"])],
        [numpy_helper.from_array(arrays[k], k) for k in sorted(used & set(arrays))],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


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
    "shared-scale": [
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


MORE = {
    "unknown-operator": [helper.make_node("Mine", ["x"], ["d"], "d", domain="my.own"), relu("d")],
    "contrib-qdq": [*pair("x", "s", "i0", "d"), relu("d")],
    "bit-width": [*pair("x", "s", "i16", "d"), relu("d")],
    "scale-not-constant": [
        helper.make_node("ReduceMax", ["x"], ["top"], "top", keepdims=0),
        *pair("x", "top", "i0", "d"),
        relu("d"),
    ],
    "pair-mismatch": [
        pair("x", "s", "i0", "d")[0],
        helper.make_node("DequantizeLinear", ["d.q", "s9", "i0"], ["d"], "d.dq"),
        relu("d"),
    ],
    "unpaired": [
        helper.make_node("QuantizeLinear", ["x", "s", "i0"], ["q"], "q"),
        helper.make_node("Cast", ["q"], ["y"], "y", to=TensorProto.FLOAT),
    ],
    "weight-axis": [
        helper.make_node("DequantizeLinear", ["w", "s4", "i04"], ["wd"], "wd.dq", axis=1),
        conv("x", "wd", "c"),
        relu("c"),
    ],
    "weight-per-tensor": [
        helper.make_node("DequantizeLinear", ["w", "s", "i0"], ["wd"], "wd.dq"),
        conv("x", "wd", "c"),
        relu("c"),
    ],
    "skip-input": [
        *pair("x", "s", "i0", "d"),
        weight("w", "wd"),
        conv("d", "wd", "c"),
        helper.make_node("Add", ["c", "x"], ["y"], "y"),
    ],
    "conv-activation": [
        weight("w", "wd"),
        conv("x", "wd", "c"),
        *pair("c", "s", "i0", "d"),
        relu("d"),
    ],
    "several-pairs": [
        helper.make_node("Neg", ["x"], ["m"], "m"),
        *pair("m", "s", "i0", "d"),
        *pair("m", "s", "i0", "e"),
        helper.make_node("Add", ["d", "e"], ["y"], "y"),
    ],
    "high-precision": [
        *pair("x", "s", "i0", "d"),
        helper.make_node("Softmax", ["d"], ["y"], "y"),
    ],
    "narrow-layer": [
        *pair("x", "s", "i0", "d"),
        weight("w", "wd"),
        conv("d", "wd", "c"),
        relu("c"),
    ],
}
for each in MORE["contrib-qdq"][:2]:
    each.domain = "com.microsoft"
ARRAYS["i16"] = np.array(0, np.int16)
OTHERS = {  # for dialects besides TensorRT's, with the faults that only they have
    "weight-bits": ("ort-x86-avx2", [weight("w", "wd"), conv("x", "wd", "c"), relu("c")]),
    "unfused-layer": (
        "ort-x86-avx2",
        [
            *pair("x", "s", "u0", "d"),
            weight("w", "wd"),
            conv("d", "wd", "c"),
            helper.make_node("Softmax", ["c"], ["y"], "y"),
        ],
    ),
    "float-layer": (
        "ort-x86-avx2",
        [
            *pair("x", "s", "u0", "d"),
            conv("d", "wf", "c"),
            *pair("c", "s", "u0", "e"),
            relu("e"),
        ],
    ),
}


def rules(nodes: list[onnx.NodeProto], scheme: IntegerScheme, opset: int = 20) -> list[str]:
    return [f.rule for f in lint(model(nodes, ARRAYS, opset), scheme)]


@pytest.mark.parametrize("rule", [*FAULTS, *MORE])
def test_a_planted_fault_is_found(schemes: dict[str, IntegerScheme], rule: str) -> None:
    found = lint(model({**FAULTS, **MORE}[rule], ARRAYS), schemes["tensorrt"])
    assert rule in [f.rule for f in found]
    first = next(f for f in found if f.rule == rule)
    assert first.node
    assert first.message.endswith(".")
    assert first.severity == RULES[rule].severity


@pytest.mark.parametrize("rule", OTHERS)
def test_faults_of_other_dialects(schemes: dict[str, IntegerScheme], rule: str) -> None:
    name, nodes = OTHERS[rule]
    assert rule in rules(nodes, schemes[name])
    assert rule not in rules(nodes, schemes["tensorrt"])


def test_every_rule_has_a_planted_fault() -> None:
    elsewhere = {"opset", "gemm-bias"}  # below, and in test_mend.py
    assert set(RULES) == {*FAULTS, *MORE, *OTHERS} | elsewhere
    for rule in RULES.values():
        assert rule.why.endswith(".")
        assert rule.mend.endswith(".") or rule.mend.endswith("`.")


def test_an_old_opset(schemes: dict[str, IntegerScheme]) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "i0"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "i0"], ["d"], "dq"),
        relu("d"),
    ]
    assert rules(nodes, schemes["tensorrt"], 11) == ["opset"]
    assert rules(nodes, schemes["tensorrt"], 13) == []


def test_dynamic_quantization_where_it_is_fast(schemes: dict[str, IntegerScheme]) -> None:
    lstm = helper.make_node("DynamicQuantizeLSTM", ["x"], ["y"], "l", domain="com.microsoft")
    conv = helper.make_node("ConvInteger", ["x"], ["y"], "c")
    for name, scheme in schemes.items():
        found = rules([lstm], scheme) == []
        assert found == name.startswith("ort-")
        assert "dynamic-quantization" in rules([conv], scheme)


def test_the_residual_rule_knows_which_convolution_is_fused(
    schemes: dict[str, IntegerScheme],
) -> None:
    """Of two convolutions the later one is: its pair is the wrong one, the other's is right."""
    ends = [weight("w", "wd"), conv("x", "wd", "a"), conv("x", "wd", "b")]
    add = helper.make_node("Add", ["e", "d"], ["y"], "y")
    both = [*ends, *pair("a", "s", "i0", "d"), *pair("b", "s", "i0", "e"), add]
    found = [f for f in lint(model(both, ARRAYS), schemes["tensorrt"]) if f.rule == "conv-add"]
    assert len(found) == 1
    assert "'b'" in found[0].message
    add = helper.make_node("Add", ["b", "d"], ["y"], "y")
    assert "conv-add" not in rules([*ends, *pair("a", "s", "i0", "d"), add], schemes["tensorrt"])


def test_constants_in_nodes_and_zero_points_left_out(schemes: dict[str, IntegerScheme]) -> None:
    """As PyTorch's exporter writes them: a scale in a Constant node, no zero point on weights."""
    scale = numpy_helper.from_array(ARRAYS["s"])
    nodes = [
        helper.make_node("Constant", [], ["cs"], "cs", value=scale),
        *pair("x", "cs", "i0", "d"),
        helper.make_node("DequantizeLinear", ["w", "s4"], ["wd"], "wd", axis=0),
        conv("d", "wd", "c"),
        relu("c"),
    ]
    assert rules(nodes, schemes["tensorrt"]) == ["narrow-layer"]
    nodes[1].input[2] = ""  # then it is uint8
    assert "activation-dtype" in rules(nodes, schemes["tensorrt"])


def test_unread_external_data_is_enough(schemes: dict[str, IntegerScheme], tmp_path: Path) -> None:
    made = model(OTHERS["weight-bits"][1], ARRAYS)
    write_onnx(made, tmp_path / "m.onnx", external_over_bytes=1)
    unread = read_onnx(tmp_path / "m.onnx", data=False)
    found = lint(unread, schemes["ort-x86-avx2"], tmp_path)
    assert "weight-bits" in [f.rule for f in found]
    assert all(not i.raw_data for i in unread.graph.initializer)


def test_eight_bit_weights_without_vnni(schemes: dict[str, IntegerScheme]) -> None:
    nodes = [*pair("x", "s", "u0", "d"), weight("w", "wd"), conv("d", "wd", "c"), relu("c")]
    assert set(rules(nodes, schemes["ort-x86-avx2"])) == {"weight-bits", "narrow-layer"}
    assert rules(nodes, schemes["ort-x86-vnni"]) == ["narrow-layer"]


def test_the_right_placement_has_no_finding(schemes: dict[str, IntegerScheme]) -> None:
    nodes = [
        *pair("x", "s", "i0", "d"),
        weight("w", "wd"),
        conv("d", "wd", "c"),
        helper.make_node("Add", ["c", "d"], ["y"], "y"),
    ]
    assert rules(nodes, schemes["tensorrt"]) == ["narrow-layer"]


def test_a_float_model_has_no_finding(residual: Path, schemes: dict[str, IntegerScheme]) -> None:
    for scheme in schemes.values():
        assert lint(onnx.load(residual), scheme) == []
