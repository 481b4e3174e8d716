"""New weights: of the distributions that torch's own layers begin with, and reproducible."""

import math

import pytest
import torch
from torch import nn

from edgekit.graph.capture import capture
from edgekit.graph.renew import renew


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16, padding_idx=3)
        self.position = nn.Parameter(torch.randn(1, 7, 16) * 0.1 + 3)
        self.gru = nn.GRU(16, 25, batch_first=True)
        self.norm = nn.BatchNorm1d(25)
        self.plain = nn.BatchNorm1d(25, affine=False)
        self.head = nn.Linear(25, 40)

    def forward(self, ids):
        y = self.gru(self.embedding(ids) + self.position)[0].mean(1)
        return self.head(self.plain(self.norm(y)))


@pytest.fixture(scope="module")
def drawn():
    torch.manual_seed(0)
    module = Mixed()
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point() and value is not module.position:
                value += 2
    ids = torch.randint(0, 50, (2, 7))
    program = capture(module.eval(), {"ids": ids}, dynamic=None)
    return program, renew(program, seed=5), ids


def test_each_layer_begins_as_torch_begins_it(drawn) -> None:
    state = {name: tensor.detach() for name, tensor in drawn[1].exported.state_dict.items()}
    for name in ("gru.weight_ih_l0", "gru.weight_hh_l0", "gru.bias_ih_l0", "head.weight"):
        bound = 1 / math.sqrt(25)
        assert state[name].abs().max() <= bound
        assert state[name].std() == pytest.approx(bound / math.sqrt(3), rel=0.15)
    assert state["embedding.weight"].std() == pytest.approx(1, rel=0.1)
    for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        assert bool((state[f"norm.{name}"] == value).all())
        if name.startswith("running"):
            assert bool((state[f"plain.{name}"] == value).all())
    assert bool((state["embedding.weight"][3] == 0).all())


def test_a_weight_of_no_known_layer_keeps_its_mean_and_spread(drawn) -> None:
    before, after = (drawn[i].exported.state_dict["position"].detach() for i in (0, 1))
    assert not torch.equal(before, after)
    assert after.mean() == pytest.approx(float(before.mean()), rel=0.02)
    assert after.std() == pytest.approx(float(before.std()), rel=0.2)


def test_the_seed_decides_and_the_network_stays_as_it_was(drawn) -> None:
    program, fresh, ids = drawn
    again, other = renew(program, seed=5), renew(program, seed=6)
    with torch.no_grad():
        answers = [p.module()(ids)[0] for p in (fresh, again, other, program)]
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    assert bool((program.exported.state_dict["norm.weight"] > 2).all())
