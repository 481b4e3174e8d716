"""Pruning against controls and against Torch-Pruning, on real images, at equal MACs.

    python benchmarks/pruning.py --work build/pruning [--seeds 3] [--network resnet8]

`benchmarks/fashion.py` has the data, the networks and the training: a ResNet-8 layout (32/64/128
channels) and a depthwise CNN on 20,000 images of Fashion-MNIST, judged on its 10,000 test images.
The settings are those that tell methods apart:

* a quarter of the MACs, no training at all;
* 6 % of the MACs and one epoch of fine-tuning, the same for everybody;
* controls: random channels, and the small network trained from scratch for one epoch, and for as
  long as the original.

Torch-Pruning (pip install torch-pruning) prunes the same originals; each of its criteria is brought
to the same MACs by bisection of its ratio, and gets the same gradients and the same fine-tuning.
Without it, its rows are left out. Rows that the results file has already are not measured again.
"""

import argparse
import contextlib
import copy
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fashion
import torch
from fashion import Data
from torch import nn
from torch.nn import functional

from edgekit.graph.capture import capture
from edgekit.graph.program import Program
from edgekit.prune.config import PruneConfig
from edgekit.prune.prune import prune

QUARTER, SIX = 0.25, 0.06
FIT = ("least-squares",)
OURS = (
    ("random", "uniform", ()),
    ("random", "uniform", FIT),
    ("l2", "uniform", ()),
    ("l2", "uniform", FIT),
    ("reconstruction", "uniform", FIT),
    ("reconstruction", "sensitivity", FIT),
)
THEIRS = ("random", "l2", "bn-scale", "taylor", "hessian")
BISECTIONS = 12
Row = dict[str, Any]


@dataclass
class Results:
    """Rows, kept in a file after each one.

    Attributes:
        path: of the file.
        rows: so far.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path.exists():
            self.rows = json.loads(self.path.read_text())["rows"]

    def has(self, **about: object) -> bool:
        """Whether there is a row that says all this."""
        return any(all(row.get(k) == v for k, v in about.items()) for row in self.rows)

    def add(self, **row: object) -> None:
        """Keep a row, and print it."""
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        text = json.dumps({"versions": versions(), "rows": self.rows, "means": means(self.rows)})
        self.path.write_text(text.replace('{"network"', '\n{"network"') + "\n")


@dataclass(frozen=True)
class Setting:
    """One trained original and what it is pruned and judged with."""

    network: str
    seed: int
    net: nn.Module
    train: Data
    test: Data
    results: Results
    ours: tuple[tuple[str, str, tuple[str, ...]], ...]
    criteria: tuple[str, ...]


def versions() -> Row:
    """What measured."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"torch": torch.__version__}
    with contextlib.suppress(PackageNotFoundError):
        found["torch-pruning"] = version("torch-pruning")
    return found


def means(rows: list[Row]) -> list[Row]:
    """Mean and spread of the accuracy over seeds."""
    keys = ("network", "tool", "importance", "allocation", "recovery", "budget", "epochs")
    by: dict[tuple[object, ...], list[float]] = {}
    for row in rows:
        by.setdefault(tuple(row.get(k) for k in keys), []).append(row["accuracy"])
    return [
        {
            **dict(zip(keys, key, strict=True)),
            "seeds": len(found),
            "accuracy": round(statistics.mean(found), 4),
            "lowest": min(found),
            "highest": max(found),
        }
        for key, found in by.items()
    ]


def edgekit_rows(at: Setting) -> None:
    """What edgekit leaves by each way of pruning, at both budgets."""
    program = capture(at.net, (at.train[0][:2],), dynamic=None)
    for importance, allocation, recovery in at.ours:
        for budget in (QUARTER, SIX):
            edgekit_row(at, program, importance, allocation, budget, recovery)


def edgekit_row(
    at: Setting,
    program: Program,
    importance: str,
    allocation: str,
    budget: float,
    recovery: tuple[str, ...],
) -> None:
    """One way of pruning: at once, and at the small budget after an epoch."""
    about = {
        "network": at.network, "seed": at.seed, "tool": "edgekit", "importance": importance,
        "allocation": allocation, "recovery": " ".join(recovery) or "none", "budget": budget,
    }  # fmt: skip
    if at.results.has(**about, epochs=1 if budget == SIX else 0):
        return
    config = PruneConfig(
        macs=budget, importance=importance, allocation=allocation, minimum_channels=2,
        recovery=recovery,
    )  # fmt: skip
    began = time.process_time()
    small, report = prune(program, config, seed=at.seed, calibration=fashion.samples(at.train))
    more = {
        "macs": round(report.macs_after / report.macs_before, 5),
        "cpu_seconds": round(time.process_time() - began, 2),
        "widths": [group.after for group in report.groups],
    }
    if not at.results.has(**about, epochs=0):
        found = fashion.accuracy(fashion.run(small), at.test)
        at.results.add(**about, epochs=0, accuracy=found, **more)
    if budget == SIX:
        done = fashion.tuned(small, at.train, 1, at.seed)
        found = fashion.accuracy(fashion.run(done), at.test)
        at.results.add(**about, epochs=1, accuracy=found, **more)
        if allocation == "sensitivity":
            scratch_rows(at, small, allocation, more["macs"])


def scratch_rows(at: Setting, small: Program, allocation: str, macs: float) -> None:
    """The control: a network of the same widths with new weights."""
    for epochs in (1, fashion.EPOCHS):
        about = {
            "network": at.network, "seed": at.seed, "tool": "from scratch",
            "allocation": allocation, "budget": SIX, "epochs": epochs,
        }  # fmt: skip
        if not at.results.has(**about):
            done = fashion.tuned(fashion.fresh(small, at.seed), at.train, epochs, at.seed)
            found = fashion.accuracy(fashion.run(done), at.test)
            at.results.add(**about, accuracy=found, macs=macs)


def gradients(net: nn.Module, data: Data) -> dict[str, list[torch.Tensor]]:
    """Of the calibration images' loss: of the mean, and the mean of single images' squared."""
    images, labels = (t[: fashion.CALIBRATION] for t in data)
    parameters = list(net.parameters())
    mean = torch.autograd.grad(functional.cross_entropy(net(images), labels), parameters)
    squared = [torch.zeros_like(p) for p in parameters]
    for image, label in zip(images, labels, strict=True):
        loss = functional.cross_entropy(net(image[None]), label[None])
        for total, found in zip(squared, torch.autograd.grad(loss, parameters), strict=True):
            total += found.square() / len(images)
    return {"taylor": list(mean), "hessian": squared}


def peer_rows(at: Setting) -> None:
    """Torch-Pruning's criteria, with one ratio for all layers and with a global ranking."""
    import torch_pruning as tp

    looked: dict[str, list[torch.Tensor]] = {}
    for allocation in ("uniform", "global"):
        for name in at.criteria:
            for budget in (QUARTER, SIX):
                about = {
                    "network": at.network, "seed": at.seed, "tool": "Torch-Pruning",
                    "importance": name, "allocation": allocation, "recovery": "none",
                    "budget": budget,
                }  # fmt: skip
                if at.results.has(**about, epochs=1 if budget == SIX else 0):
                    continue
                looked = looked or gradients(at.net, at.train)
                began = time.process_time()
                found = bisected(tp, at, name, allocation == "global", budget, looked)
                if found is None:
                    at.results.add(**about, epochs=0, accuracy=float("nan"), macs=None)
                    continue
                small, share = found
                more = {
                    "macs": round(share, 5),
                    "cpu_seconds": round(time.process_time() - began, 2),
                }
                if not at.results.has(**about, epochs=0):
                    right = fashion.accuracy(small.eval(), at.test)
                    at.results.add(**about, epochs=0, accuracy=right, **more)
                if budget == SIX:
                    # The fast layout crashes torch 2.13 (double free) on some of these widths.
                    fashion.fit(small.train(), small, at.train, 1, at.seed, fast=False)
                    right = fashion.accuracy(small.eval(), at.test)
                    at.results.add(**about, epochs=1, accuracy=right, **more)


def bisected(
    tp: Any,
    at: Setting,
    name: str,
    everywhere: bool,
    budget: float,
    looked: dict[str, list[torch.Tensor]],
) -> tuple[nn.Module, float] | None:
    """The largest network that a criterion leaves within the budget, and its share of the MACs."""
    x = at.train[0][:1]
    whole, _ = tp.utils.count_ops_and_params(at.net, x)
    low, high, best = 0.0, 1.0, None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        small = peer_pruned(tp, at, name, middle, everywhere, looked)
        found, _ = tp.utils.count_ops_and_params(small, x)
        if found <= budget * whole:
            high, best = middle, (small, found / whole)
        else:
            low = middle
    return best


def peer_pruned(
    tp: Any,
    at: Setting,
    name: str,
    ratio: float,
    everywhere: bool,
    looked: dict[str, list[torch.Tensor]],
) -> nn.Module:
    """What Torch-Pruning leaves of the network at one ratio."""
    torch.manual_seed(at.seed)
    small = copy.deepcopy(at.net)
    criterion = {
        "random": tp.importance.RandomImportance,
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "bn-scale": tp.importance.BNScaleImportance,
        "taylor": tp.importance.GroupTaylorImportance,
        "hessian": tp.importance.GroupHessianImportance,
    }[name]()
    pruner = tp.pruner.BasePruner(
        small, at.train[0][:2], criterion, pruning_ratio=ratio, global_pruning=everywhere,
        ignored_layers=[m for m in small.modules() if isinstance(m, nn.Linear)],
        max_pruning_ratio=0.95,
    )  # fmt: skip
    # Its Hessian criterion would sum squared gradients by itself, but keeps the last sample's only
    # (its dictionary is asked by name and filled by parameter): it is given the sums.
    for parameter, gradient in zip(small.parameters(), looked.get(name, ()), strict=False):
        parameter.grad = gradient.clone()
    pruner.step()
    for parameter in small.parameters():
        parameter.grad = None
    return small


def settings(options: argparse.Namespace, results: Results) -> Iterator[Setting]:
    """Every network and seed, trained."""
    train, test = fashion.splits()
    for network in options.network:
        for seed in options.seed or range(options.seeds):
            net = fashion.original(network, seed, options.work, train)
            about = {"network": network, "seed": seed, "tool": "original"}
            if not results.has(**about):
                right = fashion.accuracy(net, test)
                results.add(**about, macs=1.0, accuracy=right, epochs=fashion.EPOCHS)
            chosen = options.importance or {way[0] for way in OURS}
            ours = tuple(way for way in OURS if way[0] in chosen)
            criteria = tuple(options.criterion or THEIRS)
            yield Setting(network, seed, net, train, test, results, ours, criteria)


def main() -> None:
    """Measure what the results file does not have yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where originals are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, action="append", help="this one only")
    parser.add_argument("--network", action="append", choices=list(fashion.NETWORKS))
    parser.add_argument("--tool", action="append", choices=["edgekit", "torch-pruning"])
    parser.add_argument(
        "--importance", action="append", help="of edgekit's, this one only; may be repeated"
    )
    parser.add_argument(
        "--criterion", action="append", choices=THEIRS, help="of Torch-Pruning's, likewise"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=fashion.ROOT / "benchmarks/results/pruning.json"
    )
    options = parser.parse_args()
    options.network = options.network or list(fashion.NETWORKS)
    torch.set_num_threads(options.threads)
    tools: dict[str, Callable[[Setting], None]] = {"edgekit": edgekit_rows}
    try:
        import torch_pruning  # noqa: F401

        tools["torch-pruning"] = peer_rows
    except ImportError:
        print("Torch-Pruning is not installed: its rows are left out.")
    for at in settings(options, Results(options.out)):
        for name, rows in tools.items():
            if not options.tool or name in options.tool:
                rows(at)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
