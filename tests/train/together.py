"""The same trainings in one process and in several: `python -m tests.train.together FOLDER`.

Each case names what a process of several does, and what one process alone does for the same step.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit.data import DataConfig, Dataset
from edgekit.data.sources import Samples
from edgekit.distill.config import DistillConfig
from edgekit.distill.distill import distill
from edgekit.graph.capture import capture
from edgekit.graph.program import Program
from edgekit.metrics import Task
from edgekit.progress import Silent
from edgekit.train.checkpoint import Keep
from edgekit.train.place import Sharded

SGD = {"optimizer": "sgd", "learning_rate": 0.2, "gradient_clip": None, "epochs": 2}
TAUGHT = {
    "label_weight": 0.5,
    "learning_rate": 0.02,
    "temperature": 1.0,
    "features": [{"loss": "hint", "weight": 0.1}],
}
SHARDED = {
    "epochs": 3, "ema": 0.5, "l1": 1e-3, "l2": 1e-3, "validation": 0.2, "patience": 1,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: (network, of several processes, of one alone)
    "plain": ("plain", {**SGD, "batch_size": 8}, {**SGD, "batch_size": 16}),
    "adamw": (
        "plain",
        {"batch_size": 8, "epochs": 2, "ema": 0.5, "l1": 1e-3, "l2": 1e-3},
        {"batch_size": 16, "epochs": 2, "ema": 0.5, "l1": 1e-3, "l2": 1e-3},
    ),
    "accumulated": (
        "plain",
        {**SGD, "batch_size": 4, "accumulate": 2},
        {**SGD, "batch_size": 16},
    ),
    "norm": ("norm", {**SGD, "batch_size": 8}, {**SGD, "batch_size": 16}),
    "moved": (
        "norm",
        {**SGD, "batch_size": 8, "augment": "shift"},
        {**SGD, "batch_size": 16, "augment": "shift"},
    ),
    "frozen": (
        "norm",
        {**SGD, "batch_size": 8, "batch_norm": "frozen"},
        {**SGD, "batch_size": 16, "batch_norm": "frozen"},
    ),
    "stopped": (
        "norm",
        {**SGD, "batch_size": 8, "validation": 0.2, "patience": 1, "epochs": 3},
        {**SGD, "batch_size": 16, "validation": 0.2, "patience": 1, "epochs": 3},
    ),
    "sharded": (
        "norm",
        {**SGD, "batch_size": 8, "parallel": "sharded", "gradient_clip": 0.05},
        {**SGD, "batch_size": 16, "gradient_clip": 0.05},
    ),
    "sharded-adamw": (
        "plain",
        {**SHARDED, "batch_size": 4, "accumulate": 2, "parallel": "sharded"},
        {**SHARDED, "batch_size": 8, "accumulate": 2},
    ),
    "sharded-taught": (
        "plain",
        {**SGD, **TAUGHT, "batch_size": 8, "parallel": "sharded"},
        {**SGD, **TAUGHT, "batch_size": 16},
    ),
    # The first layer learns from the second epoch on, the last one never.
    "sharded-thawed": (
        "norm",
        {**SGD, "batch_size": 8, "freeze": {"conv": 1, "last": None}, "parallel": "sharded"},
        {**SGD, "batch_size": 16, "freeze": {"conv": 1, "last": None}},
    ),
    "taught": (
        "norm",
        {**SGD, **TAUGHT, "batch_size": 8},
        {**SGD, **TAUGHT, "batch_size": 16},
    ),
}


class Norm(nn.Module):
    def __init__(self, norm: bool, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.last = nn.Linear(width, 3)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x)))
        return {"logits": self.last(y.mean((2, 3)))}


def network(kind: str, width: int = 4) -> Program:
    torch.manual_seed(0)
    module = Norm(kind == "norm", width).eval()
    return capture(module, {"x": torch.randn(4, 1, 6, 6)}, dynamic={"x": ["batch", 1, 6, 6]})


def data(base: Path) -> Dataset:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(53, 1, 6, 6)).astype(np.float32)
    y = rng.integers(0, 3, 53)
    x += y[:, None, None, None]
    config = DataConfig(npz="unused.npz", split={"evaluation": 0, "calibration": 0})
    return Dataset(Samples({"x": x}, y, [f"s{i}" for i in range(53)]), config, base)


def run(name: str, base: Path, *, alone: bool, **more: Any):
    kind, several, one = CASES[name]
    options = {"loss": "none", "label_weight": 1.0, **(one if alone else several)}
    if "features" in options:
        options["loss"] = "kd"
    return distill(
        network(kind),
        network(kind, width=6),
        data(base),
        Task(),
        DistillConfig(**options),
        seed=3,
        threads=1,
        **more,
    )


class Dying(Silent):
    """Ends a training after some batches."""

    @contextmanager
    def task(self, description: str, total: float | None) -> Iterator[Any]:
        del total
        yield SimpleNamespace(advance=self.advance if description == "train" else print)

    def __init__(self, batches: int) -> None:
        self.left = batches

    def advance(self, amount: float, *, detail: str = "") -> None:
        del amount, detail
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


RESUMED = {"sharded-adamw": 9, "sharded-taught": 5, "sharded-thawed": 5}
"""After how many batches a training dies, in its second epoch."""


def resumed(name: str, out: Path) -> dict[str, torch.Tensor]:
    """The weights of a training that died in its second epoch and went on."""
    keep = Keep(state=out / f"{name}.state", every_s=0)
    with suppress(KeyboardInterrupt):
        run(name, out, alone=False, keep=keep, progress=Dying(RESUMED[name]))
    program, history, _ = run(name, out, alone=False, keep=keep)
    assert history.resumed_at > 0
    return program.exported.state_dict


def main() -> None:
    out = Path(sys.argv[1])
    cut, shard = [0, 0], Sharded.shard

    def counted(self: Sharded, network: nn.Module) -> None:
        cut[1] = sum(p.numel() for p in network.parameters())
        shard(self, network)
        cut[0] = sum(p.to_local().numel() for p in network.parameters())  # type: ignore[attr-defined]

    Sharded.shard = counted  # type: ignore[method-assign]
    for name in CASES:
        program, history, _ = run(name, out, alone=False)
        arrays = {k: v.detach().numpy() for k, v in program.exported.state_dict.items()}
        rank = torch.distributed.get_rank()
        if name in RESUMED:
            again = resumed(name, out)
            for key, value in program.exported.state_dict.items():
                torch.testing.assert_close(again[key], value, rtol=0, atol=0)
        losses = [e.loss for e in history.epochs]
        np.savez(out / f"{name}-{rank}.npz", **arrays, _losses=losses, _cut=cut)


if __name__ == "__main__":
    main()
