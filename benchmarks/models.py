"""Two ONNX files whose latency is known roughly: some 20 microseconds, and some 20 milliseconds."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_small(path: Path) -> Path:
    """Eight matrix products with an activation on one row of 128 numbers."""
    return _write(path, [1, 128], [(128, 128)] * 8, "MatMul")


def write_large(path: Path) -> Path:
    """Eight 3 x 3 convolutions of 64 channels on 56 x 56 pixels: 925 million MACs."""
    return _write(path, [1, 64, 56, 56], [(64, 64, 3, 3)] * 8, "Conv", pads=[1, 1, 1, 1])


def _write(
    path: Path, shape: list[int], weights: list[tuple[int, ...]], op: str, **attributes: list[int]
) -> Path:
    random = np.random.default_rng(0)
    nodes, constants, tensor = [], [], "x"
    for place, size in enumerate(weights):
        scale = np.sqrt(2 / np.prod(size[1:]))
        weight = (scale * random.standard_normal(size)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"w{place}"))
        nodes.append(helper.make_node(op, [tensor, f"w{place}"], [f"a{place}"], **attributes))
        tensor = "y" if place == len(weights) - 1 else f"r{place}"
        nodes.append(helper.make_node("Relu", [f"a{place}"], [tensor]))
    ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)] for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", *ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path
