"""Small networks that the lowering tests export; captured once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from edgekit.graph.capture import capture
from edgekit.graph.program import Program
from edgekit.lower.export import export_onnx


class Residual(nn.Module):
    """Two residual blocks on grey images, the second one strided, as in a ResNet-8."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.a = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.a_norm = nn.BatchNorm2d(width)
        self.b = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.short = nn.Conv2d(width, 2 * width, 1, stride=2)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(image)))
        x = F.relu(self.a_norm(self.a(x)) + x)
        x = F.relu(self.b(x) + self.short(x))
        return self.head(x.mean((2, 3)))


def enliven(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norm statistics that a fold must get right."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.copy_(torch.randn(part.num_features, generator=generator))
                part.running_var.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
                part.weight.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
                part.bias.copy_(torch.randn(part.num_features, generator=generator))
    return module.eval()


@pytest.fixture
def lively() -> Callable[[nn.Module], nn.Module]:
    return enliven


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def residual() -> Program:
    torch.manual_seed(0)
    return capture(enliven(Residual()), (torch.randn(2, 1, 12, 12),))


@pytest.fixture(scope="session")
def residual_onnx(residual: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(residual, path)
    return path
