"""The loss between a student's answers and its teacher's, with its shapes checked beforehand."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.artifact import TensorSpec
from edgekit.distill import dense_losses, losses
from edgekit.errors import UsageError
from edgekit.train.batches import Minibatch
from edgekit.train.losses import Loss, Outputs, class_labels, is_binary, output_name

if TYPE_CHECKING:
    from edgekit.distill.config import AnswerLoss, DistillConfig
    from edgekit.graph.program import Program
    from edgekit.metrics import Task

_CLASS_TASKS = frozenset({"classification", "segmentation"})
_OF_CLASSES = frozenset({"kd", "dist", "dkd", "token-kd", "channel-kd"})
_RANK: dict[str, tuple[int, int, str]] = {
    "dist": (1, 9, "(n, classes, ...)"),
    "token-kd": (3, 3, "(n, tokens, classes)"),
    "channel-kd": (3, 9, "(n, classes, ...) with positions"),
}
_Compare = Callable[[Tensor, Tensor, Minibatch], Tensor]


def answer_loss(config: "DistillConfig", task: "Task", student: "Program") -> Loss:
    """The distillation loss of the outputs.

    The output that the task judges has the loss that the configuration names (or what suits the
    task). Others are kept close to the teacher's by their relative error.

    Args:
        config: which loss, and its parameters.
        task: what the networks are for.
        student: its outputs' names and shapes count.

    Raises:
        UsageError: loss, task and outputs do not fit each other.
    """
    judged = output_name(task, student)
    kind = chosen(config, task)
    if kind == "none":
        return _nothing
    rest = [s.name for s in student.outputs if _floats(s)]
    if config.heads is not None:
        main = _detection(config, student)
        rest = [n for n in rest if n not in (config.heads.scores, config.heads.boxes)]
    else:
        _check(kind, task, next(s for s in student.outputs if s.name == judged))
        main = _of_output(judged, _comparison(kind, config, task, student, judged))
        rest = [n for n in rest if n != judged]
    everything = config.loss is None and task.kind == "none"  # no output is more than another

    def loss(outputs: Outputs, batch: Minibatch) -> Tensor:
        total = main(outputs, batch)
        for name in rest:
            ours, theirs = outputs[name], batch.teacher[name]
            if everything:
                total = total + functional.mse_loss(ours, theirs)
            else:
                total = total + losses.relative_error(ours, theirs)
        return total

    return loss


def chosen(config: "DistillConfig", task: "Task") -> "AnswerLoss":
    """The loss that the configuration names, or that suits the task."""
    if config.loss is not None:
        return config.loss
    return "kd" if task.kind in _CLASS_TASKS else "mean-squared-error"


def least_samples(config: "DistillConfig") -> int:
    """How many samples a batch needs for the answers' loss."""
    return 2 if config.loss == "dist" else 1


def class_axis(config: "DistillConfig", task: "Task", spec: TensorSpec) -> int | None:
    """The axis of a judged output that holds classes, None where it holds numbers.

    Logits of the second of two classes, one a place, have none.
    """
    kind = chosen(config, task)
    if kind not in _OF_CLASSES or len(spec.shape) < 2:
        return None
    axis = len(spec.shape) - 1 if kind == "token-kd" else 1
    return None if spec.shape[axis] == 1 else axis


def is_soft(config: "DistillConfig", task: "Task") -> bool:
    """Whether the judged output holds logits of classes."""
    return chosen(config, task) in _OF_CLASSES


def _comparison(
    kind: str, config: "DistillConfig", task: "Task", student: "Program", judged: str
) -> _Compare:
    t = config.temperature
    if kind == "kd":
        return lambda ours, theirs, _: losses.kd(ours, theirs, t)
    if kind == "dist":
        return lambda ours, theirs, _: losses.dist(_rows(ours), _rows(theirs), t)
    if kind == "channel-kd":
        return lambda ours, theirs, _: dense_losses.channel_kd(ours, theirs, t)
    if kind == "token-kd":
        place = _mask_place(config, student)
        return lambda ours, theirs, batch: losses.token_kd(
            ours, theirs, None if place is None else batch.inputs[place], t
        )
    if kind == "dkd":
        labelled = task.kind in _CLASS_TASKS and config.label_weight > 0

        def decoupled(ours: Tensor, theirs: Tensor, batch: Minibatch) -> Tensor:
            s, p = _two_columns(ours), _two_columns(theirs)
            if labelled:
                labels = class_labels(judged, ours, batch).reshape(len(s), *s.shape[2:])
            else:
                labels = p.argmax(1)  # the class that the teacher says
            return losses.decoupled_kd(s, p, labels, t, alpha=config.alpha, beta=config.beta)

        return decoupled
    return lambda ours, theirs, _: functional.mse_loss(ours, theirs)


def _of_output(name: str, compare: _Compare) -> Loss:
    return lambda outputs, batch: compare(outputs[name], batch.teacher[name], batch)


def _detection(config: "DistillConfig", student: "Program") -> Loss:
    heads = config.heads
    assert heads is not None  # noqa: S101 - the configuration's own check
    names = [s.name for s in student.outputs]
    for key, name in (("scores", heads.scores), ("boxes", heads.boxes)):
        if name not in names:
            raise UsageError(
                f"`heads: {key}: {name}`: the network has no such output.",
                f"Its outputs are {', '.join(names)}.",
            )

    def loss(outputs: Outputs, batch: Minibatch) -> Tensor:
        scores, boxes = dense_losses.as_anchors(outputs[heads.scores], outputs[heads.boxes])
        answers = batch.teacher
        true_scores, true_boxes = dense_losses.as_anchors(
            answers[heads.scores], answers[heads.boxes]
        )
        places = dense_losses.objectness(true_scores, softmax=heads.softmax)
        by_scores = dense_losses.scores_kd(scores, true_scores, places, softmax=heads.softmax)
        return by_scores + heads.boxes_weight * dense_losses.boxes_kd(boxes, true_boxes, places)

    return loss


def _check(kind: str, task: "Task", spec: TensorSpec) -> None:
    if kind in _OF_CLASSES and task.kind not in (*_CLASS_TASKS, "none"):
        raise UsageError(
            f"`loss: {kind}` compares classes, and the task is {task.kind}.",
            "Leave `loss` out, or give the task that the network is for.",
        )
    low, high, wanted = _RANK.get(kind, (0, 9, ""))
    if not low <= len(spec.shape) <= high:
        raise UsageError(
            f"`loss: {kind}` needs an output {wanted}; the network's is {spec}.",
            "Give another loss, or another `task: output:`.",
        )


def _mask_place(config: "DistillConfig", student: "Program") -> int | None:
    if config.mask is None:
        return None
    names = [spec.name for spec in student.inputs]
    if config.mask not in names:
        raise UsageError(
            f"`mask: {config.mask}`: the network has no such input.",
            f"Its inputs are {', '.join(names)}.",
        )
    return names.index(config.mask)


def _nothing(outputs: Outputs, _: Minibatch) -> Tensor:
    return next(iter(outputs.values())).new_zeros(())


def _two_columns(logits: Tensor) -> Tensor:
    """Logits of the second of two classes with those of the first, which are 0."""
    if not is_binary(logits):
        return logits
    own = logits.unsqueeze(1) if logits.dim() == 1 else logits
    return torch.cat([torch.zeros_like(own), own], dim=1)


def _rows(logits: Tensor) -> Tensor:
    """(n, classes, ...) as (n*positions, classes)."""
    whole = _two_columns(logits)
    return whole.movedim(1, -1).reshape(-1, whole.shape[1])


def _floats(spec: TensorSpec) -> bool:
    return bool(getattr(torch, spec.dtype).is_floating_point)
