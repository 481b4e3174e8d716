"""Budgets: the cost model is exact, and a plan fills its budget from below."""

import itertools

import numpy as np
import prune_nets as nets
import pytest
import torch

from edgekit.errors import PassError, UsageError
from edgekit.graph.capture import capture
from edgekit.graph.cost import cost
from edgekit.prune import allocation as allocating
from edgekit.prune.allocation import allocate, levels_of, nearest_level
from edgekit.prune.config import PruneConfig
from edgekit.prune.coupling import analyse
from edgekit.prune.families import Family, find_families
from edgekit.prune.model import macs_model, parameters_model
from edgekit.prune.plan import decide
from edgekit.prune.prune import prune


@pytest.mark.parametrize("what", ["macs", "parameters", "sparsity"])
def test_rounds_end_where_one_step_does(what):
    program = nets.program("residual")
    config = PruneConfig(**{what: 0.4}, minimum_channels=1)
    _, once = prune(program, config, seed=0)
    small, rounds = prune(program, config.model_copy(update={"iterations": 3}), seed=0)
    assert (rounds.macs_before, rounds.parameters_before) == (
        once.macs_before,
        once.parameters_before,
    )
    now = cost(small)
    assert (rounds.macs_after, rounds.parameters_after) == (now.macs, now.parameters)
    assert rounds.zero_mask_max_error <= 1e-12
    if what == "sparsity":
        pairs = zip(rounds.groups, once.groups, strict=True)
        assert all(abs(a.after - b.after) <= 1 for a, b in pairs)
    else:
        before, after = (getattr(rounds, f"{what}_{when}") for when in ("before", "after"))
        assert 0.9 * getattr(once, f"{what}_after") <= after <= 0.4 * before


def families_of(program):
    return find_families(analyse(program.module()), program.name_map())


@pytest.mark.parametrize("name", ["grouped", "attention", "products"])
def test_the_model_predicts_the_cost_exactly(name):
    program = nets.program(name)
    families = families_of(program)
    known = cost(program)
    pruned, report = prune(program, PruneConfig(sparsity=0.6, minimum_channels=1), seed=0)
    kept = np.array(
        [g.after // f.channels for g, f in zip(report.groups, families.families, strict=True)]
    )
    assert macs_model(program, families, known)(kept) == cost(pruned).macs
    assert parameters_model(families, known)(kept) == cost(pruned).parameters


@pytest.mark.parametrize("allocation", ["uniform", "global", "sensitivity"])
@pytest.mark.parametrize(("what", "share"), [("macs", 0.3), ("parameters", 0.5)])
@pytest.mark.parametrize("multiple", [None, 4])
def test_no_network_that_keeps_more_fits_the_budget(allocation, what, share, multiple):
    program = nets.program("flattened")
    config = PruneConfig(
        **{what: share}, allocation=allocation, multiple=multiple, minimum_channels=2
    )
    _, report = prune(program, config, seed=0)
    families = families_of(program)
    before = cost(program)
    if what == "macs":
        model, whole = macs_model(program, families, before), before.macs
        assert report.macs_after <= share * whole
    else:
        model, whole = parameters_model(families, before), before.parameters
        assert report.parameters_after <= share * whole
    plan = [g.after // f.channels for g, f in zip(report.groups, families.families, strict=True)]
    levels = [levels_of(f, config) for f in families.families]
    assert all(p in row for p, row in zip(plan, levels, strict=True))
    larger = [
        other
        for other in itertools.product(*levels)
        if other != tuple(plan) and all(a >= b for a, b in zip(other, plan, strict=True))
    ]
    assert larger
    assert all(model(np.array(other)) > share * whole for other in larger)


def test_a_residual_network_meets_a_macs_budget_in_multiples():
    torch.manual_seed(0)
    net = nets.Residual(widths=(32, 64, 128))
    program = capture(net, (torch.randn(2, 3, 16, 16),), dynamic=None)
    for allocation in ("uniform", "global", "sensitivity"):
        pruned, report = prune(
            program, PruneConfig(macs=0.25, multiple=16, allocation=allocation), seed=0
        )
        assert 0.2 * report.macs_before < report.macs_after <= 0.25 * report.macs_before
        assert cost(pruned).macs == report.macs_after
        assert all(g.after % 16 == 0 for g in report.groups)


def test_levels_are_multiples_and_never_below_the_minimum():
    def levels(groups, channels, **limits):
        family = Family(np.arange(groups), channels, (), ())
        return levels_of(family, PruneConfig(sparsity=0.5, **limits))

    assert levels(6, 1, minimum_channels=4) == [4, 5, 6]
    assert levels(40, 1, multiple=16) == [16, 32, 40]
    assert levels(40, 1, multiple=16, minimum_channels=17) == [32, 40]
    assert levels(12, 1, multiple=16) == [12]
    assert levels(6, 8, multiple=16) == [2, 4, 6]
    assert levels(3, 1, minimum_channels=4) == [3]
    assert nearest_level([16, 32, 48], 24) == 32


def test_sparsity_is_the_fraction_removed():
    _, report = prune(nets.program("mlp"), PruneConfig(sparsity=0.75), seed=0)
    assert [(g.before, g.after) for g in report.groups] == [(32, 8), (24, 6)]
    _, report = prune(nets.program("mlp"), PruneConfig(sparsity=0.75, allocation="global"), seed=0)
    assert sum(g.after for g in report.groups) == 14


def test_global_allocation_takes_the_weakest_channels_of_all_layers():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(),
        torch.nn.Linear(8, 2),
    )  # fmt: skip
    with torch.no_grad():
        for layer in (net[0], net[2], net[4]):
            layer.weight.fill_(1.0)
        net[0].weight[:6] *= 0.01
        net[2].weight[:, :6] *= 0.01
        net[2].weight[0] *= 0.9
    program = capture(net, (torch.randn(2, 4),), dynamic=None)
    config = PruneConfig(sparsity=0.375, allocation="global", minimum_channels=1)
    _, report = prune(program, config, seed=0)
    assert [g.after for g in report.groups] == [2, 8]
    _, report = prune(program, PruneConfig(sparsity=0.375, minimum_channels=1), seed=0)
    assert [g.after for g in report.groups] == [5, 5]


def test_an_impossible_budget_says_what_is_possible():
    program = nets.program("mlp")
    with pytest.raises(UsageError, match=r"macs=0.01 cannot be met.*keeps 0\.\d+") as raised:
        prune(program, PruneConfig(macs=0.01, minimum_channels=8), seed=0)
    possible = float(raised.value.hint.split("at least ")[1].split(",")[0])
    _, report = prune(program, PruneConfig(macs=possible, minimum_channels=8), seed=0)
    assert [g.after for g in report.groups] == [8, 8]


def test_an_unreachable_sparsity_warns():
    config = PruneConfig(sparsity=0.9, allocation="global", minimum_channels=16)
    _, report = prune(nets.program("mlp"), config, seed=0)
    assert [g.after for g in report.groups] == [16, 16]
    assert "0.429 of the channels were removed" in report.warnings[0]


def test_nothing_to_do_returns_the_same_network():
    program = nets.program("mlp")
    pruned, report = prune(program, PruneConfig(sparsity=0.5, multiple=64), seed=0)
    assert pruned is program
    assert report.macs_after == report.macs_before
    assert any("Nothing was removed" in w for w in report.warnings)
    assert any("multiples of 64, kept whole: net.0, net.4" in w for w in report.warnings)


def test_a_network_without_a_free_channel_is_refused():
    program = capture(torch.nn.Linear(3, 2), (torch.randn(2, 3),), dynamic=None)
    with pytest.raises(PassError, match=r"frozen by: \(output\), \(input\)") as raised:
        prune(program, PruneConfig(sparsity=0.5), seed=0)
    assert raised.value.exit_code == 4


def test_sensitivity_is_near_the_best_of_all_plans():
    rng = np.random.default_rng(0)
    levels = [list(range(1, n + 1)) for n in (5, 7, 4)]
    for _ in range(20):
        scores = [rng.gamma(0.5, size=len(row)) for row in levels]
        losses = [allocating._losses(s) for s in scores]
        cost_of = rng.integers(1, 9, size=4)

        def model(kept, cost_of=cost_of):
            a, b, c = (int(k) for k in kept)
            return int(cost_of @ [a, a * b, b * c, c * c])

        def lost(kept, losses=losses):
            return sum(loss[k] for loss, k in zip(losses, kept, strict=True))

        budget = 0.4 * model([5, 7, 4])
        plans = [k for k in itertools.product(*levels) if model(k) <= budget]
        kept = allocating._cheapest(levels, losses, model, budget)
        assert model(kept) <= budget
        best, found = min(map(lost, plans)), lost(kept)
        worse = sum(lost(plan) < found for plan in plans)
        assert found <= 1.35 * best
        assert worse <= 0.1 * len(plans)


def test_no_layer_loses_all_of_what_it_says():
    lost = allocating._losses(np.array([3.0, 1.0, 0.0, 2.0]))
    # Whole is 6 / 4; by share removed 0, 0, 1/6, 3/6, 1.
    np.testing.assert_allclose(lost[1:], -1.5 * np.log([0.5, 5 / 6, 1, 1]), rtol=1e-6)
    assert lost[0] > 20


def test_many_levels_are_tried_at_some_and_filled_up():
    levels = list(range(1, 301))
    losses = [allocating._losses(np.linspace(1, 2, 300))] * 2
    kept = allocating._cheapest([levels, levels], losses, lambda k: int(k[0] + 3 * k[1]), 500)
    assert kept[0] + 3 * kept[1] <= 500
    assert kept[0] + 3 * kept[1] + 1 > 500
    assert kept[0] > kept[1]


@pytest.mark.parametrize("iterations", [1, 2])
def test_a_budget_in_bytes_is_met_from_below(iterations):
    program = nets.program("residual")
    whole = sum(
        t.numel() * t.element_size()
        for n, t in program.exported.state_dict.items()
        if t.is_floating_point()
    )
    limit = int(0.4 * whole)
    config = PruneConfig(size_bytes=limit, minimum_channels=1, iterations=iterations)
    pruned, report = prune(program, config, seed=0)
    now = sum(
        t.numel() * t.element_size()
        for t in pruned.exported.state_dict.values()
        if t.is_floating_point()
    )
    assert (report.weight_bytes_before, report.weight_bytes_after) == (whole, now)
    assert 0.9 * limit < now <= limit


def test_an_impossible_number_of_bytes_says_the_smallest_possible():
    program = nets.program("mlp")
    config = PruneConfig(size_bytes=100, minimum_channels=8)
    with pytest.raises(UsageError, match=r"100 bytes cannot be met.*takes \d+ of \d+") as raised:
        decide(program, config, seed=0)
    possible = int(raised.value.hint.split("at least ")[1].split(",")[0])
    fitting = decide(program, config.model_copy(update={"size_bytes": possible}), seed=0)
    assert fitting.report().weight_bytes_after == possible


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_any_function_of_a_plan_can_be_the_budget(allocation):
    # Like a measured latency: in steps, not monotone, not a sum over the layers.
    program = nets.program("residual")
    families = families_of(program)
    config = PruneConfig(sparsity=0.5, minimum_channels=1, allocation=allocation)

    def milliseconds(kept):
        tiles = sum(-(-int(k) // 8) for k in kept)
        return tiles * 1.5 + (2.0 if kept[0] % 2 else 0.0) + float(kept.max()) / 24

    scores = [np.arange(f.groups.size, dtype=np.float64) for f in families.families]
    plan = allocate(families, config, scores, milliseconds, 14.0, {})
    assert plan.fits
    assert plan.value == milliseconds(plan.kept) <= 14.0
    assert plan.kept.sum() > families.full().size  # and it is not merely the smallest
    for number in range(plan.kept.size):
        more = plan.kept.copy()
        more[number] += 1
        assert more[number] > families.full()[number] or milliseconds(more) > 14.0
