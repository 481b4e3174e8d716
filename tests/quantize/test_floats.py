"""A layer that is left in float stays in float when ONNX Runtime loads the file."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.quantize import floats
from edgekit.quantize.graph import Graph
from edgekit.quantize.lint import lint
from edgekit.quantize.mend import mend
from edgekit.target import IntegerScheme

CHANNELS = 8
SHAPES = {
    "Conv": (4, CHANNELS, 3, 3),
    "depthwise": (CHANNELS, 1, 3, 3),
    "ConvTranspose": (CHANNELS, 4, 3, 3),
    "Gemm": (CHANNELS, 4),
    "Gemm transposed": (4, CHANNELS),
}


def model(op: str, between: str | None = None) -> onnx.ModelProto:
    """A float layer between pairs; one of its output channels is a thousand times the others."""
    rng = np.random.default_rng(0)
    kind = op.split()[0].replace("depthwise", "Conv")
    attributes = {
        "depthwise": {"group": CHANNELS},
        "Gemm transposed": {"transB": 1},
    }.get(op, {})
    weight = rng.normal(size=SHAPES[op]).astype(np.float32)
    outputs = 1 if op in {"ConvTranspose", "Gemm"} else 0
    np.moveaxis(weight, outputs, 0)[0] *= 1000
    arrays = {
        "w": weight,
        "s": np.float32(0.05), "z": np.uint8(128), "t": np.float32(0.01), "u": np.uint8(3),
    }  # fmt: skip
    image = kind != "Gemm"
    shape = (2, CHANNELS, 6, 6) if image else (2, CHANNELS)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "xq"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "xd"),
        helper.make_node(kind, ["xd", "w"], ["a"], "layer", **attributes),
        *([helper.make_node(between, ["a"], ["b"], "between")] if between else []),
        helper.make_node("QuantizeLinear", ["b" if between else "a", "t", "u"], ["aq"], "aq"),
        helper.make_node("DequantizeLinear", ["aq", "t", "u"], ["ad"], "ad"),
        helper.make_node("Neg", ["ad"], ["y"], "neg"),
        helper.make_node("Neg", ["xd"], ["other"], "other"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * len(shape))
            for n in ("y", "other")
        ],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(made: onnx.ModelProto, *, optimize: bool) -> list[np.ndarray]:
    shape = [d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(made.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {"x": x})


@pytest.mark.parametrize("between", [None, "Relu"])
@pytest.mark.parametrize("op", [op for op in SHAPES if op != "ConvTranspose"])
def test_float_weights_stay_float(
    op: str, between: str | None, schemes: dict[str, IntegerScheme]
) -> None:
    made = model(op, between)
    right = run(made, optimize=False)
    scheme = schemes["ort-x86-avx2"]
    assert "float-layer" in [f.rule for f in lint(made, scheme)]
    mended, done = mend(made, scheme)
    assert [(m.rule, m.kind, m.node) for m in done if m.rule == "float-layer"] == [
        ("float-layer", "exact", "layer")
    ]
    found = {f.rule for f in lint(mended, scheme)}
    assert not found & {"float-layer", "pair-mismatch", "activation-per-channel"}
    for exact, got in zip(right, run(mended, optimize=False), strict=True):
        np.testing.assert_array_equal(got, exact)
    for exact, got in zip(right, run(mended, optimize=True), strict=True):
        steps = np.abs(got - exact) / 0.01
        assert steps.max() <= 1.01  # float sums in another order, rounded


def test_a_transposed_convolution_stays_float_too() -> None:
    """The dialect has it among the operators of high precision; the layer itself can be kept."""
    made = model("ConvTranspose")
    exact = run(made, optimize=False)[0]
    assert floats.keep(Graph(made)) == ["layer"]
    assert (np.abs(run(made, optimize=True)[0] - exact) / 0.01).max() <= 1.01


def test_what_the_runtime_does_without_the_mend() -> None:
    """If this fails, ONNX Runtime no longer does it, and the mend can go."""
    made = model("Conv")
    exact, got = (run(made, optimize=o)[0] for o in (False, True))
    assert np.abs(exact - got).max() > 0.1  # ten steps


def test_a_layer_with_a_float_neighbour_is_left_alone() -> None:
    made = model("Conv")
    graph = Graph(made)
    layer = next(n for n in graph.nodes if n.name == "layer")
    assert floats.is_taken(graph, layer)
    graph.model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    assert floats.keep(Graph(made)) == []


def test_excluded_layers_of_a_quantized_network_are_kept(
    residual: Path, batches, schemes: dict[str, IntegerScheme], tmp_path: Path
) -> None:
    from edgekit.graph.onnx_model import read_onnx
    from edgekit.quantize.config import PtqConfig
    from edgekit.quantize.ptq import quantize_onnx

    path = tmp_path / "m.onnx"
    config = PtqConfig(samples=16, exclude=("a/Conv",))
    report = quantize_onnx(
        residual, path, scheme=schemes["ort-x86-avx2"], calibration=batches(2), config=config
    )
    assert "a/Conv" not in report.layers
    graph = Graph(read_onnx(path))
    assert not [n.name for n in graph.nodes if floats.is_taken(graph, n)]
