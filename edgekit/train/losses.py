"""The loss that belongs to a task, with its shapes checked before torch would broadcast them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.errors import UsageError
from edgekit.train.batches import Minibatch

if TYPE_CHECKING:
    from edgekit.graph.program import Program
    from edgekit.metrics import Task

Outputs = Mapping[str, Tensor]
Loss = Callable[[Outputs, Minibatch], Tensor]


def output_name(task: "Task", program: "Program") -> str:
    """The output that a task judges.

    Raises:
        UsageError: the network has no such output.
    """
    names = [spec.name for spec in program.outputs]
    name = task.output or names[0]
    if name not in names:
        raise UsageError(
            f"The network has no output {name!r}.", f"Its outputs are {', '.join(names)}."
        )
    return name


def task_loss(task: "Task", program: "Program", *, label_smoothing: float = 0.0) -> Loss:
    """The loss of a task; that of mixed samples is mixed of the losses with both their targets.

    Classification and segmentation: cross-entropy (binary for a single column). Regression and
    reconstruction: mean squared error. A reconstruction without targets, and an anomaly detector,
    must give back the first input.

    Args:
        task: what the network is for.
        program: the network.
        label_smoothing: of the cross-entropy, between 0 and 1.

    Raises:
        UsageError: the task has no loss, or the network has not its output.
    """
    name = output_name(task, program)
    if task.kind == "none":
        raise UsageError("The task `none` has no loss to train with.", "Give `task: kind:`.")
    if task.kind in {"classification", "segmentation"}:

        def classify(outputs: Outputs, batch: Minibatch) -> Tensor:
            return cross_entropy(name, outputs[name], batch, label_smoothing)

        return _of_mixed(classify)
    first = task.kind == "anomaly"
    optional = task.kind == "reconstruction"

    def square(outputs: Outputs, batch: Minibatch) -> Tensor:
        if first or (optional and batch.targets is None):
            return squared_error(name, outputs[name], batch.inputs[0], "the first input")
        return squared_error(name, outputs[name], _targets(batch), "the targets")

    return _of_mixed(square)


def _of_mixed(loss: Loss) -> Loss:
    def both(outputs: Outputs, batch: Minibatch) -> Tensor:
        if batch.mixed is None or batch.mixed[0] is None:
            return loss(outputs, batch)
        other, share = batch.mixed
        own, theirs = loss(outputs, batch), loss(outputs, replace(batch, targets=other))
        return share * own + (1 - share) * theirs

    return both


def cross_entropy(name: str, logits: Tensor, batch: Minibatch, label_smoothing: float) -> Tensor:
    """Mean cross-entropy with the batch's labels.

    Args:
        name: the output's name, for messages.
        logits: shape (n, classes, ...); (n,) and (n, 1, ...) hold logits of the second of two.
        batch: its targets have the shape (n, ...) and hold class indices.
        label_smoothing: share of the label that is spread over all classes.

    Returns:
        A scalar.

    Raises:
        UsageError: there are no targets, or they do not fit the logits.
    """
    labels = class_labels(name, logits, batch)
    if not is_binary(logits):
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    wanted = labels.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    flat = logits.reshape(labels.shape)
    return functional.binary_cross_entropy_with_logits(flat, wanted)


def squared_error(name: str, output: Tensor, wanted: Tensor, what: str) -> Tensor:
    """Mean squared error of two tensors that differ in axes of size 1 at most.

    Raises:
        UsageError: their shapes differ; torch would have broadcast them.
    """
    if _without_ones(output) != _without_ones(wanted):
        raise UsageError(
            f"Output {name!r} has shape {tuple(output.shape)}, {what} {tuple(wanted.shape)}.",
            "Check `task:`, and its `output:`.",
        )
    return functional.mse_loss(output, wanted.reshape(output.shape).to(output.dtype))


def is_binary(logits: Tensor) -> bool:
    """Whether logits are one number a place: those of the second of two classes."""
    return logits.dim() == 1 or logits.shape[1] == 1


def right_answers(logits: Tensor, targets: Tensor | None) -> tuple[int, int]:
    """How many answers agree with the labels, and of how many; (0, 0) where none can."""
    if targets is None:
        return 0, 0
    answers = (logits > 0).long() if is_binary(logits) else logits.argmax(1)
    if answers.dim() == targets.dim() + 1:
        answers = answers.squeeze(1)
    if answers.shape != targets.shape:
        return 0, 0
    return int((answers == targets).sum()), targets.numel()


def _targets(batch: Minibatch) -> Tensor:
    if batch.targets is None:
        raise UsageError("The data has no targets to train with.", "Name them: `data: target:`.")
    return batch.targets


def class_labels(name: str, logits: Tensor, batch: Minibatch) -> Tensor:
    """The batch's labels, once they fit the logits.

    Args:
        name: the output's name, for messages.
        logits: shape (n, classes, ...); (n,) and (n, 1, ...) hold logits of the second of two.
        batch: its targets have the shape (n, ...) and hold class indices.

    Returns:
        The targets as int64.

    Raises:
        UsageError: there are no targets, or they are no classes of these logits.
    """
    targets = _targets(batch)
    classes = 2 if is_binary(logits) else logits.shape[1]
    expected = (*logits.shape[:1], *logits.shape[2:])
    if tuple(targets.shape) != expected:
        raise UsageError(
            f"Output {name!r} of shape {tuple(logits.shape)} needs labels of shape {expected};"
            f" the targets have {tuple(targets.shape)}.",
            "Check `task:`, and its `output:`.",
        )
    labels = targets.long()
    if targets.is_floating_point() and not torch.equal(labels.to(targets.dtype), targets):
        raise UsageError(
            "The targets are not whole numbers, so they are no classes.",
            "Use `task: kind: regression`, or give class indices.",
        )
    wrong = ((labels < 0) | (labels >= classes)).reshape(len(labels), -1)
    if bool(wrong.any()):
        row = int(wrong.any(dim=1).nonzero()[0])
        label = int(labels[row].reshape(-1)[wrong[row]][0])
        raise UsageError(
            f"Sample {batch.ids[row]!r} has the label {label}; output {name!r} has classes 0 to"
            f" {classes - 1}.",
            "Mend the labels, or give the network as many classes.",
        )
    return labels


def _without_ones(tensor: Tensor) -> tuple[int, ...]:
    return (tensor.shape[0], *(n for n in tensor.shape[1:] if n != 1))
