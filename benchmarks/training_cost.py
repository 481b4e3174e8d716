"""What edgekit's trainer costs over plain torch: one epoch each, turn by turn.

Three loops take the same batches of random images through a ResNet-8: edgekit's trainer, a plain
loop over the captured graph in training mode, and the same plain loop over the eager module. Each
round runs all three; the order turns. Figures are medians over rounds, with the range of the
rounds' ratios.

    python benchmarks/training_cost.py [ROUNDS] > benchmarks/results/training_cost.json
"""

import json
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekit.data import DataConfig, Dataset
from edgekit.data.sources import Samples
from edgekit.graph import modes
from edgekit.graph.capture import capture
from edgekit.metrics import Task
from edgekit.train.batches import Batches
from edgekit.train.config import TrainConfig
from edgekit.train.layout import fast_inputs, fast_layout
from edgekit.train.optimize import make_optimizer
from edgekit.train.reproducible import reproducible
from edgekit.train.trainer import train

SAMPLES, BATCH = 1024, 64


class Block(nn.Module):
    """A residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.short = nn.Identity() if inputs == outputs else short

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output, shape (n, outputs, h/stride, w/stride)."""
        return torch.relu(self.body(x) + self.short(x))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, 1, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Block(32, 32, 1),
        Block(32, 64, 2),
        Block(64, 128, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def plain(module: nn.Module, batches: Batches, config: TrainConfig) -> None:
    """The loop that one writes by hand."""
    optimizer = make_optimizer(module, config)
    for _, batch in batches.epoch(1):
        optimizer.zero_grad(set_to_none=True)
        found = module(*fast_inputs(batch.inputs))
        logits = found[0] if isinstance(found, tuple) else found
        nn.functional.cross_entropy(logits, batch.targets).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, 1, 28, 28)).astype(np.float32)
    samples = Samples({"input": x}, rng.integers(0, 10, SAMPLES), list(map(str, range(SAMPLES))))
    split = {"evaluation": 0, "calibration": 0}
    data = Dataset(samples, DataConfig(npz="random.npz", split=split), Path())
    config = TrainConfig(epochs=1, batch_size=BATCH)
    program = capture(
        network().eval(),
        {"input": torch.zeros(2, 1, 28, 28)},
        dynamic={"input": ["batch", 1, 28, 28]},
    )
    batches = Batches(program, data, Task(), config, seed=0)

    def by_edgekit() -> float:
        _, history = train(program, data, Task(), config, seed=0, threads=1)
        return history.epochs[0].seconds

    def by_hand(module: nn.Module) -> float:
        fast_layout(module)
        with reproducible(0, 1):
            start = time.perf_counter()
            plain(module, batches, config)
            return time.perf_counter() - start

    def graph() -> float:
        module = program.module()
        modes.set_training(module, training=True)
        return by_hand(module)

    ways = {"edgekit": by_edgekit, "graph": graph, "eager": lambda: by_hand(network().train())}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):  # the first warms up
        names = list(ways)
        for name in names[turn % 3 :] + names[: turn % 3]:
            taken = ways[name]()
            if turn:
                seconds[name].append(taken)

    def ratio(a: str, b: str) -> dict[str, float]:
        each = [p / q for p, q in zip(seconds[a], seconds[b], strict=True)]
        return {
            "median": round(statistics.median(each), 4),
            "low": round(min(each), 4),
            "high": round(max(each), 4),
        }

    report = {
        "network": "ResNet-8 (32/64/128), 28x28",
        "samples": SAMPLES,
        "batch_size": BATCH,
        "threads": 1,
        "rounds": rounds,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "median_s": {name: round(statistics.median(s), 4) for name, s in seconds.items()},
        "edgekit_over_graph": ratio("edgekit", "graph"),
        "graph_over_eager": ratio("graph", "eager"),
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
