"""How training went, and when it has gone on for long enough."""

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgekit.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from edgekit.metrics import Task
    from edgekit.train.batches import Minibatch


@dataclass(frozen=True)
class Epoch:
    """One pass over the training split.

    Attributes:
        epoch: from 1.
        loss: mean over the samples, with the weights as they were at each batch.
        learning_rate: of its last step.
        seconds: wall time.
        accuracy: share of right answers in training mode; None where the task has none.
        validation: the task's metric on the samples held out, after the epoch; None without any.
        fit: the same metric, of the same weights, on as many samples that were trained on.
    """

    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    accuracy: float | None = None
    validation: float | None = None
    fit: float | None = None


@dataclass
class History:
    """How training went.

    Attributes:
        samples: samples of an epoch.
        batches: batches of an epoch.
        batch_size: samples a batch, over all processes.
        processes: that trained together.
        held_out: samples that were held out of training to be judged.
        metric: what `validation` and `fit` are; None without samples held out.
        best_epoch: whose weights were kept; None where the last ones were.
        stopped: whether training ended before its last epoch.
        resumed_at: steps that a run before had done.
        gap: `fit` minus `validation` of the epoch that was kept, None without samples held out.
        epochs: in order.
    """

    samples: int
    batches: int
    batch_size: int
    processes: int = 1
    held_out: int = 0
    metric: str | None = None
    best_epoch: int | None = None
    stopped: bool = False
    resumed_at: int = 0
    gap: float | None = None
    epochs: list[Epoch] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a manifest."""
        return asdict(self)

    def conclude(self) -> None:
        """Reckon the gap of the epoch that was kept."""
        kept = self.epochs[(self.best_epoch or len(self.epochs)) - 1]
        if kept.validation is not None and kept.fit is not None:
            self.gap = kept.fit - kept.validation


class Patience:
    """Keeps the best weights, and says when nothing better has come for too long.

    Args:
        epochs: without a better metric, after which it is enough.
        higher_is_better: which way the metric is good.
    """

    def __init__(self, epochs: int, *, higher_is_better: bool) -> None:
        self._epochs = epochs
        self._sign = 1.0 if higher_is_better else -1.0
        self._best = -math.inf
        self.best_epoch = 0
        self.weights: dict[str, Tensor] = {}

    def enough(self, epoch: int, metric: float, weights: "dict[str, Tensor]") -> bool:
        """Look at one epoch.

        Args:
            epoch: from 1.
            metric: after it.
            weights: by name; copied where they are the best.

        Returns:
            Whether to stop.
        """
        if self._sign * metric > self._best:
            self._best, self.best_epoch = self._sign * metric, epoch
            self.weights = {name: value.detach().clone() for name, value in weights.items()}
        return epoch - self.best_epoch >= self._epochs

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self._best, "epoch": self.best_epoch, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._best, self.best_epoch = state["best"], state["epoch"]
        self.weights = state["weights"]


def metric_of(
    task: "Task",
    forward: "Callable[[Sequence[Tensor]], Tensor]",
    batches: "Iterable[Minibatch]",
) -> float:
    """The task's metric of a network on some samples.

    Args:
        task: what is judged, and how.
        forward: from inputs to the output that is judged, in eval mode.
        batches: the samples.

    Raises:
        UsageError: outputs and targets do not fit each other.
    """
    outputs, targets = [], []
    with torch.no_grad():
        for batch in batches:
            outputs.append(forward(batch.inputs).float().cpu().numpy())
            own = batch.inputs[0] if batch.targets is None else batch.targets
            targets.append(own.cpu().numpy())
    metric = METRICS[task.metric_name]
    return metric.of(metric.statistics(np.concatenate(outputs), np.concatenate(targets)))


def higher_is_better(task: "Task") -> bool:
    """Which way the task's metric is good."""
    return METRICS[task.metric_name].higher_is_better
