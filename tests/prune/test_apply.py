"""A pruned program carried back into the module that it was captured from."""

import prune_nets as nets
import pytest
import torch
from torch import nn

from edgekit.errors import UsageError
from edgekit.graph.capture import capture
from edgekit.prune.apply import apply_to
from edgekit.prune.config import PruneConfig
from edgekit.prune.prune import prune

HALF = PruneConfig(sparsity=0.5, minimum_channels=1)
FITS = [
    "residual", "dense", "inception", "mobilenet", "unet", "mlp", "tagger", "recurrent",
    "projected", "tied", "shuffle-unit",
]  # fmt: skip
REFUSED = {
    "attention": "sizes",
    "multi-head": "heads must divide",
    "generator": "sizes",
    "cells": "hidden_size",
    "autoencoder": "sizes",
    "padded": "sizes",
    "flattened": "sizes",
}


def pruned(name):
    net, x = nets.build(name)
    program = capture(net, (x,), dynamic=None)
    small, _ = prune(program, HALF, seed=0)
    return net, x, small


@pytest.mark.parametrize("name", FITS)
def test_a_module_takes_the_pruned_sizes(name):
    net, x, small = pruned(name)
    before = sum(p.numel() for p in net.parameters())
    net.train()
    apply_to(net, small)
    assert all(m.training for m in net.modules())
    assert sum(p.numel() for p in net.parameters()) < before
    net.eval()
    found, expected = net(x), small.module()(x)
    leaves = found if isinstance(found, tuple) else (found,)
    for a, b in zip(leaves, expected, strict=True):
        torch.testing.assert_close(a, b)
    net.train()
    sum(leaf.square().mean() for leaf in leaves).backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in net.parameters())
    again = capture(net.eval(), (x,), dynamic=None)
    assert again.module()(x)[0].shape == expected[0].shape


class Cell(nn.Module):
    """First states that the cells make themselves."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTMCell(6, 10), nn.GRUCell(10, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        h, c = self.first(x)
        h, c = self.first(x, (h, c))
        return self.head(self.second(h + c))


class Decoder(nn.Sequential):
    """A view whose sizes are a module's attribute."""

    def __init__(self):
        super().__init__(
            nn.Linear(6, 96), nn.Tanh(), nn.Unflatten(1, (6, 4, 4)), nn.ConvTranspose2d(6, 8, 2, 2),
            nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 2, 3),
        )  # fmt: skip


@pytest.mark.parametrize("kind", [Cell, Decoder])
def test_parts_whose_sizes_are_attributes(kind):
    torch.manual_seed(0)
    net, x = kind().eval(), torch.randn(2, 6)
    small, _ = prune(capture(net, (x,), dynamic=None), HALF, seed=0)
    apply_to(net, small)
    torch.testing.assert_close(net(x), small.module()(x)[0])
    if kind is Cell:
        assert (net.first.hidden_size, net.second.input_size, net.second.hidden_size) == (5, 5, 4)
        assert "LSTMCell(6, 5)" in repr(net)
    else:
        assert net[2].unflattened_size == (3, 4, 4)
        assert (net[4].num_features, net[5].in_channels) == (4, 4)


@pytest.mark.parametrize("name", REFUSED)
def test_a_module_with_sizes_in_its_source_is_left_as_it_was(name):
    net, x, small = pruned(name)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    described = repr(net)
    expected = net(x)
    with pytest.raises(UsageError, match=REFUSED[name]) as caught:
        apply_to(net, small)
    assert "program itself" in caught.value.hint
    after = net.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert repr(net) == described
    torch.testing.assert_close(net(x), expected)


def test_another_module_is_refused():
    _, _, small = pruned("mlp")
    net, _ = nets.build("residual")
    with pytest.raises(UsageError, match=r"has no tensor 'stem\.weight'"):
        apply_to(net, small)
