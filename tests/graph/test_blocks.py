"""Residual blocks are found in the graph, and left out as if the module had been built so."""

import pytest
import torch
from torch import nn

from edgekit.errors import UsageError
from edgekit.graph.blocks import find_stages, keep_blocks
from edgekit.graph.capture import capture
from edgekit.graph.cost import cost


class Block(nn.Module):
    def __init__(self, width: int, plain: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.plain = plain

    def forward(self, x):
        y = self.norm(self.conv(x))
        return torch.relu(y if self.plain else y + x)


class Stages(nn.Module):
    def __init__(self, first: int = 4, second: int = 3, plain: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.first = nn.Sequential(*[Block(4, plain) for _ in range(first)])
        self.down = nn.Conv2d(4, 6, 1, stride=2)
        self.second = nn.Sequential(*[Block(6, plain) for _ in range(second)])
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        y = self.first(torch.relu(self.stem(x)))
        return self.head(self.second(torch.relu(self.down(y))).mean((2, 3)))


class Words(nn.Module):
    """Masked, and the mask is made ready inside each layer."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, ids, mask):
        return self.encoder(self.embedding(ids), src_key_padding_mask=mask)


def program_of(module: nn.Module, **example: torch.Tensor):
    torch.manual_seed(0)
    for value in module.parameters():
        nn.init.normal_(value, std=0.3)
    example = example or {"x": torch.randn(2, 1, 8, 8)}
    return capture(module.eval(), example, dynamic=None)


@pytest.fixture(scope="module")
def stages():
    module = Stages()
    return module, program_of(module)


def test_each_stage_of_blocks_is_found_by_its_layers(stages) -> None:
    found = find_stages(stages[1].module())
    assert [stage.layers for stage in found] == [
        ("first.0", "first.1", "first.2", "first.3"),
        ("second.0", "second.1", "second.2"),
    ]


@pytest.mark.parametrize(
    ("share", "first", "second"),
    [(0.5, (0, 3), (0, 2)), (0.7, (0, 2, 3), (0, 2)), (0.1, (0,), (0,))],
)
def test_what_is_left_computes_what_the_module_without_the_blocks_does(
    stages, share, first, second
) -> None:
    module, program = stages
    small, gone = keep_blocks(program, share)
    assert len(gone) == 7 - len(first) - len(second)
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        y = torch.relu(module.stem(x))
        for i in first:
            y = module.first[i](y)
        y = torch.relu(module.down(y))
        for i in second:
            y = module.second[i](y)
        expected = module.head(y.mean((2, 3)))
        torch.testing.assert_close(small.module()(x)[0], expected, rtol=0, atol=0)
    left = {f"first.{i}" for i in first} | {f"second.{i}" for i in second}
    names = {
        ".".join(n.split(".")[:2])
        for n in small.exported.state_dict
        if n[0] in "f" or "second" in n
    }
    assert names == left  # the others' weights are gone
    assert cost(small).parameters < cost(program).parameters


def test_a_transformer_loses_whole_layers_and_keeps_its_mask() -> None:
    module = Words(3)
    ids, mask = torch.randint(0, 20, (3, 5)), torch.zeros(3, 5, dtype=torch.bool)
    mask[:, 3:] = True
    program = program_of(module, ids=ids, mask=mask)
    assert [len(stage) for stage in find_stages(program.module())] == [3]
    small, gone = keep_blocks(program, 0.5)
    assert gone == ["encoder.layers.1"]
    with torch.no_grad():
        y = module.embedding(ids)
        for i in (0, 2):
            y = module.encoder.layers[i](y, src_key_padding_mask=mask)
        torch.testing.assert_close(small.module()(ids, mask)[0], y, rtol=1e-5, atol=1e-6)
    # Each layer has dropout, which must not keep the block that is left out.
    assert not [name for name in small.exported.state_dict if name.startswith(gone[0])]
    kept = Words(2)
    wanted, found = cost(program_of(kept, ids=ids, mask=mask)), cost(small)
    assert (found.macs, found.parameters) == (wanted.macs, wanted.parameters)


@pytest.mark.parametrize(
    "module", [Stages(1, 1), Stages(4, 4, plain=True)], ids=["alone", "not residual"]
)
def test_a_network_without_repeated_residual_blocks_is_refused(module) -> None:
    with pytest.raises(UsageError, match="no two residual blocks of one form in a row") as caught:
        keep_blocks(program_of(module), 0.5)
    assert "width" in caught.value.hint


def test_a_share_that_leaves_everything_is_refused(stages) -> None:
    with pytest.raises(UsageError, match=r"leaves all blocks where they are.*4, 3"):
        keep_blocks(stages[1], 0.95)
