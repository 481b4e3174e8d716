"""Small networks and data sets that train in a moment."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.data import DataConfig, Dataset
from edgekit.data.sources import Samples
from edgekit.graph.capture import capture
from edgekit.graph.program import Program


@pytest.fixture(autouse=True)
def _torch_state():
    """One thread, and torch's settings as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def dataset(tmp_path) -> Callable[..., Dataset]:
    def make(inputs: Any, targets: Any = None, **split: Any) -> Dataset:
        if not isinstance(inputs, dict):
            inputs = {"x": inputs}
        ids = [f"s{i}" for i in range(len(next(iter(inputs.values()))))]
        split = {"evaluation": 0, "calibration": 0, **split}
        return Dataset(
            Samples(inputs, targets, ids), DataConfig(npz="unused.npz", split=split), tmp_path
        )

    return make


@pytest.fixture
def program() -> Callable[..., Program]:
    def make(module: nn.Module, *shape: int, batch: Any = "batch", **options: Any) -> Program:
        size = batch if isinstance(batch, int) else 4
        example = options.pop("example", None) or {"x": torch.randn(size, *shape)}
        dynamic = {name: [batch, *t.shape[1:]] for name, t in example.items()}
        return capture(module.eval(), example, dynamic=dynamic, **options)

    return make


class Mlp(nn.Module):
    def __init__(self, inputs: int = 2, outputs: int = 2, hidden: int = 16) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.last = nn.Linear(hidden, outputs)

    def forward(self, x):
        return {"logits": self.last(torch.relu(self.norm(self.first(x))))}


@pytest.fixture
def mlp() -> type[Mlp]:
    return Mlp


@pytest.fixture
def two_moons(dataset) -> Dataset:
    """Two classes that a straight line cannot part, and a bent one can."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, np.pi, 200)
    label = np.arange(200) % 2
    x = np.stack(
        [
            np.where(label, 1 - np.cos(angle), np.cos(angle)),
            np.where(label, 0.5 - np.sin(angle), np.sin(angle)),
        ],
        axis=1,
    )
    x += rng.normal(0, 0.05, x.shape)
    return dataset(x.astype(np.float32), label.astype(np.int64))


class Everything(nn.Module):
    """Convolution, batch norm and dropout: all that training could make random."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return {"logits": self.last(self.drop(y))}


@pytest.fixture
def everything(program) -> Callable[[], Program]:
    return lambda: program(Everything(), 1, 8, 8)


@pytest.fixture
def images(dataset) -> Dataset:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 1, 8, 8)).astype(np.float32)
    return dataset(x, rng.integers(0, 3, 50))
