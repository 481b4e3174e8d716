"""Pruning against controls and against Torch-Pruning, on real images, at equal MACs.

    python benchmarks/pruning.py --work build/pruning [--seeds 3] [--peer]

The network is the demo's ResNet-8 layout (32/64/128 channels), trained on 20,000 images of
Fashion-MNIST (Debian's package dataset-fashion-mnist) and judged on the 10,000 test images, which
nothing else looks at. Settings are those that tell methods apart:

* a quarter of the MACs, no training at all;
* 6 % of the MACs and one epoch of fine-tuning, the same for everybody;
* controls: random channels, and the small network trained from scratch for one epoch, and for as
  long as the original.

Each trained original is kept in the work folder. `--peer` adds Torch-Pruning (pip install
torch-pruning), on the same originals with the same budget and the same fine-tuning.
"""

import argparse
import copy
import gzip
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "mnist-resnet8"))

from edgekit.graph import modes  # noqa: E402
from edgekit.graph.capture import capture  # noqa: E402
from edgekit.graph.program import Program, rebuild  # noqa: E402
from edgekit.prune.calibration import Calibration  # noqa: E402
from edgekit.prune.config import PruneConfig  # noqa: E402
from edgekit.prune.prune import prune  # noqa: E402
from edgekit.train.batches import Minibatch  # noqa: E402

DATA = Path("/usr/share/datasets/fashion-mnist")
TRAIN, CALIBRATION, EPOCHS = 20_000, 512, 8
QUARTER, SIX = 0.25, 0.06


def read(kind: str) -> tuple[Tensor, Tensor]:
    def raw(name: str, offset: int) -> np.ndarray:
        with gzip.open(DATA / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    images = raw(f"{kind}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    labels = raw(f"{kind}-labels-idx1-ubyte.gz", 8)
    pixels = (images.astype(np.float32) / 255 - 0.286) / 0.353
    return torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))


def fit(
    module: nn.Module,
    forward: Callable[[Tensor], Tensor],
    data: tuple[Tensor, Tensor],
    epochs: int,
    seed: int,
    rate: float = 4e-3,
) -> None:
    images, labels = data
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-2)
    steps = epochs * (len(images) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for first in range(0, len(images) - 127, 128):
            rows = order[first : first + 128]
            loss = functional.cross_entropy(forward(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def accuracy(forward: Callable[[Tensor], Tensor], data: tuple[Tensor, Tensor]) -> float:
    images, labels = data
    with torch.no_grad():
        right = [
            (forward(images[i : i + 500]).argmax(1) == labels[i : i + 500]).sum()
            for i in range(0, len(images), 500)
        ]
    return float(sum(right)) / len(images)


def original(seed: int, work: Path, data: tuple[Tensor, Tensor]) -> nn.Module:
    from model import ResNet8

    class Network(ResNet8):  # type: ignore[misc]
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image)["logits"]

    torch.manual_seed(seed)
    net = Network()
    path = work / f"original-{seed}.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
    else:
        fit(net.train(), net, data, EPOCHS, seed)
        torch.save(net.state_dict(), path)
    return net.eval()


def run(program: Program) -> Callable[[Tensor], Tensor]:
    module = program.module()
    return lambda x: module(x)[0]


def tuned(program: Program, data: tuple[Tensor, Tensor], epochs: int, seed: int) -> Program:
    module = program.module()
    modes.set_training(module, training=True)
    fit(module, lambda x: module(x)[0], data, epochs, seed)
    modes.set_training(module, training=False)
    return rebuild(module, program)


def fresh(program: Program, seed: int) -> Program:
    """The same small network with new weights."""
    torch.manual_seed(seed)
    module = program.module()
    with torch.no_grad():
        for name, value in module.named_parameters():
            if value.dim() > 1:
                nn.init.kaiming_uniform_(value, a=5**0.5)
            else:
                value.fill_(1.0 if name.endswith("weight") else 0.0)
        for name, value in module.named_buffers():
            if name.endswith("running_mean"):
                value.zero_()
            elif name.endswith("running_var"):
                value.fill_(1.0)
    return rebuild(module, program)


def statistics(program: Program, images: Tensor) -> Program:
    """Batch norm's statistics over the calibration images."""
    module = program.module()
    nodes = [n for n in module.graph.nodes if "batch_norm" in str(n.target)]
    for node in nodes:
        node.update_arg(5, True)
        node.update_arg(6, 1.0)
    module.recompile()
    with torch.no_grad():
        module(images)
    made = program.module()
    for name, value in module.named_buffers():
        if "running" in name:
            made.get_buffer(name).copy_(value)
    return rebuild(made, program)


def samples(data: tuple[Tensor, Tensor]) -> Calibration:
    images, labels = (t[:CALIBRATION] for t in data)
    batches = tuple(
        Minibatch([str(i)] * 64, (images[i : i + 64],), labels[i : i + 64])
        for i in range(0, CALIBRATION, 64)
    )
    return Calibration(
        batches,
        lambda outputs, batch: functional.cross_entropy(
            next(iter(outputs.values())), batch.targets
        ),
    )


def edgekit_rows(
    net: nn.Module,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    seed: int,
    say: Callable[..., None],
) -> None:
    program = capture(net, (train[0][:2],), dynamic=None)
    calibration = samples(train)
    for allocation in ("uniform", "global"):
        for importance in ("random", "l2", "activation", "taylor", "fisher"):
            for macs in (QUARTER, SIX):
                base = PruneConfig(
                    macs=macs, importance=importance, allocation=allocation, minimum_channels=2
                )
                began = time.perf_counter()
                plain, _ = prune(program, base, seed=seed, calibration=calibration)
                seconds = time.perf_counter() - began
                small, report = prune(
                    program,
                    base.model_copy(update={"recovery": ("least-squares",)}),
                    seed=seed,
                    calibration=calibration,
                )
                both = statistics(small, train[0][:CALIBRATION])
                about = {
                    "tool": "edgekit", "importance": importance, "allocation": allocation,
                    "macs": report.macs_after / report.macs_before, "budget": macs,
                    "seconds": seconds,
                }  # fmt: skip
                for recovery, found in (("none", plain), ("least-squares", small),
                                        ("least-squares, batch-norm", both)):  # fmt: skip
                    say(about, recovery=recovery, epochs=0, accuracy=accuracy(run(found), test))
                if macs == SIX:
                    for recovery, found in (("none", plain), ("least-squares", small)):
                        done = tuned(found, train, 1, seed)
                        say(about, recovery=recovery, epochs=1, accuracy=accuracy(run(done), test))
                if macs == SIX and importance == "l2":
                    for epochs in (1, EPOCHS):
                        done = tuned(fresh(small, seed), train, epochs, seed)
                        say(
                            {**about, "tool": "from scratch", "importance": ""},
                            recovery="none", epochs=epochs, accuracy=accuracy(run(done), test),
                        )  # fmt: skip


def peer_rows(
    net: nn.Module,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    seed: int,
    say: Callable[..., None],
) -> None:
    """Torch-Pruning's criteria, each brought to the same MACs by bisection of its ratio."""
    import torch_pruning as tp

    x = train[0][:2]
    whole, _ = tp.utils.count_ops_and_params(net, x[:1])
    criteria = {
        "random": tp.importance.RandomImportance(),
        "l2": tp.importance.GroupMagnitudeImportance(p=2),
        "bn-scale": tp.importance.BNScaleImportance(),
        "taylor": tp.importance.GroupTaylorImportance(),
        "hessian": tp.importance.GroupHessianImportance(),
    }

    def shrunk(criterion: object, name: str, ratio: float, everywhere: bool) -> nn.Module:
        torch.manual_seed(seed)
        small = copy.deepcopy(net)
        last = [m for m in small.modules() if isinstance(m, nn.Linear)]
        pruner = tp.pruner.BasePruner(
            small, x, criterion, pruning_ratio=ratio, global_pruning=everywhere,
            ignored_layers=last, max_pruning_ratio=0.95,
        )  # fmt: skip
        small.zero_grad()
        if name == "taylor":
            functional.cross_entropy(
                small(train[0][:CALIBRATION]), train[1][:CALIBRATION]
            ).backward()
        if name == "hessian":
            criterion.zero_grad()  # type: ignore[attr-defined]
            losses = functional.cross_entropy(
                small(train[0][:CALIBRATION]), train[1][:CALIBRATION], reduction="none"
            )
            for loss in losses:
                small.zero_grad()
                loss.backward(retain_graph=True)
                criterion.accumulate_grad(small)  # type: ignore[attr-defined]
        pruner.step()
        return small

    for everywhere in (False, True):
        for name, criterion in criteria.items():
            for macs in (QUARTER, SIX):
                began = time.perf_counter()
                low, high, best = 0.0, 0.99, None
                for _ in range(9 if name != "hessian" else 6):
                    middle = (low + high) / 2
                    small = shrunk(criterion, name, middle, everywhere)
                    found, _ = tp.utils.count_ops_and_params(small, x[:1])
                    if found <= macs * whole:
                        high, best = middle, (small, found / whole)
                    else:
                        low = middle
                if best is None:
                    continue
                small, share = best
                about = {
                    "tool": "Torch-Pruning", "importance": name, "macs": share, "budget": macs,
                    "allocation": "global" if everywhere else "uniform", "recovery": "none",
                    "seconds": time.perf_counter() - began,
                }  # fmt: skip
                say(about, epochs=0, accuracy=accuracy(small.eval(), test))
                if macs == SIX:
                    fit(small.train(), small, train, 1, seed)
                    say(about, epochs=1, accuracy=accuracy(small.eval(), test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", action="store_true", help="add Torch-Pruning")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/pruning.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    images, labels = read("train")
    train, test = (images[:TRAIN], labels[:TRAIN]), read("t10k")
    rows: list[dict[str, object]] = []
    for seed in range(options.seeds):
        net = original(seed, options.work, train)

        def say(about: dict[str, object], seed: int = seed, **more: object) -> None:
            rows.append({"seed": seed, **about, **more})
            print(json.dumps(rows[-1]), flush=True)
            options.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")

        say({"tool": "original", "macs": 1.0}, accuracy=accuracy(net, test))
        edgekit_rows(net, train, test, seed, say)
        if options.peer:
            peer_rows(net, train, test, seed, say)


if __name__ == "__main__":
    main()
