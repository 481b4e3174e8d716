"""Small networks of the kinds that a processor's kernels differ in: float, recurrent, int8."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 16
NODES = helper.make_node


def _save(path: Path, nodes: list, weights: dict, shape: list, outputs: dict) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        path.stem,
        [value("x", TensorProto.FLOAT, shape)],
        [value(name, TensorProto.FLOAT, each) for name, each in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


def save_convolutions(path: Path) -> Path:
    """Three 3x3 convolutions with ReLU, a mean over the image, ten classes with softmax."""
    generator = np.random.default_rng(0)
    nodes, weights, before, last = [], {}, "x", 3
    for place in range(3):
        shape = (CHANNELS, last, 3, 3)
        weights[f"w{place}"] = (generator.standard_normal(shape) / (9 * last) ** 0.5).astype("f4")
        nodes += [
            NODES("Conv", [before, f"w{place}"], [f"c{place}"], pads=[1, 1, 1, 1]),
            NODES("Relu", [f"c{place}"], [f"r{place}"]),
        ]
        before, last = f"r{place}", CHANNELS
    weights["w"] = generator.standard_normal((CHANNELS, 10)).astype("f4")
    nodes += [
        NODES("GlobalAveragePool", [before], ["p"]),
        NODES("Flatten", ["p"], ["f"]),
        NODES("MatMul", ["f", "w"], ["logits"]),
        NODES("Softmax", ["logits"], ["y"]),
    ]
    batch = {"logits": ["batch", 10], "y": ["batch", 10]}
    return _save(path, nodes, weights, ["batch", 3, 32, 32], batch)


def save_recurrent(path: Path, hidden: int = 32) -> Path:
    """An LSTM over 20 steps."""
    generator = np.random.default_rng(1)
    weights = {
        "w": (generator.standard_normal((1, 4 * hidden, 8)) / 8**0.5).astype("f4"),
        "r": (generator.standard_normal((1, 4 * hidden, hidden)) / hidden**0.5).astype("f4"),
    }
    nodes = [NODES("LSTM", ["x", "w", "r"], ["", "y"], hidden_size=hidden)]
    return _save(path, nodes, weights, [20, "batch", 8], {"y": [1, "batch", hidden]})


def save_int8(path: Path) -> Path:
    """A convolution in int8 by Q/DQ.

    Weights stay within 7 bits: x86 without VNNI adds two products of 8 bits in 16, and clips.
    """
    generator = np.random.default_rng(2)
    weights = {
        "w8": generator.integers(-63, 64, (CHANNELS, 3, 3, 3)).astype(np.int8),
        "sw": np.array(1 / 256, "f4"),
        "sx": np.array(1 / 32, "f4"),
        "zx": np.array(128, np.uint8),
        "sy": np.array(1 / 16, "f4"),
    }
    nodes = [
        NODES("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        NODES("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        NODES("DequantizeLinear", ["w8", "sw"], ["wd"]),
        NODES("Conv", ["xd", "wd"], ["c"], pads=[1, 1, 1, 1]),
        NODES("QuantizeLinear", ["c", "sy", "zx"], ["cq"]),
        NODES("DequantizeLinear", ["cq", "sy", "zx"], ["y"]),
    ]
    return _save(path, nodes, weights, ["batch", 3, 32, 32], {"y": ["batch", CHANNELS, 32, 32]})
