"""Transfer: a new head learns alone, then the whole network does."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from edgekit.artifact import Artifact
from edgekit.graph.store import load, save
from edgekit.metrics import Task
from edgekit.passes.base import Context
from edgekit.passes.fine_tune import FineTune


@pytest.fixture
def transfer(program, mlp, dataset, tmp_path):
    net = program(mlp(outputs=2), 2)
    (tmp_path / "old").mkdir()
    save(net, tmp_path / "old" / "model.pt2")
    artifact = Artifact.create(
        tmp_path / "old", model="model.pt2", format="pt2", inputs=net.inputs,
        outputs=net.outputs, made_by="capture",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    y = np.arange(120) % 4
    corners = np.array([[2, 2], [2, -2], [-2, 2], [-2, -2]])
    x = (corners[y] + rng.normal(0, 0.3, (120, 2))).astype(np.float32)

    def run(**fields):
        out = tmp_path / f"new{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        context = Context(out=out, seed=0, task=Task(), data=dataset(x, y))
        step = FineTune(batch_size=20, classes=4, **fields)
        made = step.run(artifact, context)
        return net, load(made.path), context.notes, x, y

    return run


def test_a_new_head_alone_leaves_the_body_as_it_was(transfer) -> None:
    old, new, notes, *_ = transfer(epochs=2, head_epochs=2)
    assert notes["new_head"] == ["last.weight", "last.bias"]
    before, after = old.exported.state_dict, new.exported.state_dict
    for name in before:
        if not name.startswith("last."):
            assert torch.equal(before[name], after[name]), name
    assert after["last.weight"].shape == (4, 16)


def test_then_the_whole_network_learns_the_new_classes(transfer) -> None:
    old, new, _, x, y = transfer(epochs=30, head_epochs=5, learning_rate=0.03)
    right = (new.module()(torch.from_numpy(x))[0].argmax(1).numpy() == y).mean()
    assert right > 0.97
    assert not torch.equal(
        old.exported.state_dict["first.weight"], new.exported.state_dict["first.weight"]
    )


def test_a_schedule_for_a_head_needs_a_head() -> None:
    with pytest.raises(ValidationError, match="`head_epochs` needs `classes`"):
        FineTune(head_epochs=2)
