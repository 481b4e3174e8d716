"""Sparse training with the groups of the coupling analysis, through the pass."""

import numpy as np
import prune_nets as nets
import pytest
import torch
from torch import nn

from edgekit.artifact import Artifact
from edgekit.data import DataConfig, Dataset
from edgekit.data.sources import Samples
from edgekit.errors import PassError
from edgekit.graph import store
from edgekit.graph.capture import capture
from edgekit.metrics import Task
from edgekit.passes.base import Context
from edgekit.passes.fine_tune import FineTune
from edgekit.prune.config import PruneConfig
from edgekit.prune.prune import prune
from edgekit.prune.sparsify import groups_of

TRAIN = {"epochs": 25, "learning_rate": 5e-3, "batch_size": 32, "schedule": "constant"}


class Mlp(nn.Module):
    """Far more hidden channels than the task needs."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm = nn.Linear(4, 24), nn.BatchNorm1d(24)
        self.head = nn.Linear(24, 2)

    def forward(self, x):
        return {"logits": self.head(torch.relu(self.norm(self.inner(x))))}


def easy(folder):
    """Two classes that a line parts."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(192, 4)).astype(np.float32)
    samples = Samples({"x": x}, (x[:, 0] > 0).astype(np.int64), [f"s{i}" for i in range(192)])
    config = DataConfig(npz="unused.npz", split={"evaluation": 0, "calibration": 0})
    return Dataset(samples, config, folder)


def trained(tmp_path, **options):
    """The network after the pass, from its own file."""
    torch.manual_seed(0)
    program = capture(Mlp().eval(), {"x": torch.randn(4, 4)}, dynamic=None)
    store.save(program, tmp_path / "model.pt2")
    artifact = Artifact.create(
        tmp_path, model="model.pt2", format="pt2", inputs=program.inputs, outputs=program.outputs,
        made_by="capture",
    )  # fmt: skip
    out = tmp_path / f"{options.get('sparsify')}"
    out.mkdir()
    context = Context(out, seed=0, task=Task(), data=easy(tmp_path))
    made = FineTune(**TRAIN, **options).run(artifact, context)
    assert context.notes["history"]["epochs"][-1]["accuracy"] > 0.95
    return store.load(made.path)


def norms(program):
    """Norm of all that goes with each hidden channel."""
    state = program.module().state_dict()
    rows = [state["inner.weight"], state["head.weight"].T]
    return torch.cat([*rows, state["norm.weight"][:, None], state["norm.bias"][:, None]], 1).norm(
        dim=1
    )


def test_whole_channels_end_at_zero_and_go_without_loss(tmp_path):
    plain = trained(tmp_path)
    assert (norms(plain) > 0.1).all()
    sparse = trained(tmp_path, sparsify="group-l2", sparsify_strength=1.0)
    gone = int((norms(sparse) == 0).sum())
    assert gone >= 8
    config = PruneConfig(sparsity=gone / 24, minimum_channels=1)
    pruned, _ = prune(sparse, config, seed=0)
    x = torch.randn(64, 4)
    torch.testing.assert_close(pruned.module()(x), sparse.module()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "strength", "pulled", "left"),
    [
        ("group-l1", 1.0, "inner.weight", "head.bias"),
        ("bn-scale", 2.0, "norm.weight", "inner.weight"),
    ],
)
def test_what_is_pulled_on_ends_at_zero(kind, strength, pulled, left, tmp_path):
    plain = trained(tmp_path).module().state_dict()
    sparse = trained(tmp_path, sparsify=kind, sparsify_strength=strength).module().state_dict()
    assert (sparse[pulled] == 0).float().mean() > 0.3
    assert (plain[pulled] != 0).all()
    assert (sparse[left] != 0).all()


def test_the_groups_are_those_of_the_coupling():
    program = nets.program("residual")
    found = {(m.name, m.axis): m.groups for m in groups_of(program, "group-l2")}
    stem, shortcut = found["stem.weight", 0], found["blocks.0.conv2.weight", 0]
    assert torch.equal(stem, shortcut)
    assert stem.unique().numel() == 8
    assert ("fc.weight", 0) not in found
    scales = groups_of(program, "bn-scale")
    assert {m.name for m in scales} == {
        "norm.weight", *(f"blocks.{i}.norm{j}.weight" for i in range(3) for j in (1, 2))
    }  # fmt: skip


def test_a_network_without_groups_is_refused():
    with pytest.raises(PassError, match="no batch norm whose channels") as raised:
        groups_of(nets.program("tagger"), "bn-scale")
    assert "group-l2" in raised.value.hint
    whole = capture(nn.Linear(3, 2), (torch.randn(2, 3),), dynamic=None)
    with pytest.raises(PassError, match=r"frozen by: \(output\), \(input\)"):
        groups_of(whole, "group-l2")
