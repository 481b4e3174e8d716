"""Our definitions against ONNX Runtime's, and each correction against what it promises."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.onnx_model import read_onnx
from edgekit.quantize import bias, dialect
from edgekit.quantize.arithmetic import dequantize_linear, quantize_linear
from edgekit.quantize.config import PtqConfig
from edgekit.quantize.graph import Graph
from edgekit.quantize.ptq import quantize_onnx
from edgekit.target import IntegerScheme

Batches = Callable[..., Iterator[dict[str, np.ndarray]]]


def through_onnxruntime(
    x: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int | None
) -> tuple[np.ndarray, np.ndarray]:
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
    ]
    kind = TensorProto.UINT8 if zero.dtype == np.uint8 else TensorProto.INT8
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [
            helper.make_tensor_value_info("q", kind, x.shape),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape),
        ],
        [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    q, y = session.run(None, {"x": x})
    return q, y


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["int8", "uint8"]),
    per_channel=st.booleans(),
    exponent=st.integers(-12, 6),
)
def test_quantize_linear_is_bit_equal_to_onnxruntime(
    seed: int, dtype: str, per_channel: bool, exponent: int
) -> None:
    rng = np.random.default_rng(seed)
    axis = 1 if per_channel else None
    shape = (5,) if per_channel else ()
    scale = np.asarray(rng.uniform(0.5, 2, shape) * 2.0**exponent, np.float32)
    limits = np.iinfo(dtype)
    zero = rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    steps = rng.integers(-300, 300, (3, 5, 4)) / 2  # half of them are ties
    aligned = scale.reshape(1, -1, 1) if per_channel else scale
    x = (steps * aligned + rng.choice([0.0, 1e-3], (3, 5, 4)) * aligned).astype(np.float32)
    q, y = through_onnxruntime(x, scale, np.asarray(zero), axis)
    np.testing.assert_array_equal(quantize_linear(x, scale, zero, axis), q)
    np.testing.assert_array_equal(dequantize_linear(q, scale, zero, axis), y)


@pytest.mark.parametrize("name", ["ort-x86-vnni", "tensorrt"])
def test_corrected_channel_means_agree(
    residual: Path,
    batches: Batches,
    schemes: dict[str, IntegerScheme],
    tmp_path: Path,
    name: str,
) -> None:
    """Also where the bias was all zero (stem) and where there was none (a)."""
    path = tmp_path / "model.onnx"
    config = PtqConfig(samples=16, bias_samples=16)
    quantize_onnx(residual, path, scheme=schemes[name], calibration=batches(2), config=config)
    model, reference = read_onnx(path), read_onnx(residual)
    layers = {n.name: n.output[0] for n in reference.graph.node if n.op_type in {"Conv", "Gemm"}}
    axes = {o: -1 if "Gemm" in n or o == "output" else 1 for n, o in layers.items()}
    feeds = [{"image": b["image"][i : i + 1]} for b in batches(2) for i in range(8)]
    right, got = (bias.channel_means(m, axes, feeds) for m in (reference, model))
    assert len(right) == 6
    for tensor, mean in right.items():
        np.testing.assert_allclose(got[tensor], mean, atol=1e-5, rtol=0)
    stem = next(n for n in model.graph.node if n.name == "stem/Conv")
    assert np.abs(Graph(model).array(stem.input[2])).max() > 0  # type: ignore[arg-type]


def pairs(dtype: str, zero: int, scale: object = 0.05) -> onnx.ModelProto:
    """x, a Q/DQ pair, and a Relu that keeps the pair's output from being the model's."""
    s = np.asarray(scale, np.float32)
    z = np.full(s.shape, zero, dtype)
    axis = {"axis": 1} if s.ndim else {}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="r"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"], name="q", **axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d", **axis),
        helper.make_node("Neg", ["d"], ["y"], name="n"),
    ]
    shape = [2, 3, 4, 4]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(s, "s"), numpy_helper.from_array(z, "z")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32) * 9
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return y


@pytest.mark.parametrize(("before", "zero", "after"), [("int8", -7, "uint8"), ("uint8", 9, "int8")])
def test_the_other_signedness_holds_the_same_levels(before: str, zero: int, after: str) -> None:
    model = pairs(before, zero)
    right = run(model)
    graph = Graph(model)
    assert dialect.activation_dtype(graph, after) == 1
    assert dialect.activation_dtype(graph, after) == 0
    assert graph.array(graph.activation_quantizers()[0].input[2]).dtype == after  # type: ignore[union-attr]
    np.testing.assert_array_equal(run(model), right)


def test_channel_scales_become_one_that_covers_them() -> None:
    model = pairs("uint8", 0, [0.01, 0.05, 0.02])
    right = run(pairs("uint8", 0, 0.05))
    graph = Graph(model)
    assert dialect.one_scale_per_activation(graph) == 1
    assert dialect.one_scale_per_activation(graph) == 0
    np.testing.assert_allclose(run(model), right, atol=1e-6)


def test_parameters_keep_zero_exact() -> None:
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)):
        for dtype in ("uint8", "int8"):
            scale, zero = dialect.parameters(low, high, dtype, symmetric=False)
            ends = np.array([min(low, 0), 0, max(high, 0)], np.float32)
            back = dequantize_linear(quantize_linear(ends, scale, zero), scale, zero)
            assert back[1] == 0
            np.testing.assert_allclose(back, ends, atol=float(scale) * 0.51)
