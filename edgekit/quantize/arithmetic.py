"""QuantizeLinear and DequantizeLinear in NumPy, bit-equal to ONNX Runtime's operators."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def quantize_linear(
    x: NDArray[np.floating[Any]],
    scale: NDArray[np.floating[Any]],
    zero_point: NDArray[np.integer[Any]],
    axis: int | None = None,
) -> NDArray[np.integer[Any]]:
    """QuantizeLinear as ONNX defines it: q = clip(round-half-even(x / s) + z, lowest, highest).

    Args:
        x: float32, any shape.
        scale: float32, a scalar, or one value for each index of `axis`.
        zero_point: of the dtype to quantize to, shaped as `scale`.
        axis: of `x`; None for a scalar scale.

    Returns:
        Integers, in the dtype of `zero_point`, shaped as `x`.
    """
    shape = [1] * x.ndim
    if axis is not None:
        shape[axis] = -1
    s, z = np.reshape(scale, shape), np.reshape(zero_point, shape)
    limits = np.iinfo(z.dtype)
    rounded = np.rint((x / s).astype(np.float32)) + z.astype(np.float32)
    levels: NDArray[np.integer[Any]] = np.clip(rounded, limits.min, limits.max).astype(z.dtype)
    return levels


def dequantize_linear(
    q: NDArray[np.integer[Any]],
    scale: NDArray[np.floating[Any]],
    zero_point: NDArray[np.integer[Any]],
    axis: int | None = None,
) -> NDArray[np.float32]:
    """DequantizeLinear as ONNX defines it: x = (q - z) · s.

    Args:
        q: integers, any shape.
        scale: float32, a scalar, or one value for each index of `axis`.
        zero_point: integers, shaped as `scale`.
        axis: of `q`; None for a scalar scale.

    Returns:
        float32, shaped as `q`.
    """
    shape = [1] * q.ndim
    if axis is not None:
        shape[axis] = -1
    s, z = np.reshape(scale, shape), np.reshape(zero_point, shape)
    return ((q.astype(np.int32) - z.astype(np.int32)).astype(np.float32) * s).astype(np.float32)
