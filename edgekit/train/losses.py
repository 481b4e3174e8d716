"""Losses with the labels, by task."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.metrics import Task

Loss = Callable[[tuple[Tensor, ...], tuple[Tensor, ...], Tensor | None], Tensor]


def output_index(task: "Task", outputs: Sequence[str]) -> int:
    """Which output a task judges.

    Raises:
        UsageError: there is no such output.
    """
    if task.output is None:
        return 0
    if task.output not in outputs:
        raise UsageError(
            f"There is no output {task.output!r}.", f"Outputs are {', '.join(outputs)}."
        )
    return list(outputs).index(task.output)


def task_loss(task: "Task", outputs: Sequence[str], *, label_smoothing: float = 0.0) -> Loss:
    """The loss of a task's labels.

    Args:
        task: classification and segmentation: cross-entropy, or binary cross-entropy for a single
            logit; regression, reconstruction and anomaly: mean squared error, against the first
            input where there are no targets.
        outputs: the network's output names.
        label_smoothing: of the cross-entropy.

    Raises:
        UsageError: the task has no loss.
    """
    place = output_index(task, outputs)
    if task.kind == "none":
        raise UsageError("The task `none` has no loss to train with.", "Give `task: kind:`.")
    if task.kind in {"classification", "segmentation"}:
        return lambda out, _, targets: classification(out[place], targets, label_smoothing)

    def squared(
        out: tuple[Tensor, ...], inputs: tuple[Tensor, ...], targets: Tensor | None
    ) -> Tensor:
        wanted = targets
        if wanted is None or task.kind == "anomaly":
            if task.kind == "regression":
                raise UsageError("The data has no targets to train on.", "Name them in `data:`.")
            wanted = inputs[0]
        return mean_squared(out[place], wanted)

    return squared


def classification(output: Tensor, targets: Tensor | None, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy.

    Args:
        output: logits, shape (samples, classes, ...), or (samples,) or (samples, 1) of binary ones.
        targets: class indices, shape (samples, ...).
        label_smoothing: the share of the target spread over all classes.

    Raises:
        UsageError: there are no targets, or they do not fit.
    """
    if targets is None:
        raise UsageError("The data has no targets to train on.", "Name them in `data:`.")
    if output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1):
        flat = output.reshape(len(output))
        return F.binary_cross_entropy_with_logits(flat, targets.reshape(-1).to(flat.dtype))
    if output.shape[:1] + output.shape[2:] != targets.shape:
        raise UsageError(
            f"The output has shape {tuple(output.shape)}, the targets {tuple(targets.shape)}.",
            "Check `task:`, and its `output:`.",
        )
    return F.cross_entropy(output, targets.long(), label_smoothing=label_smoothing)


def mean_squared(output: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of two tensors with the same number of elements.

    Raises:
        UsageError: their shapes do not fit.
    """
    if output.numel() != wanted.numel():
        raise UsageError(
            f"The output has shape {tuple(output.shape)}, the targets {tuple(wanted.shape)}.",
            "Check `task:`, and its `output:`.",
        )
    return F.mse_loss(output, wanted.reshape(output.shape).to(output.dtype))
