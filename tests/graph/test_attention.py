"""Attention in three and five dimensions becomes ONNX as in four, masks and dynamic sizes too."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from edgekit.graph.attention import in_four_dimensions
from edgekit.graph.capture import capture
from edgekit.lower.export import export_onnx


class Windows(nn.Module):
    """Attention within windows, as in Hiera: (batch, heads, windows, positions, head size)."""

    def __init__(self, mask: str) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        shape = {"none": (), "pair": (3, 3), "window": (2, 3, 3), "heads": (1, 2, 1, 3, 3)}[mask]
        self.register_buffer("mask", torch.randn(shape) if shape else None)
        self.causal = mask == "none"

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (t.unflatten(1, (2, 3)).unflatten(-1, (2, 4)).movedim(3, 1) for t in parts)
        y = F.scaled_dot_product_attention(q, k, v, self.mask, is_causal=self.causal)
        return y.movedim(1, 3).flatten(3).flatten(1, 2)


class OneHead(nn.Module):
    """Attention without a dimension of heads."""

    def __init__(self, mask: str) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.register_buffer("mask", torch.randn(2, 6, 6).gt(0)[:1] if mask == "bool" else None)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        mask = None
        if self.mask is not None:
            mask = self.mask | torch.eye(6, dtype=torch.bool)
        return F.scaled_dot_product_attention(q, k, v, mask, scale=0.3)


class Around(nn.Module):
    """Gives the attention a place in a network."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x))


@pytest.mark.parametrize("mask", ["none", "pair", "window", "heads"])
def test_five_dimensions(mask: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = capture(Around(Windows(mask)).eval(), (torch.randn(2, 6, 8),))
    report = export_onnx(program, tmp_path / "model.onnx", atol=1e-5, rtol=1e-4)
    assert report.checked_batches == (1, 2, 5)
    assert {"attention", "attention.qkv", "head"} <= set(report.names.values())


@pytest.mark.parametrize("mask", ["none", "bool"])
def test_three_dimensions(mask: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = capture(OneHead(mask).eval(), (torch.randn(2, 6, 8),))  # it is the output itself
    report = export_onnx(program, tmp_path / "model.onnx", atol=1e-5, rtol=1e-4)
    assert report.checked_batches == (1, 2, 5)


def test_two_dynamic_sizes(tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Pairs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x + 1, 2 * x)

    program = capture(
        Pairs().eval(), (torch.randn(2, 3, 2, 6, 8),), dynamic={"x": ("a", "b", 2, 6, 8)}
    )
    report = export_onnx(program, tmp_path / "model.onnx", atol=1e-5, rtol=1e-4)
    assert any("[1, 3," in shape for shape in report.checked)
    assert any("[2, 4," in shape for shape in report.checked)


def test_the_program_itself_stays_as_it_is() -> None:
    program = capture(OneHead("none").eval(), (torch.randn(2, 6, 8),))
    before = str(program.exported.graph)
    made = in_four_dimensions(program.exported)
    assert str(program.exported.graph) == before
    assert made is not program.exported
    four = capture(Around(nn.Identity()).eval(), (torch.randn(2, 6, 8),)).exported
    assert in_four_dimensions(four) is four
