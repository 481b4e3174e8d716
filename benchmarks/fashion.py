"""Fashion-MNIST, two networks trained on it, and how they are trained and judged.

The data are Debian's package dataset-fashion-mnist. Training sees 20,000 of its 60,000 training
images; networks are judged on the 10,000 test images, which nothing else looks at. Trained
originals are kept in a work folder, so that a benchmark that was stopped goes on.
"""

import gzip
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "mnist-resnet8"))

from model import ResNet8  # noqa: E402

from edgekit.graph import modes  # noqa: E402
from edgekit.graph.program import Program, rebuild  # noqa: E402
from edgekit.prune.calibration import Calibration  # noqa: E402
from edgekit.train.batches import Minibatch  # noqa: E402
from edgekit.train.layout import fast_layout, plain_layout  # noqa: E402

DATA = Path("/usr/share/datasets/fashion-mnist")
TRAIN, CALIBRATION, BATCH = 20_000, 512, 128
EPOCHS = 4
Data = tuple[Tensor, Tensor]


def read(kind: str) -> Data:
    """Images, shape (n, 1, 28, 28), normalised, and labels, of `train` or `t10k`."""

    def raw(name: str, offset: int) -> np.ndarray:
        with gzip.open(DATA / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    images = raw(f"{kind}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    labels = raw(f"{kind}-labels-idx1-ubyte.gz", 8)
    pixels = torch.from_numpy((images.astype(np.float32) / 255 - 0.286) / 0.353)
    images_fast = pixels.contiguous(memory_format=torch.channels_last)
    return images_fast, torch.from_numpy(labels.astype(np.int64))


def splits() -> tuple[Data, Data]:
    """What is trained on, and what is judged on."""
    images, labels = read("train")
    return (images[:TRAIN], labels[:TRAIN]), read("t10k")


class Residual(ResNet8):
    """The demo's ResNet-8 layout, 32/64/128 channels."""

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        """Logits, shape (n, 10)."""
        return super().forward(image)["logits"]


class Depthwise(nn.Sequential):
    """A stem and five depthwise separable blocks, 32 to 128 channels."""

    def __init__(self) -> None:
        def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            return [
                nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
                nn.BatchNorm2d(inputs),
                nn.ReLU(),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]

        super().__init__(
            nn.Conv2d(1, 32, 3, 1, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            *block(32, 64, 2),
            *block(64, 64, 1),
            *block(64, 128, 2),
            *block(128, 128, 1),
            *block(128, 128, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(128, 10),
        )


NETWORKS = {"resnet8": Residual, "depthwise": Depthwise}


def fit(
    module: nn.Module,
    forward: Callable[[Tensor], Tensor],
    data: Data,
    epochs: int,
    seed: int,
    rate: float = 4e-3,
    *,
    fast: bool = True,
) -> None:
    """Train in place: AdamW, one cycle, batches of 128; everybody is trained so.

    `fast` is the memory layout alone: the same sums, in another order.
    """
    images, labels = data
    if fast:
        fast_layout(module)
    else:
        images = images.contiguous()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-2)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for first in range(0, len(images) - BATCH + 1, BATCH):
            rows = order[first : first + BATCH]
            loss = functional.cross_entropy(forward(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    plain_layout(module)


def accuracy(forward: Callable[[Tensor], Tensor], data: Data) -> float:
    """Share of the images that get their label."""
    images, labels = data
    with torch.no_grad():
        right = [
            (forward(images[i : i + 500]).argmax(1) == labels[i : i + 500]).sum()
            for i in range(0, len(images), 500)
        ]
    return float(sum(right)) / len(images)


def original(network: str, seed: int, work: Path, data: Data) -> nn.Module:
    """The trained network, from the work folder if it is there."""
    torch.manual_seed(seed)
    net: nn.Module = NETWORKS[network]()
    path = work / f"{network}-{seed}.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
    else:
        fit(net.train(), net, data, EPOCHS, seed)
        work.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), path)
    return net.eval()


def run(program: Program) -> Callable[[Tensor], Tensor]:
    """The program as a function from images to logits."""
    module = program.module()
    fast_layout(module)
    return lambda x: module(x)[0]


def tuned(program: Program, data: Data, epochs: int, seed: int) -> Program:
    """The program after training."""
    module = program.module()
    modes.set_training(module, training=True)
    fit(module, lambda x: module(x)[0], data, epochs, seed)
    modes.set_training(module, training=False)
    return rebuild(module, program)


def fresh(program: Program, seed: int) -> Program:
    """The same network with new weights."""
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


def renewed(program: Program, images: Tensor) -> Program:
    """Batch norms with the statistics of these images, as `recovery: [batch-norm]` takes them."""
    module = program.module()
    for node in module.graph.nodes:
        if "batch_norm" in str(node.target):
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


def samples(data: Data, count: int = CALIBRATION) -> Calibration:
    """The first training images, as edgekit's calibration data."""
    images, labels = (t[:count] for t in data)
    batches = tuple(
        Minibatch([str(i)] * 64, (images[i : i + 64],), labels[i : i + 64])
        for i in range(0, count, 64)
    )
    return Calibration(
        batches,
        lambda outputs, batch: functional.cross_entropy(
            next(iter(outputs.values())), batch.targets
        ),
    )
