"""Branches, loops and scans: channels go through their sub-graphs, and the oracle looks inside."""

import numpy as np
import pytest
import torch
from torch import nn
from torch._higher_order_ops.map import map as map_
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

from edgekit.errors import PassError
from edgekit.graph.capture import capture
from edgekit.graph.cost import cost
from edgekit.graph.store import load, save
from edgekit.prune import subgraphs
from edgekit.prune.atoms import WINDOW, Fixed
from edgekit.prune.config import PruneConfig
from edgekit.prune.prune import prune
from edgekit.prune.registry import Decline


class Net(nn.Module):
    """Two layers with something between them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 8)
        self.c, self.d = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.d(self.between(torch.relu(self.a(x))))


class Branch(Net):
    def between(self, h):
        def yes(t):
            return torch.sigmoid(self.b(t)), t * 2

        def no(t):
            return torch.cos(self.c(t)), t + 1

        first, second = torch.cond(h.sum() > 0, yes, no, (h,))
        return first - second


class OtherBranch(Branch):
    """The first branch is not taken."""

    def between(self, h):
        return super().between(-h)


class Loop(Net):
    def between(self, h):
        def go_on(i, _):
            return i < 3

        def body(i, state):
            return i + 1, torch.sigmoid(self.b(state))

        return while_loop(go_on, body, (torch.zeros((), dtype=torch.int64), h))[1]


class Scan(Net):
    def between(self, h):
        def step(state, row):
            state = torch.sigmoid(self.b(state))
            return state, torch.cos(self.c(state)) + row

        state, rows = scan(step, torch.ones_like(h[0]), h)
        return rows + state


class Map(Net):
    def between(self, h):
        return map_(lambda row, t: torch.sigmoid(self.b(row)) + t.cos(), h, torch.tanh(h.sum(0)))


NETS = {
    "cond": (Branch, {"a", "b", "c"}),
    "cond, the other branch": (OtherBranch, {"a", "b", "c"}),
    "while_loop": (Loop, {"a", "b"}),
    "scan": (Scan, {"a", "b", "c"}),
    "map": (Map, {"a", "b"}),
}
HALF = PruneConfig(sparsity=0.5, minimum_channels=1, importance="random")


def captured(name):
    torch.manual_seed(0)
    return capture(NETS[name][0]().eval(), (torch.randn(3, 5, 4),), dynamic=None)


@pytest.mark.parametrize("name", NETS)
def test_channels_go_through_a_sub_graph(name, tmp_path):
    program = captured(name)
    pruned, report = prune(program, HALF, seed=1)  # raises where the oracle fails
    assert report.zero_mask_dtype == "float64"
    halved = {layer for g in report.groups if g.after * 2 == g.before for layer in g.layers}
    assert halved >= {"a"}
    shapes = {k: tuple(v.shape) for k, v in pruned.exported.state_dict.items()}
    assert all(shapes[f"{layer}.weight"][0] == 4 for layer in NETS[name][1])
    assert report.frozen.keys() <= {"(input)", "(output)"}
    assert cost(pruned).macs == report.macs_after
    assert cost(pruned).uncounted  # how often a sub-graph runs is not known
    save(pruned, tmp_path / "small.pt2")
    x = torch.randn(3, 5, 4)
    again = load(tmp_path / "small.pt2").module()(x)[0]
    torch.testing.assert_close(again, pruned.module()(x)[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(NETS.keys() - {"cond"}))  # the oracle sees the branch taken
def test_a_coupling_that_is_left_out_is_found(name, monkeypatch):
    if name == "map":  # what it couples it couples through its sub-graph: turn what that gives
        monkeypatch.setattr(subgraphs.Ties, "stacked", turned)
    else:
        monkeypatch.setattr(subgraphs.Ties, "couple", lambda _self, first, _second: list(first))
    program = captured(name)
    assert any(is_found(program, seed) for seed in range(4))


def turned(_self, values):
    return [
        (Fixed(WINDOW), *(d if isinstance(d, Fixed) else np.roll(d, 1) for d in v)) for v in values
    ]


def is_found(program, seed):
    """The oracle tells, or the smaller graph cannot be captured at all."""
    try:
        prune(program, HALF, seed=seed)
    except (PassError, RuntimeError):
        return True
    return False


def test_an_operator_with_sub_graphs_that_is_not_known_freezes(monkeypatch):
    def declined(*_):
        raise Decline

    monkeypatch.setattr(subgraphs, "couple", declined)
    with pytest.raises(PassError, match=r"frozen by: .*\bcond\b"):
        prune(captured("cond"), HALF, seed=0)
