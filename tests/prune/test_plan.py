"""A plan says beforehand what pruning will do, and why a layer stays."""

import json

import prune_nets as nets
import pytest
from typer.testing import CliRunner

from edgekit.cli.commands import app
from edgekit.errors import UsageError
from edgekit.graph import store
from edgekit.prune.config import PruneConfig
from edgekit.prune.explain import explain_layer
from edgekit.prune.plan import decide
from edgekit.prune.prune import prune

HALF = PruneConfig(sparsity=0.5, minimum_channels=1)


@pytest.mark.parametrize("name", nets.NETS)
def test_a_plan_foretells_the_costs(name):
    program = nets.program(name)
    planned = decide(program, HALF, seed=0).report()
    _, done = prune(program, HALF, seed=0)
    assert (planned.macs_after, planned.parameters_after) == (
        done.macs_after,
        done.parameters_after,
    )
    assert planned.groups == done.groups
    assert planned.zero_mask_max_error is None


def test_a_frozen_layer_is_explained():
    decision = decide(nets.program("frozen"), HALF, seed=0)
    found = explain_layer(decision, "a")
    assert found["groups"] == []
    weight = found["tensors"]["a.weight"]
    assert weight[0] == {"size": 12, "free": 0, "kept_by": ["aten.cumsum"]}
    assert weight[1]["kept_by"] == ["(input)"]


def test_a_coupled_layer_is_explained():
    decision = decide(nets.program("residual"), HALF, seed=0)
    found = explain_layer(decision, "blocks.1.down")
    assert [g["layers"] for g in found["groups"]] == [["blocks.1.conv2", "blocks.1.down"]]
    assert found["tensors"]["blocks.1.down.weight"][0]["free"] == 16
    with pytest.raises(UsageError, match=r"no layer 'blocks\.1\.dow'") as caught:
        explain_layer(decision, "blocks.1.dow")
    assert "blocks.1.down" in caught.value.hint


def test_the_command_shows_a_plan_and_writes_nothing(tmp_path):
    store.save(nets.program("attention"), tmp_path / "model.pt2")
    before = sorted(tmp_path.iterdir())
    model = str(tmp_path / "model.pt2")
    runner = CliRunner()
    shown = runner.invoke(app, ["prune", model, "--sparsity", "0.5", "--dry-run"])
    assert shown.exit_code == 0
    assert "qkv" in shown.stdout
    assert "(output)" in shown.stdout
    plain = runner.invoke(app, ["prune", model, "--macs", "0.4", "--dry-run", "--json"])
    found = json.loads(plain.stdout)
    assert found["macs_after"] <= 0.4 * found["macs_before"]
    one = runner.invoke(app, ["prune", model, "--explain", "qkv", "--json"])
    assert json.loads(one.stdout)["layer"] == "qkv"
    assert sorted(tmp_path.iterdir()) == before
    nowhere = runner.invoke(app, ["prune", model, "--sparsity", "0.5"])
    assert isinstance(nowhere.exception, UsageError)
    assert "--dry-run" in nowhere.exception.hint


def test_inspect_shows_memory_operators_and_what_is_coupled(tmp_path):
    store.save(nets.program("frozen"), tmp_path / "model.pt2")
    model, runner = str(tmp_path / "model.pt2"), CliRunner()
    found = json.loads(runner.invoke(app, ["inspect", model, "--json"]).stdout)
    assert found["groups"] == [{"layers": ["b"], "channels": 16}]
    assert found["frozen"]["aten.cumsum"]["layers"] == ["a"]
    assert found["operators"]["aten.conv2d"] == 3
    assert found["activation_bytes"] == 4 * 8 * 8 * (16 + 16)
    shown = runner.invoke(app, ["inspect", model]).stdout
    assert "8.19 kB of activations at once" in shown
    assert "3 aten.conv2d" in shown
    assert "aten.cumsum keeps" in shown
