"""`shrink`: a student of the network's own graph."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from edgekit.errors import PassError, UsageError
from edgekit.metrics import Task
from edgekit.passes.base import Context
from edgekit.passes.capture import save_program
from edgekit.passes.shrink import Shrink


class Deep(nn.Module):
    """Three residual layers over 16 hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 16)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        y = self.first(x)
        for block in self.blocks:
            y = y + torch.relu(block(y))
        return {"logits": self.last(y)}


class Shallow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return {"logits": self.last(x)}


@pytest.fixture
def shrunk(program, tmp_path):
    def run(module: nn.Module, *shape: int, **fields):
        folder = tmp_path / "whole"
        folder.mkdir()
        context = Context(out=folder, seed=0, task=Task())
        whole = save_program(program(module, *shape), context, made_by="capture")
        context = Context(out=tmp_path, seed=7, task=Task())
        made = Shrink(**fields).run(whole, context)
        return context.load(made.path), context.notes, context.load(whole.path)

    return run


def test_width_and_depth_together(shrunk) -> None:
    small, notes, whole = shrunk(Deep(), 5, width=0.5, depth=0.67)
    state = {n: tuple(t.shape) for n, t in small.exported.state_dict.items()}
    assert state == {
        "first.weight": (8, 5), "first.bias": (8,),
        "blocks.0.weight": (8, 8), "blocks.0.bias": (8,),
        "blocks.2.weight": (8, 8), "blocks.2.bias": (8,),
        "last.weight": (3, 8), "last.bias": (3,),
    }  # fmt: skip
    assert notes["blocks_left_out"] == ["blocks.1"]
    assert notes["parameters_after"] == 8 * 5 + 8 + 2 * (8 * 8 + 8) + 3 * 8 + 3
    assert notes["macs_before"] == 5 * 16 + 3 * 16 * 16 + 16 * 3
    kept = whole.exported.state_dict["first.bias"].tolist()
    assert all(value in kept for value in small.exported.state_dict["first.bias"].tolist())
    assert small.outputs == whole.outputs


def test_new_weights_have_nothing_of_the_old(shrunk) -> None:
    small, _, whole = shrunk(Deep(), 5, width=0.5, weights="new")
    for name, value in small.exported.state_dict.items():
        assert not torch.isin(value.detach(), whole.exported.state_dict[name].detach()).any()


def test_what_cannot_be_made_is_refused(shrunk, mlp) -> None:
    with pytest.raises(ValidationError, match="give `width` or `depth`"):
        Shrink()
    with pytest.raises(UsageError, match="no two residual blocks"):
        shrunk(mlp(), 2, depth=0.5)


def test_a_network_without_hidden_channels_is_refused(shrunk) -> None:
    with pytest.raises(PassError, match="No channel of this network can be pruned"):
        shrunk(Shallow(), 4, width=0.5)
