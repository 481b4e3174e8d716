"""A pruned program carried back into the module that it was captured from."""

import prune_nets as nets
import pytest
import torch

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
