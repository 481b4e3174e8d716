"""Golden graphs: one for each placement rule of TensorRT, taken and built by TensorRT-RTX.

`EDGEKIT_UPDATE_GOLDEN=1 pytest tests/quantize/test_placement.py` writes them again. A line is a
node: what it makes, its operator, and what it reads; constants stand as their dtype and shape.
"""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.lower import tensorrt
from edgekit.quantize import placement, weights
from edgekit.quantize.graph import Graph, output_axis
from edgekit.quantize.lint import lint
from edgekit.target import IntegerScheme

GOLDEN = Path(__file__).parent / "golden"
SHAPE = (1, 16, 8, 8)
FLAT = (4, 16)


def node(kind: str, inputs: str, out: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [out], out, **attributes)


def conv(x: str, w: str, out: str, **attributes: object) -> onnx.NodeProto:
    return node("Conv", f"{x} {w} b", out, **attributes)


SAME = {"pads": [1, 1, 1, 1]}
# name: (nodes, shapes of the weights, shape of x)
Case = tuple[list[onnx.NodeProto], dict[str, tuple[int, ...]], tuple[int, ...]]
KERNEL = (16, 16, 3, 3)
CASES: dict[str, Case] = {
    "conv-relu": ([conv("x", "w", "c", **SAME), node("Relu", "c", "y")], {"w": KERNEL}, SHAPE),
    "depthwise": (
        [conv("x", "w", "c", group=16, **SAME), node("Clip", "c lo hi", "y")],
        {"w": (16, 1, 3, 3)},
        SHAPE,
    ),
    "conv-transpose": (
        [node("ConvTranspose", "x w b", "y", strides=[2, 2])],
        {"w": (16, 16, 2, 2)},
        SHAPE,
    ),
    "gemm": ([node("Gemm", "x w b", "y", transB=1)], {"w": (16, 16)}, FLAT),
    "matmul": ([node("MatMul", "x w", "m"), node("Add", "m b", "y")], {"w": (16, 16)}, FLAT),
    "residual-identity": (
        [
            conv("x", "v", "s", **SAME),
            node("Relu", "s", "r"),
            conv("r", "w", "c", **SAME),
            node("Add", "c r", "a"),
            node("Relu", "a", "y"),
        ],
        {"v": KERNEL, "w": KERNEL},
        SHAPE,
    ),
    "residual-projection": (
        [
            conv("x", "v", "s", **SAME),
            conv("x", "w", "c", **SAME),
            node("Add", "s c", "a"),
            node("Relu", "a", "y"),
        ],
        {"v": KERNEL, "w": KERNEL},
        SHAPE,
    ),
    "concat": (
        [
            node("Relu", "x", "r"),
            node("Neg", "x", "n"),
            node("Concat", "r n", "j", axis=1),
            conv("r", "v", "o", **SAME),
            conv("n", "v", "p", **SAME),
            conv("j", "w", "q", **SAME),
            node("Sum", "o p q", "y"),
        ],
        {"v": KERNEL, "w": (16, 32, 3, 3)},
        SHAPE,
    ),
    "max-pool": (
        [node("MaxPool", "x", "p", kernel_shape=[2, 2]), conv("p", "w", "y", **SAME)],
        {"w": KERNEL},
        SHAPE,
    ),
    "silu": (
        [conv("x", "w", "c", **SAME), node("Sigmoid", "c", "s"), node("Mul", "c s", "y")],
        {"w": KERNEL},
        SHAPE,
    ),
    "layer-norm-softmax": (
        [
            node("MatMul", "x w", "m"),
            node("LayerNormalization", "m g", "l"),
            node("Softmax", "l", "p"),
            node("Gemm", "p v b", "y", transB=1),
        ],
        {"v": (16, 16), "w": (16, 16)},
        FLAT,
    ),
    "attention": (
        [
            node("MatMul", "x v", "k"),
            node("MatMul", "x w", "q"),
            node("Transpose", "k", "t", perm=[1, 0]),
            node("MatMul", "q t", "a"),
            node("Softmax", "a", "p"),
            node("MatMul", "p x", "y"),
        ],
        {"v": (16, 16), "w": (16, 16)},
        FLAT,
    ),
}


def quantized(name: str) -> onnx.ModelProto:
    """The case with int8 weights along their output channels, and TensorRT's placement."""
    nodes, shapes, shape = CASES[name]
    rng = np.random.default_rng(0)
    arrays = {k: rng.standard_normal(v).astype(np.float32) for k, v in shapes.items()}
    arrays |= {"b": rng.standard_normal(16).astype(np.float32), "g": np.ones(16, np.float32)}
    arrays |= {"lo": np.array(0, np.float32), "hi": np.array(6, np.float32)}
    read = {i for n in nodes for i in n.input}
    arrays = {k: v for k, v in arrays.items() if k in read}
    made = []
    for weight in shapes:
        layer = next(n for n in nodes if len(n.input) > 1 and n.input[1] == weight)
        axis = output_axis(layer, len(shapes[weight]))
        levels, scale, _ = weights.symmetric_int8(arrays.pop(weight), axis)
        zero = np.zeros(scale.shape, np.int8)
        arrays |= {f"{weight}/q": levels, f"{weight}/s": scale, f"{weight}/z": zero}
        read_as = f"{weight}/q {weight}/s {weight}/z"
        made.append(node("DequantizeLinear", read_as, weight, axis=axis))
    open_dims = [f"d{i}" for i in range(len(shape))]
    graph = helper.make_graph(
        [*made, *nodes],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, open_dims)],
        [numpy_helper.from_array(v, k) for k, v in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=opsets, ir_version=10)
    )
    held = Graph(model)
    where = placement.places(held)
    placement.insert(held, where, {t: 1.0 + i for i, t in enumerate(sorted(where))})
    model.graph.ClearField("value_info")
    return model


def text(model: onnx.ModelProto) -> str:
    """A graph as lines, with scales and without the weights' values."""
    graph, lines = Graph(model), []

    def show(name: str) -> str:
        value = graph.array(name)
        if value is None:
            return name
        return f"{value:.6g}" if value.ndim == 0 else f"{value.dtype}{list(value.shape)}"

    for each in graph.nodes:
        axis = (
            f" axis={graph.axis(each)}"
            if each.op_type == "DequantizeLinear" and (graph.shape(each.input[1]))
            else ""
        )
        reads = ", ".join(show(name) for name in each.input)
        lines.append(f"{each.output[0]} = {each.op_type}({reads}){axis}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_the_placement_is_the_golden_one(name: str, schemes: dict[str, IntegerScheme]) -> None:
    model = quantized(name)
    onnx.checker.check_model(model, full_check=True)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("EDGEKIT_UPDATE_GOLDEN"):
        path.write_text(text(model))
    assert text(model) == path.read_text()
    assert lint(model, schemes["tensorrt"]) == []


@pytest.mark.skipif(not tensorrt.available("tensorrt-rtx")[0], reason="not installed")
@pytest.mark.parametrize("name", CASES)
def test_tensorrt_takes_and_builds_it(name: str, tmp_path: Path) -> None:
    onnx.save(quantized(name), tmp_path / "m.onnx")
    built = tensorrt.build_engine(
        tmp_path / "m.onnx", tmp_path / "e", compute_capabilities=("8.6",)
    )
    assert built.parser_warnings == ()
    assert built.size_bytes > 0
