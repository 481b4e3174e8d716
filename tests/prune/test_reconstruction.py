"""Scores by elimination equal constrained least squares, and see what weights alone cannot."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.graph.capture import capture
from edgekit.prune import reconstruction
from edgekit.prune.calibration import Calibration
from edgekit.prune.config import PruneConfig
from edgekit.prune.coupling import analyse
from edgekit.prune.families import find_families
from edgekit.prune.prune import prune
from edgekit.train.batches import Minibatch


def samples(program, count=4, size=64):
    return Calibration(
        tuple(
            Minibatch([str(i)] * size, program.example_inputs(batch=size, seed=i), None)
            for i in range(count)
        )
    )


def scores_of(program, batches):
    families = find_families(analyse(program.module()), program.name_map())
    grams = reconstruction.input_grams(program, batches)
    return families, reconstruction.elimination_scores(families, grams)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_costs_are_the_residuals_of_least_squares(kind, monkeypatch):
    monkeypatch.setattr(reconstruction, "RIDGE", 1e-9)
    torch.manual_seed(0)
    if kind == "linear":
        net, x = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(2, 6)
    else:
        net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Tanh(), nn.Conv2d(5, 3, 2))
        x = torch.randn(2, 2, 7, 7)
    program = capture(net.eval(), (x,), dynamic=None)
    inputs = [program.example_inputs(batch=40, seed=i) for i in range(2)]
    _, (scores,) = scores_of(program, inputs)
    with torch.no_grad():
        hidden = torch.tanh(net[0](torch.cat([i[0] for i in inputs]))).double()
    if kind == "conv":
        hidden = nn.functional.unfold(hidden, 2).transpose(1, 2).flatten(0, 1)
    weight = net[2].weight.detach().double().flatten(1)
    x = hidden - hidden.mean(0)
    y = x @ weight.T
    per_group = x.shape[1] // 5

    def residual(kept):
        columns = [g * per_group + i for g in kept for i in range(per_group)]
        if not columns:
            return float(y.square().sum())
        part = x[:, columns]
        return float((y - part @ torch.linalg.lstsq(part, y).solution).square().sum())

    kept, lost, expected = set(range(5)), 0.0, np.zeros(5)
    while kept:
        after = {g: residual(sorted(kept - {g})) for g in sorted(kept)}
        first = min(after, key=after.get)
        expected[first] = (after[first] - lost) / float(y.square().sum()) * 5
        lost = after[first]
        kept.remove(first)
    # They never fall in the order of leaving.
    order = np.argsort(scores)
    expected[order] = np.maximum.accumulate(expected[order])
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


def test_channels_that_repeat_each_other_go_first():
    torch.manual_seed(0)
    first, second = nn.Linear(6, 8), nn.Linear(8, 3)
    with torch.no_grad():
        first.weight[:2] *= 4
        first.weight[4:6] = first.weight[:2]  # large, and nothing new
        first.bias[4:6] = first.bias[:2]
    net = nn.Sequential(first, nn.ReLU(), second).eval()
    program = capture(net, (torch.randn(2, 6),), dynamic=None)
    calibration = samples(program)
    config = PruneConfig(
        sparsity=0.25, minimum_channels=1, importance="reconstruction", recovery=("least-squares",)
    )
    inputs = program.example_inputs(batch=64, seed=99)
    expected = program.module()(*inputs)[0].detach()
    errors = {}
    for importance in ("l2", "reconstruction"):
        small, _ = prune(
            program,
            config.model_copy(update={"importance": importance}),
            seed=0,
            calibration=calibration,
        )
        errors[importance] = float((small.module()(*inputs)[0].detach() - expected).square().mean())
    assert errors["reconstruction"] < 1e-4
    assert errors["l2"] > 100 * errors["reconstruction"]


def test_many_groups_leave_several_at_once(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    program = capture(net, (torch.randn(2, 6),), dynamic=None)
    inputs = [program.example_inputs(batch=64, seed=0)]
    _, (one_by_one,) = scores_of(program, inputs)
    monkeypatch.setattr(reconstruction, "_STEPS", 4)
    _, (by_four,) = scores_of(program, inputs)
    assert np.isfinite(by_four).all()
    assert np.corrcoef(np.argsort(one_by_one), np.argsort(by_four))[0, 1] > 0
    assert len(np.unique(by_four)) == 16


def test_a_layer_too_wide_to_invert_goes_by_its_weights(monkeypatch):
    monkeypatch.setattr(reconstruction, "WIDEST", 7)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    program = capture(net, (torch.randn(2, 6),), dynamic=None)
    families, scores = scores_of(program, [program.example_inputs(batch=8, seed=0)])
    assert [f.name for f in families.families] == ["0"]
    assert scores == [None]
    small, _ = prune(
        program,
        PruneConfig(sparsity=0.5, minimum_channels=1, importance="reconstruction"),
        seed=0,
        calibration=samples(program),
    )
    assert small.module().get_parameter("0.weight").shape == (4, 6)
