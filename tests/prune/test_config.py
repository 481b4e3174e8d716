"""What the user says: amounts, patterns, scores."""

import subprocess
import sys

import numpy as np
import prune_nets as nets
import pytest
import torch
from pydantic import ValidationError

from edgekit.errors import UsageError
from edgekit.graph.capture import capture
from edgekit.graph.program import rebuild
from edgekit.prune.calibration import Calibration
from edgekit.prune.config import PruneConfig
from edgekit.prune.prune import prune
from edgekit.train.batches import Minibatch


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sparsity": 0.5, "macs": 0.5},
        {"sparsity": 0.0},
        {"sparsity": 1.0},
        {"macs": 1.5},
        {"parameters": -0.1},
        {"sparsity": 0.5, "importance": "l3"},
        {"sparsity": 0.5, "layers": {"a": 1.0}},
        {"sparsity": 0.5, "minimum_channels": 0},
        {"sparsity": 0.5, "multiple": 0},
        {"sparsity": 0.5, "unknown": 1},
        {"sparsity": float("nan")},
    ],
)
def test_a_senseless_configuration_is_refused(fields):
    with pytest.raises(ValidationError):
        PruneConfig(**fields)


def test_the_configuration_needs_no_torch():
    code = "import sys, edgekit.prune, edgekit.prune.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def widths(report):
    return {"+".join(g.layers): g.after for g in report.groups}


def test_layers_have_their_own_sparsity():
    config = PruneConfig(sparsity=0.5, layers={"blocks.1.*": 0.25, "stem": 0.0})
    _, report = prune(nets.program("residual"), config, seed=0)
    assert widths(report) == {
        "stem+blocks.0.conv2": 8,
        "blocks.0.conv1": 4,
        "blocks.1.conv1": 12,
        "blocks.1.conv2+blocks.1.down": 12,
        "blocks.2.conv1": 12,
        "blocks.2.conv2+blocks.2.down": 12,
    }


def test_the_first_matching_pattern_counts():
    config = PruneConfig(sparsity=0.5, layers={"net.0": 0.75, "net.*": 0.25})
    _, report = prune(nets.program("mlp"), config, seed=0)
    assert widths(report) == {"net.0": 8, "net.4": 18}


def test_protected_layers_keep_their_width():
    # A container protects what is in it, and a normalisation the width that it normalises.
    config = PruneConfig(macs=0.5, protect=("blocks.2", "norm"))
    _, report = prune(nets.program("residual"), config, seed=0)
    after = widths(report)
    assert after["blocks.2.conv1"] == 24
    assert after["blocks.2.conv2+blocks.2.down"] == 24
    assert after["stem+blocks.0.conv2"] == 8
    assert after["blocks.1.conv1"] < 16


@pytest.mark.parametrize("where", ["layers", "protect"])
def test_an_unknown_pattern_names_the_nearest_layer(where):
    value = {"layers": {"blocks.1.convl": 0.5}, "protect": ("blocks.1.convl",)}[where]
    with pytest.raises(UsageError, match=r"'blocks.1.convl' matches no layer") as raised:
        prune(nets.program("residual"), PruneConfig(sparsity=0.5, **{where: value}), seed=0)
    assert "'blocks.1.conv" in raised.value.hint


def test_a_pattern_for_a_width_that_cannot_change_warns():
    _, report = prune(nets.program("mlp"), PruneConfig(sparsity=0.5, layers={"net.7": 0.5}), seed=0)
    assert report.warnings == ("Layers that match 'net.7' have a width that cannot change.",)


def hidden_kept(program, config, seed=0, calibration=None):
    """Which of net.0's channels stayed, found again by their weights."""
    pruned, _ = prune(program, config, seed=seed, calibration=calibration)
    before = program.module().state_dict()["net.0.weight"]
    after = pruned.module().state_dict()["net.0.weight"]
    return [int(np.flatnonzero((before == row).all(1).numpy())[0]) for row in after]


def expected_l(power):
    state = nets.program("mlp").module().state_dict()
    first = state["net.0.weight"].double().abs().pow(power).sum(1)
    second = state["net.4.weight"].double().abs().pow(power).sum(0)
    return sorted((first + second).argsort(descending=True)[:16].tolist())


@pytest.mark.parametrize(("importance", "power"), [("l1", 1), ("l2", 2)])
def test_magnitude_keeps_the_largest(importance, power):
    config = PruneConfig(sparsity=0.5, importance=importance)
    assert hidden_kept(nets.program("mlp"), config) == expected_l(power)


def test_bn_scale_keeps_the_largest_scales():
    scale = nets.program("mlp").module().state_dict()["net.1.weight"].abs()
    expected = sorted(scale.argsort(descending=True)[:16].tolist())
    assert expected != expected_l(2)
    config = PruneConfig(sparsity=0.5, importance="bn-scale")
    assert hidden_kept(nets.program("mlp"), config) == expected


@pytest.mark.parametrize("importance", ["taylor", "fisher", "activation", "reconstruction"])
def test_an_importance_that_looks_at_data_says_so(importance):
    with pytest.raises(UsageError, match="needs data"):
        prune(nets.program("mlp"), PruneConfig(sparsity=0.5, importance=importance), seed=0)


def line(weights, scale=1.0):
    """One hidden layer without an activation; what each channel adds to the output is known."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(6, 8, bias=False), torch.nn.Linear(8, 1, bias=False)
    ).eval()
    with torch.no_grad():
        net[1].weight.copy_(weights[None])
        net[0].weight.mul_(torch.as_tensor(scale).view(-1, 1))
    return capture(net, (torch.randn(2, 6),), dynamic=None)


def kept_of(program, importance, calibration=None):
    config = PruneConfig(sparsity=0.5, minimum_channels=1, importance=importance)
    pruned, _ = prune(program, config, seed=0, calibration=calibration)
    before = program.module().state_dict()["0.weight"]
    after = pruned.module().state_dict()["0.weight"]
    return [int(np.flatnonzero((before == row).all(1).numpy())[0]) for row in after]


def with_targets(program, count=3, size=16):
    batches = []
    for i in range(count):
        inputs = program.example_inputs(batch=size, seed=i)
        targets = torch.randn(size, 1, generator=torch.Generator().manual_seed(i))
        batches.append(Minibatch([str(i)] * size, inputs, targets))
    return tuple(batches)


def squared_error(outputs, batch):
    (output,) = outputs.values()
    return (output - batch.targets).square().mean()


def test_activation_keeps_what_adds_most_to_the_output():
    weights = torch.tensor([3.0, 0.5, 2.0, 1.0, 0.1, 4.0, 1.5, 0.2])
    program = line(weights, scale=1 / weights.square())
    batches = with_targets(program)
    x = torch.cat([b.inputs[0] for b in batches])
    hidden = x @ program.module().state_dict()["0.weight"].T
    missed = (hidden * weights).square().mean(0)  # of the output without each channel
    wanted = sorted(missed.argsort(descending=True)[:4].tolist())
    assert wanted != kept_of(program, "l2")
    assert kept_of(program, "activation", Calibration(batches)) == wanted


@pytest.mark.parametrize(("importance", "each"), [("taylor", 16), ("fisher", 1)])
def test_gradients_are_those_of_batches_and_of_samples(importance, each):
    program = line(torch.linspace(0.1, 2, 8))
    batches = with_targets(program)
    first, second = (program.module().state_dict()[f"{i}.weight"].double() for i in (0, 1))
    score = torch.zeros(8, dtype=torch.float64)
    for batch in batches:
        for part in range(0, 16, each):
            x = batch.inputs[0][part : part + each].double()
            y = batch.targets[part : part + each].double()
            error = 2 * (x @ first.T @ second.T - y) / len(x)
            grad_first = second.T @ error.T @ x
            grad_second = error.T @ (x @ first.T)
            score += (first * grad_first).square().sum(1) + (second * grad_second).square().sum(0)
    wanted = sorted(score.argsort(descending=True)[:4].tolist())
    assert kept_of(program, importance, Calibration(batches, squared_error)) == wanted


def test_the_geometric_median_drops_what_the_others_can_stand_in_for():
    program = nets.program("mlp")
    module = program.module()
    with torch.no_grad():
        for name, axis in (("net.0.weight", 0), ("net.4.weight", 1)):
            weight = module.state_dict()[name].movedim(axis, 0)
            weight[:20] = weight[:20].mean(0)  # twenty channels alike, large or not
            weight[:20] *= 3
    alike = rebuild(module, program)
    kept = hidden_kept_rows(alike)
    assert set(range(20, 32)) <= kept


def hidden_kept_rows(program):
    config = PruneConfig(sparsity=0.5, importance="geometric-median")
    pruned, _ = prune(program, config, seed=0)
    before, after = (p.module().state_dict()["net.1.weight"].tolist() for p in (program, pruned))
    return {before.index(v) for v in after}


def test_random_follows_the_seed():
    config = PruneConfig(sparsity=0.5, importance="random")
    program = nets.program("mlp")
    first = hidden_kept(program, config, seed=1)
    assert first == hidden_kept(program, config, seed=1)
    assert first != hidden_kept(program, config, seed=2)


def test_pruning_leaves_the_program_and_the_global_generator_alone():
    program = nets.program("residual")
    before = {n: t.clone() for n, t in program.exported.state_dict.items()}
    state = torch.random.get_rng_state()
    prune(program, PruneConfig(sparsity=0.5), seed=0)
    assert torch.equal(state, torch.random.get_rng_state())
    after = program.exported.state_dict
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_the_report_is_plain_data():
    _, report = prune(nets.program("frozen"), PruneConfig(sparsity=0.5), seed=0)
    data = report.to_dict()
    assert data["groups"] == ({"layers": ("b",), "before": 16, "after": 8},)
    assert data["frozen"]["aten.cumsum"] == {"parameters": 48, "layers": ("a",)}


def test_defaults_follow_from_what_is_given():
    plain, sparse, budget = (
        PruneConfig(macs=0.5),
        PruneConfig(sparsity=0.5, recovery=("least-squares",)),
        PruneConfig(macs=0.5, recovery=("least-squares",)),
    )
    assert (plain.scoring, plain.allocating, plain.looks_at_data) == ("l2", "uniform", False)
    assert (sparse.scoring, sparse.allocating) == ("reconstruction", "uniform")
    assert (budget.scoring, budget.allocating) == ("reconstruction", "sensitivity")
    norms = PruneConfig(macs=0.5, recovery=("batch-norm",))
    assert (norms.scoring, norms.scores_by_data, norms.looks_at_data) == ("l2", False, True)
    said = PruneConfig(macs=0.5, recovery=("least-squares",), importance="l1", allocation="global")
    assert (said.scoring, said.allocating) == ("l1", "global")
