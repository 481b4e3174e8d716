"""What a user can get wrong: the command says so, with the documented code, and leaves nothing."""

import numpy as np
import prune_nets as nets
import pytest
import torch
from typer.testing import CliRunner

from edgekit.cli.commands import app
from edgekit.errors import EdgekitError
from edgekit.graph import store
from edgekit.graph.capture import capture


@pytest.fixture
def model(tmp_path):
    store.save(nets.program("mlp"), tmp_path / "model.pt2")
    return tmp_path / "model.pt2"


def refused(model, *options):
    """What `prune` says: exit code, message and hint; nothing is written."""
    out = model.parent / "out"
    done = CliRunner().invoke(app, ["prune", str(model), "-o", str(out), *options])
    assert isinstance(done.exception, EdgekitError), (done.exception, done.output)
    assert not list(out.glob("**/*.pt2"))
    assert not list(out.glob("**/manifest.json"))
    assert done.exception.hint
    return done.exception.exit_code, done.exception.message, done.exception.hint


@pytest.mark.parametrize("sparsity", ["0", "1", "1.5", "-0.1", "nan"])
def test_sparsity_outside_its_range(model, sparsity):
    code, message, hint = refused(model, f"--sparsity={sparsity}")
    assert code == 2
    assert "sparsity" in message + hint


def test_no_amount_and_two_amounts(model):
    assert "exactly one" in "".join(map(str, refused(model)))
    assert "exactly one" in "".join(map(str, refused(model, "--macs=0.5", "--sparsity=0.5")))


@pytest.mark.parametrize("budget", ["--macs=0.001", "--parameters=0.001", "--size-bytes=10"])
def test_a_budget_out_of_reach_says_the_closest(model, budget):
    code, message, hint = refused(model, budget)
    assert code == 2
    assert "cannot be met" in message
    assert "at least" in hint


@pytest.mark.parametrize("option", ["--protect=nett.0", "--set=layers={nett.0: 0.5}"])
def test_a_pattern_that_matches_nothing_names_the_nearest(model, option):
    code, message, hint = refused(model, "--sparsity=0.5", option)
    assert code == 2
    assert "nett" in message
    assert "net." in hint


@pytest.mark.parametrize(
    ("shape", "fault", "words"),
    [((64, 9), None, "9"), ((64, 7), "nan", "NaN"), ((64, 7, 2), None, "2")],
)
@pytest.mark.parametrize("option", ["--importance=activation", "--recovery=least-squares"])
def test_calibration_data_that_do_not_fit(model, shape, fault, words, option):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if fault:
        x[5, 2] = np.nan
    np.savez(model.parent / "data.npz", x=x, targets=np.arange(64) % 3)
    data = f"--data={model.parent / 'data.npz'}"
    code, message, hint = refused(model, "--sparsity=0.5", option, data)
    assert code == 2
    assert words in message + hint


def test_no_data_where_they_are_needed(model):
    code, message, _ = refused(model, "--sparsity=0.5", "--importance=taylor")
    assert code in (2, 4)
    assert "data" in message


def test_a_network_that_cannot_lose_a_channel_says_what_froze_it(tmp_path):
    class Summed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(7, 12), torch.nn.Linear(12, 3)

        def forward(self, x):
            return self.b(self.a(x).cumsum(1))

    program = capture(Summed().eval(), (torch.randn(4, 7),), dynamic=None)
    store.save(program, tmp_path / "model.pt2")
    code, message, _ = refused(tmp_path / "model.pt2", "--sparsity=0.5")
    assert code == 4
    assert "aten.cumsum" in message


def test_an_interrupted_run_leaves_no_artifact(model, monkeypatch):
    from edgekit.prune import prune

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prune, "shrink", interrupted)
    out = model.parent / "out"
    done = CliRunner().invoke(app, ["prune", str(model), "-o", str(out), "--sparsity=0.5"])
    assert done.exit_code in (1, 130)
    assert not list(model.parent.glob("out/**/*.pt2"))
    assert not list(model.parent.glob("out/**/manifest.json"))
    monkeypatch.undo()
    again = CliRunner().invoke(app, ["prune", str(model), "-o", str(out), "--sparsity=0.5"])
    assert again.exit_code == 0, again.output
