"""A small residual network and a depthwise one, as float32 ONNX files, and data to calibrate on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from edgekit import target
from edgekit.graph.capture import capture
from edgekit.lower.export import export_onnx
from edgekit.target import IntegerScheme

Batches = Callable[..., Iterator[dict[str, np.ndarray]]]
SHAPE = (1, 12, 12)


class Residual(nn.Module):
    """A residual block with an identity skip, one with a convolution there, a depthwise end."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.a = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.b = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.short = nn.Conv2d(width, 2 * width, 1, stride=2)
        self.wise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.head = nn.Linear(2 * width, 10)
        nn.init.zeros_(self.stem.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.stem(image))
        x = F.relu(self.a(x) + x)
        x = F.relu(self.b(x) + self.short(x))
        return self.head(F.relu(self.wise(x)).mean((2, 3)))


class Fork(nn.Module):
    """Two branches that a Concat joins, a SiLU, and an upsampling with weights."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, width, 3, padding=1)
        self.b = nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.joined = nn.Conv2d(2 * width, width, 3, padding=1)
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        a = F.silu(self.a(image))
        u = F.relu(self.up(F.relu(self.b(F.max_pool2d(a, 2)))))
        return torch.sigmoid(self.out(F.relu(self.joined(torch.cat([a, u], 1)))))


def write(module: nn.Module, path: Path) -> Path:
    torch.set_num_threads(1)
    export_onnx(capture(module.eval(), (torch.randn(2, *SHAPE),)), path)
    return path


@pytest.fixture(scope="session")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return write(Residual(), tmp_path_factory.mktemp("residual") / "model.onnx")


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return write(Fork(), tmp_path_factory.mktemp("fork") / "model.onnx")


@pytest.fixture(scope="session")
def batches() -> Batches:
    """A stream of images: batches(count, size)."""

    def stream(count: int = 3, size: int = 8) -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(5)
        for _ in range(count):
            yield {"image": rng.standard_normal((size, *SHAPE)).astype(np.float32)}

    return stream


@pytest.fixture(scope="session")
def schemes() -> dict[str, IntegerScheme]:
    found = [target.load(name).int8 for name in target.names()]
    return {s.name: s for s in found if s is not None}
