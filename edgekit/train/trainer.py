"""Train a captured graph: fine-tuning, and the loop that distillation shares.

The same seed gives the same weights, bit for bit, on the same machine and library versions: the
order of samples, augmentation and dropout draw from generators of this loop alone.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit.errors import PassError, UsageError
from edgekit.graph.modes import set_training
from edgekit.graph.program import Program, rebuild
from edgekit.progress import Progress, Silent
from edgekit.train.config import TrainConfig
from edgekit.train.losses import task_loss

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.metrics import Task

Outputs = tuple[Tensor, ...]
Loss = Callable[[Outputs, tuple[Tensor, ...], Tensor | None], Tensor]
_SHIFT = 2
_SHOWN = 5


@dataclass
class Epoch:
    """One pass over the data: mean loss, the last learning rate, seconds."""

    epoch: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass
class History:
    """How a training went."""

    epochs: list[Epoch] = field(default_factory=list)
    samples: int = 0
    steps: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a manifest."""
        return asdict(self)


@dataclass(frozen=True)
class _Samples:
    """The whole training split as tensors."""

    ids: list[str]
    inputs: tuple[Tensor, ...]
    targets: Tensor | None


def train(
    program: Program,
    data: "Dataset",
    task: "Task",
    config: TrainConfig,
    *,
    seed: int,
    loss: Loss | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
) -> tuple[Program, History]:
    """Train a program on a data set's training split.

    Args:
        program: what to train; it is not changed.
        data: where samples come from; the evaluation split is never read.
        task: what the network is for; decides the loss unless `loss` is given.
        config: hyper-parameters.
        seed: every random choice comes from it.
        loss: (outputs, inputs, targets) to a scalar.
        progress: where to show the progress.
        threads: CPU threads; torch's setting unless given.

    Returns:
        The trained program, in eval mode, with the same names and dimensions; and its history.

    Raises:
        UsageError: there is nothing to train on, or data and network do not fit.
        PassError: the loss is not finite; names the samples.
    """
    samples = _load(program, data)
    module = program.module()
    names = [s.name for s in program.outputs]
    objective = loss or task_loss(task, names, label_smoothing=config.label_smoothing)
    with _steady(seed, threads):
        history = _loop(module, samples, config, objective, seed, progress or Silent())
    set_training(module, training=False)
    return rebuild(module, like=program), history


def _load(program: Program, data: "Dataset") -> _Samples:
    count = data.count("train")
    if count < 2:
        raise UsageError(
            f"The train split has {count} samples; training needs two at least.",
            "Give it samples in `data: split:`.",
        )
    batch = next(data.batches("train", count))
    names = [s.name for s in program.inputs]
    found = batch.inputs
    if len(names) == 1 and len(found) == 1:
        found = {names[0]: next(iter(found.values()))}
    missing = [name for name in names if name not in found]
    if missing:
        raise UsageError(
            f"The data has no {', '.join(map(repr, missing))}; it has {', '.join(found)}.",
            "Name the data's inputs as the model's.",
        )
    targets = (
        None if batch.targets is None else torch.from_numpy(np.ascontiguousarray(batch.targets))
    )
    return _Samples(batch.ids, tuple(torch.from_numpy(found[n]) for n in names), targets)


@contextmanager
def _steady(seed: int, threads: int | None) -> Iterator[None]:
    """Own random state, deterministic kernels and the threads asked for; put back afterwards."""
    before = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads or before)
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(mode=deterministic)
            torch.set_num_threads(before)


def _loop(
    module: GraphModule,
    samples: _Samples,
    config: TrainConfig,
    loss: Loss,
    seed: int,
    progress: Progress,
) -> History:
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = _optimizer(config, parameters)
    count = len(samples.ids)
    starts = _starts(count, config.batch_size)
    total = config.epochs * len(starts)
    average = _Average(module, config.ema) if config.ema is not None else None
    history = History(samples=count, steps=total)
    set_training(module, training=True)
    with progress.task("train", total) as task:
        for epoch in range(1, config.epochs + 1):
            started, losses = time.perf_counter(), 0.0
            order = torch.randperm(count, generator=generator)
            for i, (start, stop) in enumerate(starts):
                rate = _rate(config, (epoch - 1) * len(starts) + i, total)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                rows = order[start:stop]
                inputs = tuple(x[rows] for x in samples.inputs)
                if config.augment == "shift":
                    inputs = tuple(shift(x, generator) for x in inputs)
                targets = None if samples.targets is None else samples.targets[rows]
                value = loss(_tuple(module(*inputs)), inputs, targets)
                _refuse_nan(value, epoch, [samples.ids[r] for r in rows.tolist()])
                optimizer.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                if config.gradient_clip is not None:
                    nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
                optimizer.step()
                if average is not None:
                    average.update(module)
                losses += value.item() * len(rows)
                task.advance(1, detail=f"epoch {epoch}/{config.epochs} loss {value.item():.4f}")
            seconds = round(time.perf_counter() - started, 3)
            history.epochs.append(Epoch(epoch, losses / count, rate, seconds))
    if average is not None:
        average.copy_to(module)
    return history


def _tuple(outputs: Any) -> Outputs:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _starts(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Batch bounds; a last batch of one joins the one before, since batch norm needs two."""
    size = max(2, batch_size)
    bounds = [(i, min(i + size, count)) for i in range(0, count, size)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds[-2:] = [(bounds[-2][0], count)]
    return bounds


def _optimizer(config: TrainConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Weight decay is for matrices and kernels; biases and norms go without."""
    groups = [
        {
            "params": [p for p in parameters if p.ndim > 1],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _rate(config: TrainConfig, step: int, total: int) -> float:
    """The learning rate at a step: linear warm-up, then cosine to zero or constant."""
    warmup = int(config.warmup_fraction * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to two pixels, both ways, filling with its own edge.

    Args:
        images: shape (samples, channels, height, width); anything else is left alone.
        generator: draws the moves.
    """
    if images.ndim != 4 or not images.is_floating_point():
        return images
    n, _, height, width = images.shape
    padded = nn.functional.pad(images, (_SHIFT,) * 4, mode="replicate")
    moves = torch.randint(0, 2 * _SHIFT + 1, (2, n), generator=generator)
    rows = moves[0][:, None] + torch.arange(height)
    columns = moves[1][:, None] + torch.arange(width)
    sample = torch.arange(n)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def _refuse_nan(loss: Tensor, epoch: int, ids: list[str]) -> None:
    if not math.isfinite(loss.item()):
        shown = ", ".join(ids[:_SHOWN])
        raise PassError(
            f"The loss is {loss.item()} in epoch {epoch}, on the samples {shown}, …",
            "Lower `learning_rate`, keep `gradient_clip`, or look at these samples.",
        )


class _Average:
    """Exponential moving average of the weights (Polyak & Juditsky, 1992)."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {n: p.detach().clone() for n, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's weights."""
        for name, p in module.named_parameters():
            self.values[name].lerp_(p, 1 - self.decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Give the module the average."""
        for name, p in module.named_parameters():
            p.copy_(self.values[name])
