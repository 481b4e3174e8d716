"""Distil: train a student to answer as its teacher does."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgekit.distill.losses import kd
from edgekit.errors import UsageError
from edgekit.graph.program import Program
from edgekit.progress import Progress
from edgekit.train.config import TrainConfig
from edgekit.train.losses import mean_squared, output_index, task_loss
from edgekit.train.trainer import History, train

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.metrics import Task


def distill(
    student: Program,
    teacher: Program,
    data: "Dataset",
    task: "Task",
    config: TrainConfig,
    *,
    temperature: float,
    label_weight: float,
    seed: int,
    progress: Progress | None = None,
    threads: int | None = None,
) -> tuple[Program, History]:
    """Train a student on its teacher's answers, and on labels in the share asked for.

    Args:
        student: what is trained; it is not changed.
        teacher: answers the same inputs; in eval mode throughout.
        data: where samples come from; targets are needed only where `label_weight` > 0.
        task: classification distils softened logits; anything else the outputs' squared error.
        config: hyper-parameters.
        temperature: of the softmax.
        label_weight: share of the label loss, 0 to 1.
        seed: every random choice comes from it.
        progress: where to show the progress.
        threads: CPU threads.

    Raises:
        UsageError: teacher and student do not answer the same question, or data is missing.
        PassError: the loss is not finite.
    """
    ours, theirs = _matching_outputs(student, teacher, task)
    places = _matching_inputs(student, teacher)
    classes = task.kind in {"classification", "segmentation"}
    labels = None
    if label_weight > 0:
        names = [s.name for s in student.outputs]
        labels = task_loss(task, names, label_smoothing=config.label_smoothing)
    answer = teacher.module()

    def loss(out: tuple[Tensor, ...], inputs: tuple[Tensor, ...], targets: Tensor | None) -> Tensor:
        with torch.no_grad():
            wanted = answer(*(inputs[i] for i in places))[theirs]
        soft = kd(out[ours], wanted, temperature) if classes else mean_squared(out[ours], wanted)
        if labels is None:
            return soft
        return (1 - label_weight) * soft + label_weight * labels(out, inputs, targets)

    return train(
        student, data, task, config, seed=seed, loss=loss, progress=progress, threads=threads
    )


def _matching_outputs(student: Program, teacher: Program, task: "Task") -> tuple[int, int]:
    """The places of the judged output in both."""
    names = [s.name for s in student.outputs]
    ours = output_index(task, names)
    spec = student.outputs[ours]
    known = [s.name for s in teacher.outputs]
    if spec.name in known:
        theirs = known.index(spec.name)
    elif len(known) == len(names) == 1:
        theirs = 0
    else:
        raise UsageError(
            f"The teacher has no output {spec.name!r}; it has {', '.join(known)}.",
            "Distil from a network with the same outputs.",
        )
    other = teacher.outputs[theirs]
    if spec.shape[1:] != other.shape[1:]:
        raise UsageError(
            f"The student answers {spec}, the teacher {other}.",
            "Distil from a network with the same outputs.",
        )
    return ours, theirs


def _matching_inputs(student: Program, teacher: Program) -> list[int]:
    """For each of the teacher's inputs, the place of the student's."""
    names = [s.name for s in student.inputs]
    if len(names) == len(teacher.inputs) == 1:
        return [0]
    missing = [s.name for s in teacher.inputs if s.name not in names]
    if missing:
        raise UsageError(
            f"The teacher wants the input {missing[0]!r}, which the student does not have.",
            "Distil from a network with the same inputs.",
        )
    return [names.index(s.name) for s in teacher.inputs]
