"""Samples that importance and recovery look at: the calibration split, never the evaluation's."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from edgekit.graph.program import Program
from edgekit.prune.config import Importance, PruneConfig
from edgekit.prune.importance import Looked
from edgekit.prune.reconstruction import input_grams
from edgekit.prune.sensitivity import second_moments, squared_gradients
from edgekit.train.batches import Batches, Minibatch
from edgekit.train.config import TrainConfig
from edgekit.train.losses import Loss, task_loss

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.metrics import Task

BATCH = 32


@dataclass(frozen=True)
class Calibration:
    """Calibration samples in batches.

    Attributes:
        batches: inputs in the network's order, with targets where there are any.
        loss: of the task; None where no importance asks for it.
    """

    batches: tuple[Minibatch, ...]
    loss: Loss | None = None

    @property
    def inputs(self) -> list[tuple[Tensor, ...]]:
        """The inputs alone."""
        return [batch.inputs for batch in self.batches]

    def look(self, program: Program, importance: Importance) -> Looked | None:
        """Gather what an importance needs; None for one that needs nothing."""
        if importance == "activation":
            return Looked(moments=second_moments(program, self.inputs))
        if importance == "reconstruction":
            return Looked(grams=input_grams(program, self.inputs))
        if (importance == "taylor" or importance == "fisher") and self.loss is not None:
            return Looked(squared_gradients(program, self.batches, self.loss, kind=importance))
        return None


def open_calibration(
    program: Program, data: "Dataset", task: "Task", config: PruneConfig, *, seed: int
) -> Calibration:
    """Read the calibration samples.

    Args:
        program: the network.
        data: the data set.
        task: what the network is for.
        config: how many samples, and whether a loss is needed.
        seed: which samples, where there are more.

    Raises:
        UsageError: the split is empty or does not fit the network; the task has no loss.
    """
    loss = task_loss(task, program) if config.scoring in ("taylor", "fisher") else None
    source = Batches(
        program, data, task, TrainConfig(batch_size=BATCH), seed=seed, split="calibration"
    )
    return Calibration(tuple(_first(source, config.calibration)), loss)


def _first(source: Batches, samples: int) -> Iterator[Minibatch]:
    """The first samples of a shuffled split; a batch is cut where the network allows it."""
    left = samples
    for _, batch in source.epoch(0):
        if left <= 0:
            return
        cut = batch if len(batch.ids) <= left or source.static else _cut(batch, left)
        left -= len(cut.ids)
        yield cut


def _cut(batch: Minibatch, count: int) -> Minibatch:
    targets = None if batch.targets is None else batch.targets[:count]
    return Minibatch(batch.ids[:count], tuple(t[:count] for t in batch.inputs), targets)
