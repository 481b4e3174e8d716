"""Without VNNI, x86 kernels add pairs of u8·s8 products in 16 bits: 8-bit weights saturate there.

With VNNI they do not: the same file is exact (`test_vnni.py` has other layers).

The model runs with ONNX Runtime's integer kernels, with OpenVINO's, and in exact integers (NumPy).
"""

import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.bench.runtimes import openvino as library
from edgekit.lower.check import onnx_runner
from edgekit.quantize.arithmetic import quantize_linear
from edgekit.quantize.lint import lint
from edgekit.quantize.mend import mend
from edgekit.target import IntegerScheme

INPUTS, OUTPUTS = 64, 16
IN, OUT, WEIGHT = np.float32(1 / 255), np.float32(0.25), np.float32(0.01)
FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
saturates = pytest.mark.skipif(
    platform.machine() != "x86_64" or "avx2" not in FLAGS or "vnni" in FLAGS,
    reason="needs an x86 processor without VNNI",
)


def model(top: int) -> onnx.ModelProto:
    """A 1×1 convolution of 64 channels, all of its weights near `top`; integers on both sides."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.integers(top - 20, top + 1, (OUTPUTS, INPUTS, 1, 1)).astype(np.int8),
        "ws": np.full(OUTPUTS, WEIGHT),
        "wz": np.zeros(OUTPUTS, np.int8),
        "s": np.array(IN),
        "os": np.array(OUT),
        "z": np.array(0, np.uint8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "xq"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "xd"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "wd", axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["c"], "c"),
        helper.make_node("QuantizeLinear", ["c", "os", "z"], ["cq"], "cq"),
        helper.make_node("DequantizeLinear", ["cq", "os", "z"], ["cd"], "cd"),
        helper.make_node("Neg", ["cd"], ["y"], "y"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, INPUTS, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, OUTPUTS, 4, 4])],
        [numpy_helper.from_array(v, k) for k, v in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def image() -> np.ndarray:
    return np.random.default_rng(1).uniform(0.8, 1, (1, INPUTS, 4, 4)).astype(np.float32)


def exact(made: onnx.ModelProto) -> np.ndarray:
    """The sums in integers, with one rounding at the end, as QLinearConv defines it."""
    arrays = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    weight = next(v for v in arrays.values() if v.dtype == np.int8 and v.ndim == 4)
    scale = next(v for k, v in arrays.items() if k.startswith("ws"))
    zero = np.array(0, np.uint8)
    x = quantize_linear(image(), arrays["s"], zero).astype(np.int64)
    sums = np.einsum("nchw,oc->nohw", x, weight[:, :, 0, 0].astype(np.int64))
    real = (sums * (IN * scale[0]).astype(np.float32)).astype(np.float32)
    return -quantize_linear(real, arrays["os"], zero).astype(np.float32) * arrays["os"]


def onnxruntime(made: onnx.ModelProto, folder: Path) -> np.ndarray:
    del folder
    return onnx_runner(made.SerializeToString())({"x": image()})["y"]


def openvino(made: onnx.ModelProto, folder: Path) -> np.ndarray:
    core = library.import_openvino().Core()
    onnx.save(made, folder / "m.onnx")
    compiled = core.compile_model(core.read_model(folder / "m.onnx"), "CPU")
    return np.asarray(compiled([image()])[compiled.output(0)])


sums_in_32_bits = pytest.mark.skipif(
    platform.machine() != "x86_64" or "vnni" not in FLAGS, reason="needs an x86 processor with VNNI"
)


@saturates
@pytest.mark.parametrize("runtime", [onnxruntime, openvino])
def test_eight_bits_saturate_and_seven_do_not(
    runtime, schemes: dict[str, IntegerScheme], tmp_path: Path
) -> None:
    if runtime is openvino:
        pytest.importorskip("openvino")
    eight = model(127)
    assert "weight-bits" in [f.rule for f in lint(eight, schemes["ort-x86-avx2"])]
    wrong, right = runtime(eight, tmp_path), exact(eight)
    assert np.abs(wrong - right).min() > 10 * OUT  # every output, by far
    seven, done = mend(eight, schemes["ort-x86-avx2"])
    assert [(m.rule, m.kind) for m in done] == [("weight-bits", "lossy")]
    np.testing.assert_array_equal(runtime(seven, tmp_path), exact(seven))
    np.testing.assert_allclose(exact(seven), right, atol=2 * OUT)


@sums_in_32_bits
@pytest.mark.parametrize("runtime", [onnxruntime, openvino])
def test_eight_bits_are_exact_with_vnni(
    runtime, schemes: dict[str, IntegerScheme], tmp_path: Path
) -> None:
    if runtime is openvino:
        pytest.importorskip("openvino")
    eight = model(127)
    assert "weight-bits" not in [f.rule for f in lint(eight, schemes["ort-x86-vnni"])]
    np.testing.assert_array_equal(runtime(eight, tmp_path), exact(eight))
