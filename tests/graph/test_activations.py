"""Activation memory against a count by hand."""

import onnx
import torch
from torch import nn

from edgekit.graph.activations import (
    activation_bytes,
    onnx_activation_bytes,
    operators,
    peak_bytes,
)
from edgekit.graph.capture import capture


def test_values_live_from_their_operator_to_their_last_use():
    # a (10) -> b (4) -> c (7) reads both; then a is gone, d (5) reads c.
    steps = [({"b": 4}, ["a"]), ({"c": 7}, ["a", "b"]), ({"d": 5}, ["c"])]
    assert peak_bytes({"a": 10}, steps, ["d"]) == 10 + 4 + 7
    assert peak_bytes({"a": 10}, steps, ["b", "d"]) == 21
    assert peak_bytes({"a": 1}, steps, ["b", "d"]) == 4 + 7 + 5
    assert peak_bytes({"a": 10}, [], ["a"]) == 10


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(6, 40), nn.Linear(40, 3)

    def forward(self, x):
        y = torch.relu(self.wide(x))  # 2 x 5 x 40 floats at once
        left, right = y.view(x.shape[0], 5, 2, 20).unbind(2)  # views: nothing
        return self.narrow(torch.cat([left, right], -1))


def test_a_program_counts_one_sample_and_no_views():
    program = capture(Net().eval(), (torch.randn(2, 5, 6),), dynamic=None)
    assert activation_bytes(program) == 4 * (5 * 40 + 5 * 40)
    calls = operators(program)
    assert calls["aten.linear"] == 2
    assert {"aten.relu", "aten.view", "aten.unbind", "aten.cat"} <= set(calls)
    assert not any("getitem" in name for name in calls)


def onnx_model(nodes: str, sizes: str = "n, 4, 8, 8") -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 18]> agraph (float[{sizes}] x) => (float[n, m] y) '
        f"<float[16, 4, 3, 3] w = {{{', '.join(['0'] * 576)}}}, int64[2] rows = {{1, -1}}, "
        f"float scale = {{1.0}}, int8 zero = {{0}}> {{ {nodes} }}"
    )


def test_an_onnx_model_counts_one_sample_no_views_and_no_constants():
    model = onnx_model("""
        v = Neg (w)
        a = Conv <pads: ints = [1, 1, 1, 1]> (x, v)
        b = Relu (a)
        c = Reshape (b, rows)
        y = Neg (c)
    """)
    # a and b at once, 16 x 8 x 8 floats each; then b, which c is a view of, and y.
    assert onnx_activation_bytes(model) == 4 * (1024 + 1024)


def test_a_quantized_onnx_tensor_takes_a_byte_an_element():
    model = onnx_model("""
        a = Flatten (x)
        b = QuantizeLinear (a, scale, zero)
        y = DequantizeLinear (b, scale, zero)
    """)
    assert onnx_activation_bytes(model) == (4 + 1) * 256


def test_what_a_branch_reads_lives_until_the_branch_runs():
    model = onnx_model("""
        a = Flatten (x)
        b = Abs (a)
        q = ReduceSum <keepdims: int = 0> (b)
        p = Greater (q, scale)
        y = If (p) <
            then_branch = yes () => (float[n, m] s) { s = Neg (a) },
            else_branch = no () => (float[n, m] t) { t = Exp (a) }
        >
    """)
    assert onnx_activation_bytes(model) == 4 * (256 + 256 + 1)  # a, b and their sum


def test_an_onnx_tensor_of_unknown_size_gives_no_figure():
    model = onnx_model("a = Flatten (x) k = NonZero (a) f = Cast <to: int = 1> (k) y = Neg (f)")
    assert onnx_activation_bytes(model) is None
