"""Train a network to answer as its teacher does."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.artifact import TensorSpec
from edgekit.distill.losses import kd, relative_error
from edgekit.errors import UsageError
from edgekit.progress import Progress
from edgekit.train.batches import Minibatch
from edgekit.train.losses import Loss, Outputs, output_name, task_loss
from edgekit.train.trainer import History, train

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.graph.program import Program
    from edgekit.metrics import Task
    from edgekit.train.config import TrainConfig


def distill(
    student: "Program",
    teacher: "Program",
    data: "Dataset",
    task: "Task",
    config: "TrainConfig",
    *,
    temperature: float = 4.0,
    label_weight: float = 0.1,
    seed: int,
    progress: Progress | None = None,
    threads: int | None = None,
) -> tuple["Program", History]:
    """Train a student on its teacher's outputs, and on the labels where they have a weight.

    The loss is (1 - label_weight) · distillation + label_weight · the task's loss. Classes are
    distilled with softened probabilities, numbers with the mean squared error. Outputs that the
    task does not judge are kept close to the teacher's too.

    Args:
        student: the network that learns; it is not changed.
        teacher: the network that answers; it is not changed.
        data: samples; no targets are needed where `label_weight` is 0.
        task: what the networks are for.
        config: the hyper-parameters of training.
        temperature: both logits are divided by it before the softmax.
        label_weight: the label loss's share, between 0 and 1.
        seed: of the order, the augmentation and dropout.
        progress: shows how far it is.
        threads: CPU threads; None leaves torch's.

    Returns:
        The trained student, in eval mode, and how training went.

    Raises:
        UsageError: the two networks have other inputs or outputs, or data and task do not fit.
        PassError: the loss or the weights are not finite.
    """
    if not 0 <= label_weight <= 1:
        raise UsageError(f"label_weight is {label_weight}.", "Give a number between 0 and 1.")
    if not temperature > 0:
        raise UsageError(f"temperature is {temperature}.", "Give a positive number.")
    check_outputs(student, teacher)
    labels = None
    if label_weight > 0:
        labels = task_loss(task, student, label_smoothing=config.label_smoothing)
    loss = _mixed(_distillation(task, student, temperature), labels, label_weight)
    return train(
        student,
        data,
        task,
        config,
        seed=seed,
        progress=progress,
        threads=threads,
        loss=loss,
        teacher=teacher if label_weight < 1 else None,
    )


def check_outputs(student: "Program", teacher: "Program") -> None:
    """Refuse networks whose outputs cannot be compared.

    Raises:
        UsageError: their names or shapes differ.
    """
    given = {spec.name: spec for spec in teacher.outputs}
    for spec in student.outputs:
        other = given.get(spec.name)
        if other is None:
            raise UsageError(
                f"The student's outputs are {_listed(student.outputs)}, the teacher's"
                f" {_listed(teacher.outputs)}.",
                "Give both networks the same outputs.",
            )
        # The first axis is the batch, which one of the two may have fixed.
        pairs = zip(spec.shape[1:], other.shape[1:], strict=False)
        fixed = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
        if len(spec.shape) != len(other.shape) or any(a != b for a, b in fixed):
            raise UsageError(
                f"The student's output is {spec}, the teacher's {other}.",
                "Give both networks outputs of the same shape.",
            )


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(map(str, specs))


def _distillation(task: "Task", student: "Program", temperature: float) -> Loss:
    judged = output_name(task, student)
    soft = task.kind in {"classification", "segmentation"}
    floating = [s.name for s in student.outputs if getattr(torch, s.dtype).is_floating_point]

    def loss(outputs: Outputs, batch: Minibatch) -> Tensor:
        total = outputs[judged].new_zeros(())
        for name in floating:
            ours, theirs = outputs[name], batch.teacher[name]
            if name != judged and task.kind != "none":
                total = total + relative_error(ours, theirs)
            elif not soft:
                total = total + functional.mse_loss(ours, theirs)
            else:
                total = total + kd(ours, theirs, temperature)
        return total

    return loss


def _mixed(distillation: Loss, labels: Loss | None, label_weight: float) -> Loss:
    if labels is None:
        return distillation

    def loss(outputs: Outputs, batch: Minibatch) -> Tensor:
        by_labels = labels(outputs, batch)
        if label_weight == 1:
            return by_labels
        return (1 - label_weight) * distillation(outputs, batch) + label_weight * by_labels

    return loss
