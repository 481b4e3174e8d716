"""Small ONNX files for the benchmark's command-line tests."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save(
    path: Path, *, layers: int = 1, width: int = 16, shape: tuple[int | str, ...] = ("batch", 16)
) -> Path:
    """Save a network of `layers` matrix products; its input is `image`."""
    generator = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(
            (generator.standard_normal((width, width)) / width).astype(np.float32), f"w{i}"
        )
        for i in range(layers)
    ]
    names = ["image", *(f"h{i}" for i in range(layers - 1)), "logits"]
    nodes = [
        helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], f"layer{i}")
        for i in range(layers)
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, list(shape))],
        weights,
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path
