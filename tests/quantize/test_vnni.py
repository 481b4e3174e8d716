"""With VNNI, products of 8-bit weights are summed in 32 bits: nothing saturates.

Each layer runs in ONNX Runtime's integer kernels and in exact integers (NumPy). Scales are powers
of two, so that requantization rounds alike however it is computed, and results must be bit-equal.
"""

import platform
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.quantize.lint import lint
from edgekit.target import IntegerScheme

FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or "vnni" not in FLAGS,
    reason="needs an x86 processor with AVX-512 VNNI or AVX-VNNI",
)
X, Y = np.float32(2.0**-8), np.float32(2.0**-2)
ZX, ZY = np.array(3, np.uint8), np.array(117, np.uint8)
ROWS, WIDTH, CHANNELS, PIXELS = 5, 96, 48, 9


def weight(shape: tuple[int, ...], axis: int, per_channel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Integers near the ends of 8 bits, which saturate 16-bit sums, and scales."""
    rng = np.random.default_rng(0)
    signs = np.where(np.arange(shape[axis]) % 3, 1, -1)
    wide = [1] * len(shape)
    wide[axis] = -1
    levels = rng.integers(90, 128, shape) * signs.reshape(wide)
    scales = 2.0 ** rng.integers(-11, -8, shape[axis] if per_channel else ())
    return levels.astype(np.int8), np.asarray(scales, np.float32)


def case(op: str, per_channel: bool) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """A layer between Q/DQ pairs, its input, and what it gives in exact integers."""
    rng = np.random.default_rng(1)
    image = op in {"Conv", "depthwise"}
    shape = (1, CHANNELS, PIXELS, PIXELS) if image else (ROWS, WIDTH)
    x = (rng.integers(150, 256, shape).astype(np.float32) - float(ZX)) * X
    shapes = {
        "Conv": (CHANNELS, CHANNELS, 3, 3),
        "depthwise": (CHANNELS, 1, 3, 3),
        "Gemm": (CHANNELS, WIDTH),
        "MatMul": (WIDTH, CHANNELS),
    }
    axis = 1 if op == "MatMul" else 0
    w, ws = weight(shapes[op], axis, per_channel)
    bias = rng.integers(-5000, 5000, CHANNELS).astype(np.int32)
    arrays = {"w": w, "ws": ws, "s": X, "zx": ZX, "y.s": Y, "zy": ZY, "b": bias, "b.s": X * ws}
    arrays["wz"] = np.zeros(ws.shape, np.int8)
    named = {"axis": axis} if per_channel else {}
    attributes = {
        "Conv": {"pads": [1] * 4},
        "depthwise": {"pads": [1] * 4, "group": CHANNELS},
        "Gemm": {"transB": 1},
        "MatMul": {},
    }[op]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "zx"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], **named),
        helper.make_node("QuantizeLinear", ["a", "y.s", "zy"], ["aq"]),
        helper.make_node("DequantizeLinear", ["aq", "y.s", "zy"], ["ad"]),
        helper.make_node("Neg", ["ad"], ["y"]),
    ]
    inputs = ["xd", "wd"]
    if op != "MatMul":
        named = {"axis": 0} if per_channel else {}
        nodes.insert(3, helper.make_node("DequantizeLinear", ["b", "b.s"], ["bd"], **named))
        inputs.append("bd")
    kind = "Conv" if image else op
    nodes.insert(-3, helper.make_node(kind, inputs, ["a"], "layer", **attributes))
    out = (1, CHANNELS, PIXELS, PIXELS) if image else (ROWS, CHANNELS)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    steps = np.rint(x / X).astype(np.int64)
    if image:
        padded = np.pad(steps, ((0, 0), (0, 0), (1, 1), (1, 1)))
        views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        form = "nchwij,ocij->nohw" if op == "Conv" else "nchwij,cij->nchw"
        held = w if op == "Conv" else w[:, 0]
        sums = np.einsum(form, views, held.astype(np.int64))
    else:
        sums = steps @ (w.T if op == "Gemm" else w).astype(np.int64)
    wide = (1, -1, 1, 1) if image else (1, -1)
    if op != "MatMul":
        sums = sums + bias.astype(np.int64).reshape(wide)
    assert np.abs(sums).max() < 2**24  # float32 holds it
    factor = np.broadcast_to(ws.astype(np.float64) * X / Y, (CHANNELS,)).reshape(wide)
    levels = np.clip(np.rint(sums * factor) + int(ZY), 0, 255)
    assert np.mean((levels > 0) & (levels < 255)) > 0.3  # most is not clipped at the end
    return model, x, -((levels - int(ZY)) * Y).astype(np.float32)


def run(model: onnx.ModelProto, x: np.ndarray, folder: Path) -> tuple[np.ndarray, set[str]]:
    """What ONNX Runtime gives, and the operators that it runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    made = onnx.load(folder / "optimized.onnx")
    return session.run(None, {"x": x})[0], {n.op_type for n in made.graph.node}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(
    ("op", "kernel"),
    [
        ("Conv", "QLinearConv"),
        ("depthwise", "QLinearConv"),
        ("Gemm", "QGemm"),
        ("MatMul", "QLinearMatMul"),
    ],
)
def test_eight_bit_weights_are_exact(
    op: str, kernel: str, per_channel: bool, schemes: dict[str, IntegerScheme], tmp_path: Path
) -> None:
    model, x, right = case(op, per_channel)
    got, operators = run(model, x, tmp_path)
    assert kernel in operators
    np.testing.assert_array_equal(got, right)
    assert "weight-bits" not in [f.rule for f in lint(model, schemes["ort-x86-vnni"])]


@pytest.mark.parametrize("rows", [1, ROWS])
def test_dynamic_products_of_eight_bits_are_exact(rows: int) -> None:
    rng = np.random.default_rng(2)
    a = rng.integers(200, 256, (rows, WIDTH)).astype(np.uint8)
    b, _ = weight((WIDTH, CHANNELS), 1, per_channel=False)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b", "z"], ["y"])],
        "g",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, a.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (rows, CHANNELS))],
        [numpy_helper.from_array(b, "b"), numpy_helper.from_array(np.array(7, np.uint8), "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"a": a})
    np.testing.assert_array_equal(got, (a.astype(np.int64) - 7) @ b.astype(np.int64))
