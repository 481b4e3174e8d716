"""MACs and parameters against values computed by hand."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgekit.graph.capture import capture
from edgekit.graph.cost import cost
from edgekit.graph.onnx_model import onnx_cost
from edgekit.graph.quiet import quiet

sys.path.insert(0, str(Path(__file__).parent))
import nets


class Attention(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


LAYERS = {
    # output 6x8x8, each from 4 channels of 3x3
    "conv": (nn.Conv2d(4, 6, 3, padding=1), (4, 8, 8), 6 * 64 * 4 * 9, 6 * 36 + 6),
    # stride 2: output 6x4x4; two groups halve the input channels
    "grouped": (nn.Conv2d(4, 6, 3, 2, 1, groups=2), (4, 8, 8), 6 * 16 * 2 * 9, 6 * 18 + 6),
    "depthwise": (nn.Conv2d(5, 5, 3, groups=5, bias=False), (5, 8, 8), 5 * 36 * 9, 45),
    "conv1d": (nn.Conv1d(3, 7, 5, padding="same"), (3, 11), 7 * 11 * 3 * 5, 7 * 15 + 7),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 4, 4, 4), 3 * 27 * 2 * 8, 3 * 16 + 3),
    # every one of the 4x5x5 inputs meets 3 filters (6 channels, 2 groups) of 2x2
    "transposed": (
        nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
        (4, 5, 5),
        4 * 25 * 3 * 4,
        4 * 3 * 4 + 6,
    ),
    "linear": (nn.Linear(7, 3), (5, 7), 5 * 7 * 3, 24),
    # 4 gates of 6 hidden; layer 0 sees 5 features, layer 1 sees both directions' 6; 9 steps
    "lstm": (
        nn.LSTM(5, 6, 2, bidirectional=True, batch_first=True),
        (9, 5),
        9 * 2 * (24 * (5 + 6) + 24 * (12 + 6)),
        2 * (24 * 11 + 48) + 2 * (24 * 18 + 48),
    ),
    "gru": (nn.GRU(5, 6, batch_first=True), (9, 5), 9 * 18 * 11, 18 * 11 + 36),
}


class First(nn.Module):
    """The layer's first output, so that a recurrent layer's states are left out."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        y = self.layer(x)
        return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize("name", LAYERS)
def test_layers_cost_what_they_should(name):
    layer, shape, macs, parameters = LAYERS[name]
    found = cost(capture(First(layer), (torch.randn(1, *shape),)))
    assert (found.macs, found.parameters) == (macs, parameters)
    assert found.by_layer == {"layer": (macs, parameters)}
    assert found.uncounted == ()


def test_attention_and_products():
    # 2 heads; 5 queries, 7 keys of 4, values of 3
    q, k, v = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 7, 4), torch.randn(1, 2, 7, 3)
    assert cost(capture(Attention(), (q, k, v))).macs == 2 * 5 * 7 * 4 + 2 * 5 * 7 * 3

    class Products(nn.Module):
        def forward(self, a, b):
            return a @ b + torch.bmm(a, b) + torch.einsum("bij,bjk->bik", a, b)

    found = cost(capture(Products(), (torch.randn(2, 3, 4), torch.randn(2, 4, 5))))
    assert found.macs == 3 * (3 * 4 * 5)


def test_cost_does_not_depend_on_the_examples_batch_and_ties_count_once():
    one = cost(capture(*nets.example("conv")[:2], dynamic=None))
    module = nets.Convolutional()
    many = cost(capture(module, (torch.randn(6, 3, 8, 8),)))
    assert (one.macs, one.parameters) == (many.macs, many.parameters)
    assert one.parameters == sum(p.numel() for p in module.parameters())
    module, example, dynamic = nets.example("tied")
    assert cost(capture(module, example, dynamic=dynamic)).parameters == 11 * 8 + 8 * 8 + 8


def weight(name, *shape, dtype=np.float32):
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def model(nodes, inputs, outputs, initializers=()):
    def values(pairs):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in pairs]

    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_onnx_layers():
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1], group=2),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("ConvTranspose", ["r", "t"], ["u"], "up", strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["u"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "g", "gb"], ["y"], "fc", transB=1),
    ]
    weights = [
        weight("w", 6, 2, 3, 3),
        weight("b", 6),
        weight("t", 6, 3, 2, 2),
        weight("g", 5, 3),
        weight("gb", 5),
    ]
    found = onnx_cost(model(nodes, [("x", ["n", 4, 8, 8])], [("y", ["n", 5])], weights))
    assert found.by_layer == {
        "conv": (6 * 64 * 18, 6 * 18 + 6),
        "up": (6 * 64 * 12, 72),
        "fc": (15, 20),
    }
    assert found.macs == 6 * 64 * 30 + 15
    assert found.parameters == 114 + 72 + 20


def test_onnx_recurrent_and_matmul_behind_a_computed_reshape():
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b"], ["y", "h"], "lstm", hidden_size=6),
        helper.make_node("Squeeze", ["y", "axis"], ["s"], "squeeze"),
        helper.make_node("Shape", ["s"], ["size"], "shape"),
        helper.make_node("Reshape", ["s", "size"], ["v"], "reshape"),
        helper.make_node("MatMul", ["v", "m"], ["z"], "product"),
        helper.make_node("GRU", ["x", "gw", "gr"], ["gy"], "gru", hidden_size=4),
    ]
    weights = [
        weight("w", 1, 24, 5),
        weight("r", 1, 24, 6),
        weight("b", 1, 48),
        weight("axis", 1, dtype=np.int64),
        weight("m", 6, 2),
        weight("gw", 1, 12, 5),
        weight("gr", 1, 12, 4),
    ]
    graph = model(
        nodes,
        [("x", ["time", "batch", 5])],
        [("z", ["time", "batch", 2]), ("gy", ["time", 1, "batch", 4])],
        weights,
    )
    found = onnx_cost(graph, {"time": 9, "batch": 1})
    assert found.by_layer == {
        "lstm": (9 * 24 * 11, 24 * 11 + 48),
        "product": (9 * 12, 12),
        "gru": (9 * 12 * 9, 12 * 9),
    }
    assert found.uncounted == ()


def test_quantized_layers_cost_what_their_float_layers_cost():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "wdq", axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bd"], "bdq", axis=0),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["y"], "conv"),
    ]
    weights = [
        weight("xs"),
        weight("xz", dtype=np.uint8),
        weight("w", 6, 4, 3, 3, dtype=np.int8),
        weight("ws", 6),
        weight("wz", 6, dtype=np.int8),
        weight("b", 6, dtype=np.int32),
        weight("bs", 6),
    ]
    found = onnx_cost(model(nodes, [("x", ["n", 4, 8, 8])], [("y", ["n", 6, 6, 6])], weights))
    assert found.by_layer == {"conv": (6 * 36 * 36, 6 * 36 + 6)}
    integer = [
        helper.make_node(
            "QLinearConv", ["xq", "xs", "xz", "w", "ws", "wz", "xs", "xz", "b"], ["yq"], "conv"
        ),
        helper.make_node("DequantizeLinear", ["yq", "xs", "xz"], ["y"], "out"),
    ]
    found = onnx_cost(
        model([nodes[0], *integer], [("x", ["n", 4, 8, 8])], [("y", ["n", 6, 6, 6])], weights)
    )
    assert found.by_layer == {"conv": (6 * 36 * 36, 6 * 36 + 6)}


def test_settings_are_not_parameters():
    nodes = [
        helper.make_node("Clip", ["x", "low", "high"], ["c"], "clip"),
        helper.make_node("Mul", ["c", "half"], ["m"], "half"),
        helper.make_node("Mul", ["m", "scale"], ["y"], "scale"),
    ]
    weights = [weight("low"), weight("high"), weight("half", 1), weight("scale", 4)]
    found = onnx_cost(model(nodes, [("x", [1, 4])], [("y", [1, 4])], weights))
    assert found == type(found)(0, 4, {"scale": (0, 4)})


def test_the_exported_onnx_costs_what_the_program_costs():
    program = capture(nets.FullyConvolutional(), (torch.randn(2, 1, 16, 16),))
    with quiet():  # the exporter warns about torch's own classes
        exported = torch.onnx.export(
            program.module(), program.example_inputs(), dynamo=True, verbose=False
        ).model_proto
    expected = cost(program)
    found = onnx_cost(exported)
    # without a dynamic batch the file counts its batch of 2
    assert found.macs == 2 * expected.macs
    assert onnx.checker.check_model(exported) is None
