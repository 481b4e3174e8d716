"""Layers are paired by name, by pattern, or by edgekit."""

import pytest
import torch
from torch import nn

from edgekit.distill.config import LayerPair
from edgekit.distill.pairing import pair
from edgekit.errors import UsageError
from edgekit.prune.config import PruneConfig
from edgekit.prune.prune import prune


class Stages(nn.Module):
    """A small residual network's layout: a stage halves the resolution."""

    def __init__(self, depth: int = 2, stages: int = 2, name: str = "stages") -> None:
        super().__init__()
        blocks, width = [], 1
        for i in range(stages):
            for j in range(depth):
                out = 8 * (i + 1)
                blocks.append(nn.Sequential(nn.Conv2d(width, out, 3, 1 if j else 2, 1), nn.ReLU()))
                width = out
        self.name = name
        setattr(self, name, nn.Sequential(*blocks))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return {"logits": self.head(getattr(self, self.name)(x).mean((2, 3)))}


class Encoder(nn.Module):
    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return {"logits": self.head(x.mean(1))}


def names(pairs):
    return [(a.name, b.name) for a, b in pairs]


@pytest.fixture
def net(program):
    return lambda **options: program(Stages(**options), 1, 16, 16)


def test_a_pruned_network_pairs_with_its_original_by_name(net) -> None:
    whole = net()
    pruned, _ = prune(whole, PruneConfig(sparsity=0.5), seed=0)
    found = pair(pruned, whole)
    assert names(found) == [("stages.1", "stages.1"), ("stages", "stages")]
    assert [(a.channels, b.channels) for a, b in found] == [(4, 8), (8, 16)]


def test_others_pair_by_resolution(net) -> None:
    found = pair(net(depth=1, name="body"), net(depth=3))
    assert names(found) == [("body.0", "stages.2"), ("body", "stages")]


def test_a_shallow_encoder_pairs_by_depth(program) -> None:
    student, teacher = program(Encoder(2, 4), 6, 3), program(Encoder(6, 8), 6, 3)
    # A sibling's names are its parent's first ones, which says nothing of their depth.
    assert names(pair(student, teacher)) == [
        ("layers.0", "layers.2"),
        ("layers.1", "layers.5"),
    ]

    class Other(Encoder):
        def __init__(self) -> None:
            super().__init__(3, 4)
            self.blocks, self.start, self.end = self.layers, self.embed, self.head
            del self.layers, self.embed, self.head

        def forward(self, x):
            x = self.start(x)
            for layer in self.blocks:
                x = x + torch.tanh(layer(x))
            return {"logits": self.end(x.mean(1))}

    assert names(pair(program(Other(), 6, 3), teacher)) == [
        ("blocks.0", "layers.1"),
        ("blocks.1", "layers.3"),
        ("blocks.2", "layers.5"),
    ]


def test_by_name_pattern_and_pair(net) -> None:
    student, teacher = net(), net(depth=3)
    assert names(pair(student, teacher, ["stages.0"])) == [("stages.0", "stages.0")]
    assert names(pair(student, teacher, ["stages.?"])) == [
        (f"stages.{i}", f"stages.{i}") for i in range(4)
    ]
    crossed = LayerPair(student="stages.1", teacher="stages.2")
    assert names(pair(student, teacher, [crossed, crossed])) == [("stages.1", "stages.2")]


@pytest.mark.parametrize(
    ("layers", "message", "near"),
    [
        (["stage.0"], "layers: stage.0` matches no layer of the student", "stages.0"),
        (["stage.*"], "layers: stage.*` matches no layer of the student", "stages"),
        (["stages.3"], "layers: stages.3` matches no layer of the teacher", "stages.1"),
        (["stages.3*"], r"layers: stages.3*` matches no layer of the teacher", "stages.0"),
        (
            [LayerPair(student="stages.1", teacher="body.1")],
            "layers: body.1` matches no layer of the teacher",
            "stages.1",
        ),
    ],
)
def test_a_tap_that_matches_nothing_names_the_near_ones(net, layers, message, near) -> None:
    with pytest.raises(UsageError) as e:
        pair(net(), net(depth=1), layers)
    assert message in e.value.message
    assert near in e.value.hint


def test_networks_without_layers_inside(program) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Linear(2, 2)

        def forward(self, x):
            return {"logits": self.only(x)}

    flat = program(Flat(), 2)
    with pytest.raises(UsageError, match="no layers inside"):
        pair(flat, flat)
