"""Recovery without training: equal to least squares, exact where channels repeat each other."""

import prune_nets as nets
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everyone calls it

from edgekit.errors import UsageError
from edgekit.graph.capture import capture
from edgekit.prune import fittable, recover
from edgekit.prune.calibration import Calibration
from edgekit.prune.config import PruneConfig
from edgekit.prune.prune import prune
from edgekit.train.batches import Minibatch

FIT = PruneConfig(sparsity=0.5, minimum_channels=1, importance="l2", recovery=("least-squares",))


def samples(program, count=4, size=32):
    return Calibration(
        tuple(
            Minibatch([str(i)] * size, program.example_inputs(batch=size, seed=i), None)
            for i in range(count)
        )
    )


def doubled(net, first, second, axis=0):
    """Channels i and i + n/2 of the first layer say the same; the second reads both."""
    half = first.weight.shape[0] // 2
    with torch.no_grad():
        first.weight[half:] = first.weight[:half]
        first.bias[half:] = first.bias[:half]
        # The lower half matters more, so that one of each pair stays.
        second.weight.narrow(1, 0, half).mul_(4)
    return net


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d", "strided", "dilated", "same"])
def test_channels_that_repeat_each_other_cost_nothing(kind):
    torch.manual_seed(0)
    settings = {"strided": {"stride": 2}, "dilated": {"dilation": 2}, "same": {"padding": "same"}}
    if kind == "linear":
        first, second, x = nn.Linear(5, 12), nn.Linear(12, 3), torch.randn(2, 5)
    elif kind == "conv1d":
        first, second = nn.Conv1d(3, 12, 3), nn.Conv1d(12, 4, 3, padding=1, stride=2)
        x = torch.randn(2, 3, 16)
    else:
        first = nn.Conv2d(3, 12, 3, padding=1)
        second, x = nn.Conv2d(12, 4, (3, 2), **settings.get(kind, {})), torch.randn(2, 3, 9, 9)
    net = doubled(nn.Sequential(first, nn.Tanh(), second, nn.Sigmoid()), first, second).eval()
    program = capture(net, (x,), dynamic=None)
    inputs = program.example_inputs(batch=16, seed=99)
    expected = program.module()(*inputs)[0]
    plain, _ = prune(program, FIT.model_copy(update={"recovery": ()}), seed=0)
    fitted, report = prune(program, FIT, seed=0, calibration=samples(program))
    assert (plain.module()(*inputs)[0] - expected).abs().max() > 0.01
    assert (fitted.module()(*inputs)[0] - expected).abs().max() < 1e-3
    assert [f.weight for f in report.fitted][-1] == "2.weight"
    assert report.fitted[-1].after < 1e-3 < report.fitted[-1].before


def test_a_fitted_layer_is_the_least_squares_solution():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    program = capture(net, (torch.randn(2, 6),), dynamic=None)
    calibration = samples(program, count=2, size=16)  # as many rows as are drawn
    pruned, _ = prune(program, FIT, seed=0, calibration=calibration)
    state, before = pruned.module().state_dict(), program.module().state_dict()
    kept = [before["0.bias"].tolist().index(b) for b in state["0.bias"].tolist()]
    inputs = torch.cat([b.inputs[0] for b in calibration.batches]).double()
    hidden = torch.relu(inputs @ before["0.weight"].double().T + before["0.bias"].double())
    wanted = hidden @ before["2.weight"].double().T + before["2.bias"].double()
    # Constrained least squares with the same ridge, as one stacked system around the old weights.
    x = hidden[:, kept]
    centred = x - x.mean(0)
    ridge = recover.RIDGE * (centred.T @ centred).diagonal().mean()
    old = before["2.weight"].double()[:, kept].T
    system = torch.cat([centred, ridge.sqrt() * torch.eye(len(kept), dtype=torch.float64)])
    target = torch.cat([wanted - wanted.mean(0), ridge.sqrt() * old])
    solution = torch.linalg.lstsq(system, target).solution
    torch.testing.assert_close(state["2.weight"].double(), solution.T, rtol=1e-4, atol=1e-6)
    bias = wanted.mean(0) - x.mean(0) @ solution
    torch.testing.assert_close(state["2.bias"].double(), bias, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["residual", "unet", "attention", "tagger", "mobilenet", "tied"])
def test_a_whole_network_comes_nearer_to_the_original(name):
    program = nets.program(name)
    config = FIT.model_copy(update={"sparsity": 0.3})
    plain, _ = prune(program, config.model_copy(update={"recovery": ()}), seed=0)
    fitted, report = prune(program, config, seed=0, calibration=samples(program))
    inputs = program.example_inputs(batch=64, seed=99)
    with torch.no_grad():
        expected, before, after = (p.module()(*inputs)[0] for p in (program, plain, fitted))
    assert (after - expected).square().mean() < 0.5 * (before - expected).square().mean()
    assert all(f.after <= f.before for f in report.fitted)
    assert fitted.ties == program.ties
    assert report.zero_mask_max_error <= 1e-12  # of the network before it was fitted


def test_a_shared_layer_is_left_alone():
    program = nets.program("tied")
    _, report = prune(program, FIT, seed=0, calibration=samples(program))
    assert {f.weight for f in report.fitted} == {"inner.weight", "outer.weight"}


def test_few_samples_change_little():
    program = nets.program("mlp")
    fitted, _ = prune(program, FIT, seed=0, calibration=samples(program, count=1, size=2))
    assert all(torch.isfinite(p).all() for p in fitted.module().parameters())


def test_least_squares_without_data_says_so():
    with pytest.raises(UsageError, match="need data"):
        prune(nets.program("mlp"), FIT, seed=0)


def test_rows_of_a_convolution_are_its_products():
    torch.manual_seed(0)
    for given in (
        {"stride": [2, 1], "padding": [1, 2], "dilation": [1, 2]},
        {"stride": [1, 1], "padding": "same", "dilation": [2, 1]},
        {"stride": [2], "padding": "valid", "dilation": [1]},
    ):
        x, weight = torch.randn(3, 4, 11, 9), torch.randn(5, 4, 2, 3)
        node = type("Node", (), {"meta": {"val": weight}})
        rows = fittable._windows({"weight": node, "groups": 1, **given})
        expected = F.conv2d(x, weight, None, **given)
        answers = rows(x) @ weight.flatten(1).T
        torch.testing.assert_close(
            answers.view(3, -1, 5).transpose(1, 2).reshape(expected.shape), expected
        )


def test_fitting_leaves_the_original_alone():
    program = nets.program("mlp")
    before = {n: t.clone() for n, t in program.exported.state_dict.items()}
    config = FIT.model_copy(update={"protect": ("net.4",)})
    _, report = prune(program, config, seed=0, calibration=samples(program))
    assert report.fitted
    assert all(torch.equal(before[n], t) for n, t in program.exported.state_dict.items())
