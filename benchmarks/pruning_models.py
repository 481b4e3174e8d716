"""edgekit and Torch-Pruning side by side on whole architectures: success, seconds, MACs removed.

    python benchmarks/pruning_models.py [--only resnet18]      (needs torchvision, torch-pruning)

Each network, with random weights, loses half of its channels in every layer (each tool with its
defaults and L2; the last layer's outputs stay). MACs of both results are counted by the same
counter (PyTorch's FlopCounterMode). Both results then pass one check that knows nothing of either
tool: every weight is a distinct random number, so the rows and columns that a smaller tensor kept
are found by value; the original with all others set to zero must say what the smaller network says.
Where a normalisation runs over removed channels (layer norm) zero means something else, and the
check says nothing: `null`. Each network runs in a process of its own; networks that the results
file has already are not measured again.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).parent
SPARSITY = 0.5
TOLERANCE = 1e-6  # relative, in float64
TORCHVISION = (
    "resnet18",
    "mobilenet_v3_small",
    "densenet121",
    "shufflenet_v2_x1_0",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
)


class Tagger(nn.Module):
    """An embedding, two bidirectional LSTM layers, a word for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 64)
        self.lstm = nn.LSTM(64, 128, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(256, 12)

    def forward(self, ids: Tensor) -> Tensor:
        """Tags of token ids, shape (n, steps, 12)."""
        return self.head(self.lstm(self.embedding(ids))[0])


class Conv(nn.Sequential):
    """Convolution, batch norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(),
        )


class C2f(nn.Module):
    """YOLOv8's block: half of the channels go through bottlenecks, every stage is concatenated."""

    def __init__(self, inputs: int, outputs: int, count: int) -> None:
        super().__init__()
        half = outputs // 2
        self.first = Conv(inputs, outputs, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(Conv(half, half, 3), Conv(half, half, 3)) for _ in range(count)
        )
        self.last = Conv((2 + count) * half, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, outputs, h, w)."""
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.last(torch.cat(parts, 1))


def yolo_backbone() -> nn.Module:
    """Two C2f stages and a classifier."""
    return nn.Sequential(
        Conv(3, 32, 3, 2),
        C2f(32, 64, 2),
        Conv(64, 128, 3, 2),
        C2f(128, 128, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A network whose weights are all distinct, float64, and an input."""
    torch.manual_seed(0)
    if name == "lstm-tagger":
        net, x = Tagger(), torch.randint(0, 100, (2, 20))
    elif name == "c2f":
        net, x = yolo_backbone(), torch.randn(2, 3, 64, 64).double()
    else:
        import torchvision

        net = torchvision.models.get_model(name, weights=None)
        x = torch.randn(1, 3, 224, 224).double()
    net = net.double().eval()
    with torch.no_grad():
        for value in net.parameters():
            if value.dim() == 1 or float(value.std()) == 0:
                value.add_(torch.rand_like(value) * 0.2)
            else:
                value.mul_(1 + 0.01 * torch.rand_like(value))
        for key, value in net.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                value.add_(torch.rand_like(value) * 0.2)
    return net, x


def macs(forward: Callable[[Tensor], Any], x: Tensor) -> int:
    """Multiply-accumulates of one call, by PyTorch's counter."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward(x)
    return int(counter.get_total_flops()) // 2


def kept(large: Tensor, small: Tensor) -> list[Tensor]:
    """Which indices of each axis a smaller tensor has kept, found by value."""
    place = {value: i for i, value in enumerate(large.flatten().tolist())}
    found = torch.tensor([place[v] for v in small.flatten().tolist()]).reshape(small.shape)
    index = torch.unravel_index(found, large.shape)
    return [
        part.movedim(axis, 0).reshape(part.shape[axis], -1)[:, 0] for axis, part in enumerate(index)
    ]


def masked(net: nn.Module, smaller: dict[str, Tensor]) -> nn.Module:
    """The original, with everything zero that the smaller network does not have."""
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for name, value in twin.named_parameters():
            keep = torch.ones_like(value, dtype=torch.bool)
            for axis, indices in enumerate(kept(value, smaller[name])):
                mask = torch.zeros(value.shape[axis], dtype=torch.bool)
                mask[indices] = True
                keep &= mask.view([-1 if a == axis else 1 for a in range(value.dim())])
            value.mul_(keep)
    return twin


def disagreement(
    net: nn.Module, x: Tensor, state: dict[str, Tensor], forward: Callable[[Tensor], Any]
) -> float | None:
    """Largest difference from the masked original over its largest output; None: cannot be said."""
    if any(isinstance(m, nn.LayerNorm) for m in net.modules()):
        return None
    with torch.no_grad():
        expected, found = masked(net, state)(x), forward(x)
    return float((expected - found).abs().max() / expected.abs().max())


def by_edgekit(net: nn.Module, x: Tensor) -> tuple[Callable[[Tensor], Any], dict[str, Tensor], Any]:
    """The pruned network, its weights, and what edgekit's own proof says."""
    from edgekit.graph.capture import capture
    from edgekit.prune.config import PruneConfig
    from edgekit.prune.prune import prune

    program = capture(net, (x,), dynamic=None)
    small, report = prune(program, PruneConfig(sparsity=SPARSITY, minimum_channels=1), seed=0)
    module = small.module()
    return lambda t: module(t)[0], dict(module.named_parameters()), report.zero_mask_max_error


def by_peer(net: nn.Module, x: Tensor) -> tuple[Callable[[Tensor], Any], dict[str, Tensor], Any]:
    """What Torch-Pruning makes of a copy."""
    import torch_pruning as tp

    small = copy.deepcopy(net)
    layers = [m for m in small.modules() if isinstance(m, nn.Linear)]
    pruner = tp.pruner.BasePruner(
        small, x, tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=SPARSITY,
        ignored_layers=layers[-1:],
    )  # fmt: skip
    pruner.step()
    return small, dict(small.named_parameters()), None


TOOLS = {"edgekit": by_edgekit, "Torch-Pruning": by_peer}


def measure(name: str) -> list[dict[str, Any]]:
    """Both tools on one network."""
    torch.set_num_threads(1)
    net, x = network(name)
    whole = macs(net, x)
    rows = []
    for tool, work in TOOLS.items():
        row: dict[str, Any] = {"network": name, "tool": tool, "macs": whole}
        wall, processor = time.perf_counter(), time.process_time()
        try:
            forward, state, proof = work(net, x)
            row["cpu_seconds"] = round(time.process_time() - processor, 2)
            row["wall_seconds"] = round(time.perf_counter() - wall, 2)
            row["macs_removed"] = round(1 - macs(forward, x) / whole, 4)
            row["own_proof"] = proof
            row["masked_difference"] = disagreement(net, x, state, forward)
        except Exception as error:  # noqa: BLE001 - whatever a tool raises is its result
            row["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        right = row.get("masked_difference")
        row["success"] = (
            "error" not in row and row["macs_removed"] > 0 and (right is None or right <= TOLERANCE)
        )
        rows.append(row)
    return rows


def main() -> None:
    """Measure the networks that the results file does not have."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append")
    parser.add_argument("--here", help="measure this network in this process, and print it")
    parser.add_argument("--out", type=Path, default=HERE / "results/pruning_models.json")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.here)))
        return
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    for name in options.only or [*TORCHVISION, "lstm-tagger", "c2f"]:
        if any(row["network"] == name for row in rows):
            continue
        done = subprocess.run(
            [sys.executable, __file__, "--here", name], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(name, done.stderr[-500:])
            continue
        rows += (found := json.loads(done.stdout.splitlines()[-1]))
        print(*map(json.dumps, found), sep="\n", flush=True)
        text = json.dumps({"torch": torch.__version__, "sparsity": SPARSITY, "rows": rows})
        options.out.write_text(text.replace('{"network"', '\n{"network"') + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
