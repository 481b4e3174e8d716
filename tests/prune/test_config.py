"""What the user says: amounts, patterns, scores."""

import subprocess
import sys

import numpy as np
import prune_nets as nets
import pytest
import torch
from pydantic import ValidationError

from edgekit.errors import UsageError
from edgekit.prune.config import PruneConfig
from edgekit.prune.prune import prune


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


def hidden_kept(program, config, seed=0, gradients=None):
    """Which of net.0's channels stayed, found again by their weights."""
    pruned, _ = prune(program, config, seed=seed, gradients=gradients)
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


def test_taylor_weighs_weights_with_gradients():
    program = nets.program("mlp")
    weight = program.module().state_dict()["net.0.weight"]
    gradients = {"net.0.weight": torch.arange(32.0)[:, None] / weight}
    config = PruneConfig(sparsity=0.5, importance="taylor")
    assert hidden_kept(program, config, gradients=gradients) == list(range(16, 32))
    with pytest.raises(UsageError, match="needs gradients"):
        prune(program, config, seed=0)


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
