"""MACs and bytes of an inference, counted by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.onnx_work import OnnxWork


def model(*, quantized: bool = False, named: bool = True) -> onnx.ModelProto:
    """Two convolutions of 8 channels with an activation; `image` is [batch, 8, 4, 4]."""
    weight = np.ones((8, 8, 3, 3), np.int8 if quantized else np.float32)
    constants = [numpy_helper.from_array(weight, f"w{i}") for i in (1, 2)]
    nodes = []

    def add(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], output if named else "", **attributes))

    if quantized:
        constants += [
            numpy_helper.from_array(np.array(0.1, np.float32), "s"),
            numpy_helper.from_array(np.array(0, np.int8), "z"),
        ]
        quantizer = ["s", "z"]
        for name in ("w1", "w2"):
            add("DequantizeLinear", [name, *quantizer], f"{name}f")
        add("QuantizeLinear", ["image", *quantizer], "imageq")
        add("DequantizeLinear", ["imageq", *quantizer], "x")
        add("Conv", ["x", "w1f"], "c1", pads=[1] * 4)
        add("Relu", ["c1"], "r1")
        add("QuantizeLinear", ["r1", *quantizer], "r1q")
        add("DequantizeLinear", ["r1q", *quantizer], "r1f")
        add("Conv", ["r1f", "w2f"], "y", pads=[1] * 4)
    else:
        add("Conv", ["image", "w1"], "c1", pads=[1] * 4)
        add("Relu", ["c1"], "r1")
        add("Conv", ["r1", "w2"], "y", pads=[1] * 4)
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8, 4, 4])]
        for name in ("image", "y")
    ]
    graph = helper.make_graph(nodes, "g", *ends, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


SHAPES = {"image": (3, 8, 4, 4)}
ONE = 3 * 8 * 8 * 9 * 16  # MACs of one convolution for three samples
PLANE = 3 * 8 * 16  # elements of an activation
WEIGHT = 8 * 8 * 9


@pytest.mark.parametrize("named", [True, False])
def test_float_layers_read_and_write_four_bytes_an_element(named):
    work = OnnxWork(model(named=named), SHAPES)
    whole = work.whole()
    assert whole.macs == {"float32": 2 * ONE}
    assert whole.bytes == 4 * (2 * WEIGHT + 2 * PLANE)
    assert whole.working_set == 4 * (2 * WEIGHT) + 4 * (2 * PLANE + WEIGHT)
    assert whole.uncounted == 0
    fused = work.of(["c1", "r1"])
    assert (fused.macs, fused.bytes) == ({"float32": ONE}, 4 * (WEIGHT + 2 * PLANE))
    assert work.of(["r1"]).bytes == 4 * 2 * PLANE
    assert work.of([]).bytes == 0


def test_quantized_layers_move_their_int8_form():
    work = OnnxWork(model(quantized=True), SHAPES)
    assert work.whole().macs == {"int8": 2 * ONE}
    fused = work.of(["c1", "r1"])
    assert fused.macs == {"int8": ONE}
    assert fused.bytes == WEIGHT + 2 * PLANE
    last = work.of(["y"])
    assert last.bytes == WEIGHT + PLANE + 4 * PLANE  # the output is float
    both = work.of(["c1", "r1", "y"])
    assert both.bytes == 2 * WEIGHT + PLANE + 4 * PLANE  # what lies between moves nowhere


def test_the_batch_of_the_inputs_counts():
    small, large = (OnnxWork(model(), {"image": (n, 8, 4, 4)}).whole() for n in (1, 10))
    assert large.macs["float32"] == 10 * small.macs["float32"]
    assert large.bytes - small.bytes == 9 * 4 * 2 * PLANE // 3


def test_a_shape_that_cannot_be_inferred_is_counted_as_unknown():
    broken = model()
    broken.graph.node.insert(1, helper.make_node("NonZero", ["c1"], ["n"], "n"))
    broken.graph.output.append(helper.make_tensor_value_info("n", TensorProto.INT64, ["a", "b"]))
    assert OnnxWork(broken, SHAPES).whole().uncounted == 1
