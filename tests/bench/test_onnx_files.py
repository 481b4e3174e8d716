"""The files that measure a device: valid, and they compute what they say."""

import numpy as np
import onnx
import pytest

from edgekit.bench.onnx_files import SCALE, write_product, write_sum
from edgekit.bench.runtimes.onnxruntime import OnnxRuntime


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8"])
def test_a_product_is_valid_and_right(tmp_path, dtype):
    path = write_product(tmp_path / "p.onnx", 32, dtype)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    x = np.random.default_rng(1).integers(0, 100, (32, 32)).astype(dtype)
    with OnnxRuntime(path, {}) as runtime:
        assert runtime.inputs[0].shape == (32, 32)
        y = runtime.infer({"x": x})["y"]
    product = x.astype(np.float64) @ weight
    if dtype.startswith("float"):
        tolerance = 1e-5 if dtype == "float32" else 2e-2
        np.testing.assert_allclose(
            y, product, rtol=tolerance, atol=tolerance * np.abs(product).max()
        )
        return
    limits = np.iinfo(dtype)
    expected = np.clip(np.rint(product * SCALE), limits.min, limits.max)
    assert y.dtype == np.dtype(dtype)
    assert np.abs(y.astype(int) - expected).max() <= 1  # a half may be rounded either way


def test_the_sum_takes_vectors_of_any_length(tmp_path):
    path = write_sum(tmp_path / "s.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    with OnnxRuntime(path, {}) as runtime:
        for length in (1, 1000):
            a = np.arange(length, dtype=np.float32)
            y = runtime.infer({"a": a, "b": 2 * a})["y"]
            np.testing.assert_array_equal(y, 3 * a)
