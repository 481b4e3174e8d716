"""Every score against a reference computed by hand in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.graph.capture import capture
from edgekit.prune.coupling import analyse
from edgekit.prune.families import find_families
from edgekit.prune.importance import Looked, score_groups
from edgekit.prune.sensitivity import second_moments, squared_gradients
from edgekit.train.batches import Minibatch


def network():
    """Conv, batch norm and two readers of the same channels, one of them flattened."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
            self.read, self.flat = nn.Conv2d(6, 2, 1), nn.Linear(6 * 16, 2)

        def forward(self, x):
            x = torch.relu(self.norm(self.conv(x)))
            return self.read(x).mean((2, 3)) + self.flat(x.flatten(1))

    net = Net().eval()
    nn.init.uniform_(net.norm.weight, -1.5, 1.5)
    return capture(net, (torch.randn(2, 3, 4, 4),), dynamic=None)


PROGRAM = network()
STATE = {n: t.detach().double() for n, t in PROGRAM.exported.state_dict.items()}
BATCHES = [PROGRAM.example_inputs(batch=8, seed=i) for i in range(3)]


def members(tensors):
    """Σ over all but the channel, of the three tensors that a channel is a slice of."""
    conv = tensors["conv.weight"].sum((1, 2, 3))
    read = tensors["read.weight"].sum((0, 2, 3))
    flat = tensors["flat.weight"].view(2, 6, 16).sum((0, 2))
    return (conv + read + flat) / 3


def mapped(function):
    return {n: function(t) for n, t in STATE.items() if n.endswith("weight")}


def scored(importance, looked=None, seed=0):
    families = find_families(analyse(PROGRAM.module()), PROGRAM.name_map())
    (scores,) = score_groups(families, importance, seed=seed, looked=looked)
    return scores


def same(found, wanted):
    wanted = wanted / wanted.mean()  # so that layers can be compared
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6)
    assert found.mean() == pytest.approx(1)


def test_magnitudes():
    same(scored("l1"), members(mapped(torch.abs)))
    same(scored("l2"), members(mapped(torch.square)))


def test_the_scale_of_the_batch_norm():
    same(scored("bn-scale"), STATE["norm.weight"].abs())


def test_distances_to_the_other_channels():
    rows = {
        "conv": STATE["conv.weight"].flatten(1),
        "read": STATE["read.weight"].movedim(1, 0).flatten(1),
    }
    each = {n: (r[:, None] - r[None]).norm(dim=2).sum(1) for n, r in rows.items()}
    # A channel of the flattened layer is sixteen columns: its distances are theirs together.
    columns = STATE["flat.weight"].T
    apart = (columns[:, None] - columns[None]).norm(dim=2).sum(1)
    wanted = (each["conv"] + each["read"] + apart.view(6, 16).sum(1)) / 3
    same(scored("geometric-median"), wanted)


def test_what_the_readers_would_miss():
    moments = second_moments(PROGRAM, BATCHES)
    mean = torch.stack([_hidden(x).square().mean((0, 2, 3)) for (x,) in BATCHES]).mean(0)
    each = torch.stack([_hidden(x).flatten(1).square().mean(0) for (x,) in BATCHES]).mean(0)
    read = STATE["read.weight"].square().sum((0, 2, 3)) * mean
    flat = (STATE["flat.weight"].square().sum(0) * each).view(6, 16).sum(1)
    np.testing.assert_allclose(
        scored("activation", Looked(moments=moments)),
        ((read + flat) / (read + flat).mean()).numpy(),
        rtol=1e-4,
    )


def _hidden(x):
    y = nn.functional.conv2d(x.double(), STATE["conv.weight"], STATE["conv.bias"], padding=1)
    mean, variance = STATE["norm.running_mean"], STATE["norm.running_var"]
    y = nn.functional.batch_norm(y, mean, variance, STATE["norm.weight"], STATE["norm.bias"])
    return y.relu()


@pytest.mark.parametrize(("kind", "size"), [("taylor", 8), ("fisher", 1)])
def test_gradients(kind, size):
    def loss(outputs, batch):
        return next(iter(outputs.values())).square().mean()

    batches = [Minibatch([str(i)] * 8, inputs, None) for i, inputs in enumerate(BATCHES)]
    gradients = squared_gradients(PROGRAM, batches, loss, kind=kind)
    weights = {n: t.clone().requires_grad_() for n, t in STATE.items() if n.endswith("weight")}
    squares = {n: torch.zeros_like(t) for n, t in weights.items()}
    for (x,) in BATCHES:
        for part in x.double().split(size):
            y = nn.functional.conv2d(part, weights["conv.weight"], STATE["conv.bias"], padding=1)
            y = nn.functional.batch_norm(
                y, STATE["norm.running_mean"], STATE["norm.running_var"],
                weights["norm.weight"], STATE["norm.bias"],
            ).relu()  # fmt: skip
            read = nn.functional.conv2d(y, weights["read.weight"], STATE["read.bias"])
            flat = y.flatten(1) @ weights["flat.weight"].T + STATE["flat.bias"]
            value = (read.mean((2, 3)) + flat).square().mean()
            found = torch.autograd.grad(value, list(weights.values()))
            for name, gradient in zip(weights, found, strict=True):
                squares[name] += gradient.square()
    wanted = members({n: weights[n].detach().square() * squares[n] for n in weights})
    np.testing.assert_allclose(
        scored(kind, Looked(gradients=gradients)), (wanted / wanted.mean()).numpy(), rtol=1e-3
    )


def test_chance_is_the_seeds():
    assert (scored("random", seed=1) == scored("random", seed=1)).all()
    assert (scored("random", seed=1) != scored("random", seed=2)).any()
