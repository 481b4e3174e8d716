"""Small ONNX files that measure a device, written without the onnx package.

A device has the runtime and NumPy. The limits of its processor are what the runtime reaches on a
matrix product and on a sum of long vectors, and these two are a few fields of protocol buffers
(https://protobuf.dev/programming-guides/encoding), whose numbers onnx.proto fixes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
IR_VERSION, OPSET = 9, 17
ELEMENT = {"float32": 1, "uint8": 2, "int8": 3, "float16": 10}
SCALE = 0.02


def write_product(path: Path, size: int, dtype: str) -> Path:
    """Write `y = x @ weight`, both of shape (size, size).

    Args:
        path: of the file.
        size: rows and columns.
        dtype: of `x`: `float32`, `float16`, or `uint8` and `int8` for a product in whole numbers,
            whose weight is int8 and whose `y` is as `x`.
    """
    random = np.random.default_rng(0)
    if dtype.startswith("float"):
        weight = random.standard_normal((size, size)).astype(dtype)
        weights, nodes = [("weight", weight)], [_node("MatMul", "x", "weight", out="y")]
    else:
        zero = np.zeros((), np.dtype(dtype))
        weights = [
            ("weight", random.integers(-64, 64, (size, size)).astype(np.int8)),
            ("scale", np.array(SCALE, np.float32)),
            ("zero", zero),
            ("weight_zero", np.zeros((), np.int8)),
        ]
        nodes = [
            _node("DequantizeLinear", "x", "scale", "zero", out="x_float"),
            _node("DequantizeLinear", "weight", "scale", "weight_zero", out="weight_float"),
            _node("MatMul", "x_float", "weight_float", out="y_float"),
            _node("QuantizeLinear", "y_float", "scale", "zero", out="y"),
        ]
    shape = (size, size)
    return _write(path, nodes, weights, [("x", dtype, shape)], [("y", dtype, shape)])


def write_sum(path: Path) -> Path:
    """Write `y = a + b` for float32 vectors of any length."""
    ends = [(name, "float32", ("length",)) for name in ("a", "b", "y")]
    return _write(path, [_node("Add", "a", "b", out="y")], [], ends[:2], ends[2:])


_End = tuple[str, str, tuple[int | str, ...]]


def _write(
    path: Path,
    nodes: Iterable[bytes],
    weights: Iterable[tuple[str, Array]],
    inputs: Sequence[_End],
    outputs: Sequence[_End],
) -> Path:
    graph = [
        *(_field(1, node) for node in nodes),
        _field(2, "limit"),
        *(_field(5, _tensor(name, array)) for name, array in weights),
        *(_field(11, _value(*end)) for end in inputs),
        *(_field(12, _value(*end)) for end in outputs),
    ]
    opset = _field(2, OPSET)
    model = [_field(1, IR_VERSION), _field(7, b"".join(graph)), _field(8, opset)]
    path.write_bytes(b"".join(model))
    return path


def _node(op: str, *inputs: str, out: str) -> bytes:
    return b"".join(
        [*(_field(1, name) for name in inputs), _field(2, out), _field(3, out), _field(4, op)]
    )


def _tensor(name: str, array: Array) -> bytes:
    return b"".join(
        [
            *(_field(1, size) for size in array.shape),
            _field(2, ELEMENT[array.dtype.name]),
            _field(8, name),
            _field(9, np.ascontiguousarray(array).tobytes()),
        ]
    )


def _value(name: str, dtype: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(
        _field(1, _field(1, dim) if isinstance(dim, int) else _field(2, dim)) for dim in shape
    )
    tensor = _field(1, ELEMENT[dtype]) + _field(2, dims)
    return _field(1, name) + _field(2, _field(1, tensor))


def _field(number: int, value: int | str | bytes) -> bytes:
    """One field: a number as it is, text and messages with their length before them."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
