"""Activation memory against a count by hand."""

import torch
from torch import nn

from edgekit.graph.activations import activation_bytes, operators, peak_bytes
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
