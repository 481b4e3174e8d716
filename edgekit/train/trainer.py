"""Train a captured network on the training split: fine-tuning, recovery, distillation."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgekit.errors import PassError, UsageError
from edgekit.graph import modes
from edgekit.graph.program import Program, rebuild
from edgekit.graph.taps import add_outputs, drop_outputs
from edgekit.progress import Progress, Silent
from edgekit.train.batches import Batches, Minibatch
from edgekit.train.layout import fast_inputs, fast_layout, plain_layout
from edgekit.train.losses import Loss, output_name, right_answers, task_loss
from edgekit.train.optimize import Average, learning_rate, make_optimizer
from edgekit.train.reproducible import reproducible
from edgekit.train.shrinkage import Shrinkage
from edgekit.train.teacher import Answers, Teacher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.fx import GraphModule

    from edgekit.data import Dataset
    from edgekit.metrics import Task
    from edgekit.progress import Task as Bar
    from edgekit.train.config import TrainConfig
    from edgekit.train.shrinkage import Member, Sparsify

_SHOWN = 5


@dataclass(frozen=True)
class Epoch:
    """One pass over the training split.

    Attributes:
        epoch: from 1.
        loss: mean over the samples, with the weights as they were at each batch.
        learning_rate: of its last step.
        seconds: wall time.
        accuracy: share of right answers in training mode; None where the task has none.
    """

    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    accuracy: float | None = None


@dataclass
class History:
    """How training went.

    Attributes:
        epochs: in order.
        samples: samples of an epoch.
        batches: steps of an epoch.
        batch_size: samples a step.
    """

    samples: int
    batches: int
    batch_size: int
    epochs: list[Epoch] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a manifest."""
        return asdict(self)


def train(
    program: Program,
    data: "Dataset",
    task: "Task",
    config: "TrainConfig",
    *,
    seed: int,
    progress: Progress | None = None,
    threads: int | None = None,
    loss: Loss | None = None,
    teacher: Answers | None = None,
    least: int = 1,
    shrinkage: "tuple[Sparsify, float, Sequence[Member]] | None" = None,
    taps: Mapping[str, str] | None = None,
    beside: nn.Module | None = None,
) -> tuple[Program, History]:
    """Train a network on the training split; the other splits are not looked at.

    Args:
        program: the network; it is not changed.
        data: the samples.
        task: what the network is for.
        config: the hyper-parameters.
        seed: of the order, the augmentation and dropout; the same seed and number of threads give
            the same weights, bit for bit.
        progress: shows how far it is.
        threads: CPU threads; None leaves torch's.
        loss: from (outputs by name, batch) to a scalar; the task's unless given.
        teacher: a network whose outputs each batch brings along, for a loss that wants them.
        least: samples that the loss needs in a batch.
        shrinkage: kind, strength and groups of sparse training (`edgekit.train.shrinkage`).
        taps: nodes of the graph whose values the loss wants among the outputs, by the names that
            they have there.
        beside: what is trained with the network, for the loss, and then thrown away.

    Returns:
        The trained network, in eval mode, and how training went.

    Raises:
        UsageError: data, task and network do not fit each other, or there is nothing to train on.
        PassError: the loss or the weights are not finite.
    """
    progress = progress or Silent()
    loss = loss or task_loss(task, program, label_smoothing=config.label_smoothing)
    run = _Run(program, task, config, loss, taps or {}, beside)
    if shrinkage is not None:
        run.pull(*shrinkage)
    with reproducible(seed, threads):
        batches = Batches(program, data, task, config, seed=seed, least=least)
        guide = None
        if teacher is not None:
            guide = Teacher(teacher)
            guide.remember(batches, progress)
        history = History(len(batches.rows), len(batches), batches.size)
        with progress.task("train", total=config.epochs * len(batches)) as bar:
            for number in range(1, config.epochs + 1):
                history.epochs.append(run.epoch(number, batches, guide, bar))
        return run.finish(), history


class _Run:
    """A network in training."""

    def __init__(
        self,
        program: Program,
        task: "Task",
        config: "TrainConfig",
        loss: Loss,
        taps: Mapping[str, str],
        beside: nn.Module | None,
    ) -> None:
        self._program = program
        self._config = config
        self._loss = loss
        self._names = [*(spec.name for spec in program.outputs), *taps]
        self._taps = len(taps)
        self._beside = beside
        self._judged = output_name(task, program)
        self._counts = task.kind in {"classification", "segmentation"}
        self._module: GraphModule = program.module()
        if not any(p.requires_grad for p in self._module.parameters()):
            raise UsageError("The network has no weights to train.", "Leave the step out.")
        if taps:
            add_outputs(self._module, list(taps.values()))
        modes.set_training(self._module, training=True)
        fast_layout(self._module)
        self._optimizer = make_optimizer(self._module, config, beside)
        self._average = Average(self._module, config.ema) if config.ema else None
        self._shrinkage: Shrinkage | None = None
        self._step = 0

    def pull(self, kind: "Sparsify", strength: float, members: "Sequence[Member]") -> None:
        """Pull groups of weights towards zero in every step from now on."""
        named = dict(self._module.named_parameters(remove_duplicate=False))
        self._shrinkage = Shrinkage(kind, strength, members, named)

    def epoch(self, number: int, batches: Batches, teacher: Teacher | None, bar: "Bar") -> Epoch:
        """One pass over the data."""
        start = time.perf_counter()
        total, seen, right, answered = 0.0, 0, 0, 0
        steps = self._config.epochs * len(batches)
        rate = 0.0
        for index, (places, batch) in enumerate(batches.epoch(number), 1):
            if teacher is not None:
                batch.teacher = teacher.answer(places, batch)
            rate = learning_rate(self._config, self._step, steps)
            value, outputs = self._update(batch, rate, f"epoch {number}, batch {index}")
            total += value * len(batch.ids)
            seen += len(batch.ids)
            if self._counts:
                hits, of = right_answers(outputs[self._judged], batch.targets)
                right, answered = right + hits, answered + of
            bar.advance(1, detail=f"epoch {number}/{self._config.epochs} loss {total / seen:.4g}")
        return Epoch(
            epoch=number,
            loss=total / seen,
            learning_rate=rate,
            seconds=time.perf_counter() - start,
            accuracy=right / answered if answered else None,
        )

    def finish(self) -> Program:
        """The trained network."""
        if self._average is not None:
            self._average.apply()
        for name, tensor in self._module.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise PassError(
                    f"Training diverged: {name} holds NaN or infinity after the last step.",
                    "Lower `learning_rate`, or check the data.",
                )
        modes.set_training(self._module, training=False)
        plain_layout(self._module)
        if self._taps:
            drop_outputs(self._module, self._taps)
        return rebuild(self._module, like=self._program)

    def _update(self, batch: Minibatch, rate: float, where: str) -> tuple[float, dict[str, Tensor]]:
        """One step: the loss before it, and the outputs, detached."""
        self._optimizer.zero_grad(set_to_none=True)
        outputs = dict(zip(self._names, self._module(*fast_inputs(batch.inputs)), strict=True))
        loss = self._loss(outputs, batch)
        value = float(loss.detach())
        detached = {name: tensor.detach() for name, tensor in outputs.items()}
        if not math.isfinite(value):
            raise _diverged(f"the loss is {value}", where, batch, detached)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._config.gradient_clip is not None:
            beside = () if self._beside is None else self._beside.parameters()
            norm = torch.nn.utils.clip_grad_norm_(
                [*self._module.parameters(), *beside], self._config.gradient_clip
            )
            if not math.isfinite(float(norm)):
                raise _diverged("the gradient is not finite", where, batch, detached)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        if self._shrinkage is not None:
            self._shrinkage.apply(rate)
        if self._average is not None:
            self._average.update()
        self._step += 1
        return value, detached


def _diverged(what: str, where: str, batch: Minibatch, outputs: dict[str, Tensor]) -> PassError:
    """Name the samples whose own output is not finite, or else the first of the batch."""
    bad = torch.zeros(len(batch.ids), dtype=torch.bool)
    for tensor in outputs.values():
        if tensor.dim() and len(tensor) == len(bad):
            bad |= ~torch.isfinite(tensor).reshape(len(bad), -1).all(dim=1)
    ids = [name for name, is_bad in zip(batch.ids, bad.tolist(), strict=True) if is_bad]
    ids = ids or batch.ids
    shown = ", ".join(ids[:_SHOWN]) + (
        f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    )
    return PassError(
        f"Training diverged: {what} in {where} (samples {shown}).",
        "Lower `learning_rate`, or check the data of these samples.",
    )
