"""A layer makes up for what it is added to; batch norms take shifts; depthwise layers fit too."""

import pytest
import torch
from torch import Tensor, nn

from edgekit.graph.capture import capture
from edgekit.prune import targets
from edgekit.prune.calibration import Calibration
from edgekit.prune.config import PruneConfig
from edgekit.prune.prune import prune
from edgekit.train.batches import Minibatch

FIT = PruneConfig(
    sparsity=0.5,
    minimum_channels=1,
    importance="l2",
    recovery=("least-squares",),
)


class Branches(nn.Module):
    """x goes two ways; the second, with a batch norm behind it, can say what the first lost."""

    def __init__(self, *, norm: bool) -> None:
        super().__init__()
        self.narrow = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        self.wide = nn.Linear(6, 4, bias=not norm)
        self.norm = nn.BatchNorm1d(4) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(x) + self.norm(self.wide(x))


def samples(program, count=4, size=64):
    return Calibration(
        tuple(
            Minibatch([str(i)] * size, program.example_inputs(batch=size, seed=i), None)
            for i in range(count)
        )
    )


def error(program, small):
    inputs = program.example_inputs(batch=256, seed=99)
    with torch.no_grad():
        gap = program.module()(*inputs)[0] - small.module()(*inputs)[0]
    return float(gap.square().mean())


@pytest.mark.parametrize("norm", [False, True])
def test_the_second_branch_makes_up_for_the_first(norm, monkeypatch):
    torch.manual_seed(0)
    net = Branches(norm=norm)
    if norm:
        with torch.no_grad():
            net.norm.weight.copy_(torch.tensor([2.0, 0.5, -1.0, 1.5]))
            net.norm.running_mean.normal_()
            net.norm.running_var.uniform_(0.5, 2)
    program = capture(net.eval(), (torch.randn(2, 6),), dynamic=None)
    fitted, report = prune(program, FIT, seed=0, calibration=samples(program))
    monkeypatch.setattr(targets, "_usable", lambda *_: False)
    alone, _ = prune(program, FIT, seed=0, calibration=samples(program))
    assert error(program, fitted) < 0.8 * error(program, alone)
    assert report.fitted[-1].weight == "wide.weight"
    # The last sum is a regression on all that the second branch reads: nothing is left in it.
    inputs = torch.cat([b.inputs[0] for b in samples(program).batches])
    with torch.no_grad():
        left = program.module()(inputs)[0] - fitted.module()(inputs)[0]
    part = (inputs - inputs.mean(0)).T @ left / len(inputs)
    assert part.abs().max() < 0.01 * left.abs().mean()
    assert left.mean(0).abs().max() < 1e-5


def test_a_batch_norm_takes_the_shift_of_a_layer_without_a_bias():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4)
    )
    before = net[3].running_mean.normal_().clone()
    program = capture(net.eval(), (torch.randn(2, 2, 8, 8),), dynamic=None)
    fitted, _ = prune(program, FIT, seed=0, calibration=samples(program, size=8))
    x = torch.cat([b.inputs[0] for b in samples(program, size=8).batches])
    with torch.no_grad():
        gap = program.module()(x)[0] - fitted.module()(x)[0]
    # The original's own, which is shared while pruning, stays what it was.
    torch.testing.assert_close(program.module().get_buffer("3.running_mean"), before)
    assert not torch.equal(fitted.module().get_buffer("3.running_mean"), before)
    assert gap.mean((0, 2, 3)).abs().max() < 1e-3 * gap.abs().mean()


def test_a_channel_that_its_batch_norm_all_but_ignores_asks_for_nothing():
    scale = torch.tensor([[1.0, 0.0, 1e-6]])
    found = targets._divided(torch.ones(2, 3), scale)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0, 0], [1, 0, 0]]))


@pytest.mark.parametrize("groups", [8, 2])
def test_a_grouped_layer_is_fitted_group_by_group(groups):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(8, 8, 3, groups=groups),
        nn.ReLU(),
        nn.Conv2d(8, 2, 1),
    ).eval()
    program = capture(net, (torch.randn(2, 3, 12, 12),), dynamic=None)
    config = FIT.model_copy(update={"sparsity": 0.25})
    fitted, report = prune(program, config, seed=0, calibration=samples(program, size=8))
    grouped = next(f for f in report.fitted if f.weight == "3.weight")
    assert grouped.after < grouped.before
    plain, _ = prune(program, config.model_copy(update={"recovery": ()}), seed=0)
    assert error(program, fitted) < 0.5 * error(program, plain)
