"""Re-estimated statistics are those of the data."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.metrics import Task
from edgekit.train.batch_norm import reestimate_batch_norm

NONE = Task(kind="none")


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return {"y": self.drop(self.norm(x))}


@pytest.mark.parametrize("size", [16, 24])  # equal batches; unequal ones (24, 24, 16)
def test_mean_is_exact(program, dataset, size) -> None:
    x = np.random.default_rng(0).normal(3, 2, (64, 3)).astype(np.float32)
    before = program(Norm(), 3)
    after = reestimate_batch_norm(before, dataset(x), NONE, split="train", batch_size=size)
    state = after.exported.state_dict
    np.testing.assert_allclose(state["norm.running_mean"], x.astype(np.float64).mean(0), rtol=1e-6)
    assert torch.equal(state["norm.weight"], before.exported.state_dict["norm.weight"])


def test_variance_of_one_batch_is_exact(program, dataset) -> None:
    x = np.random.default_rng(0).normal(3, 2, (64, 3)).astype(np.float32)
    after = reestimate_batch_norm(
        program(Norm(), 3), dataset(x), NONE, split="train", batch_size=64
    )
    expected = x.astype(np.float64).var(0, ddof=1)
    np.testing.assert_allclose(after.exported.state_dict["norm.running_var"], expected, rtol=1e-6)
    y = after.module()(torch.from_numpy(x))[0]
    np.testing.assert_allclose(y.detach().mean(0), np.zeros(3), atol=1e-5)  # dropout is off


def test_momentum_and_the_given_program_stay(program, dataset) -> None:
    before = program(Norm(), 3)
    x = np.random.default_rng(0).normal(3, 2, (8, 3)).astype(np.float32)
    after = reestimate_batch_norm(before, dataset(x), NONE, split="train")

    def arguments(net):
        nodes = net.exported.graph.nodes
        return [n.args[5:] for n in nodes if "batch_norm" in str(n.target)]

    assert arguments(after) == arguments(before)
    assert not bool(before.exported.state_dict["norm.running_mean"].any())


def test_nothing_to_estimate(program, dataset) -> None:
    net = program(nn.Linear(3, 2), example={"input": torch.randn(4, 3)})
    data = dataset(np.ones((4, 3), np.float32))
    assert reestimate_batch_norm(net, data, NONE, split="train") is net
