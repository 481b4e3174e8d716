"""Training samples as tensors: in memory where they fit, shuffled and augmented from one seed.

Preparing an image costs more than looking at it, so samples are prepared once and indexed; what
does not fit is prepared anew for each batch. Both ways give the same batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.artifact import TensorSpec
from edgekit.errors import UsageError
from edgekit.graph.program import Program

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.metrics import Task
    from edgekit.train.config import TrainConfig

MEMORY_BYTES = 1 << 30
"""Samples that take less are kept as tensors."""

MAX_SHIFT = 2
"""Pixels that `augment: shift` moves an image by, at most."""

_CHUNK = 256
_SMALL_AXIS = 4  # a last axis this short holds channels, not columns

Rows = NDArray[np.intp]


@dataclass
class Minibatch:
    """Some samples, as a loss sees them.

    Attributes:
        ids: their ids.
        inputs: in the order of the network's inputs; first axis the sample.
        targets: one row a sample, None without targets.
        teacher: a teacher's outputs by name; empty without one.
    """

    ids: list[str]
    inputs: tuple[Tensor, ...]
    targets: Tensor | None
    teacher: dict[str, Tensor] = field(default_factory=dict)


class Batches:
    """One split of a data set, given out epoch by epoch.

    Args:
        program: the network that is fed.
        data: the data set.
        task: anomaly detectors are shown normal samples (target 0) only.
        config: batch size and augmentation.
        seed: of the order and the augmentation.
        split: which split.
        least: samples that a batch needs; a last batch of fewer joins the one before it.
        memory_bytes: samples that take less are kept as tensors.

    Raises:
        UsageError: the split is empty or too small, or the data does not fit the network's inputs.
    """

    def __init__(
        self,
        program: Program,
        data: "Dataset",
        task: "Task",
        config: "TrainConfig",
        *,
        seed: int,
        split: str = "train",
        least: int = 1,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._specs = program.inputs
        self._data = data.for_model(program.inputs)
        self._seed = seed
        self._shift = config.augment == "shift"
        self._task = task
        self.rows = _usable(data, task, split)
        self.size, self._static = _batch_size(program, config.batch_size, len(self.rows))
        _refuse_small(min(self.size, len(self.rows)), least)
        _refuse_single(program, min(self.size, len(self.rows)))
        self._least = max(least, 2)
        if self._shift:
            _check_images(self._specs)
        first = self._fetch(self.rows[:1])  # whatever does not fit says so before it is all read
        one = sum(t.nbytes for t in (*first.inputs, first.targets) if t is not None)
        self._held = self._read_all() if one * len(self.rows) < memory_bytes else None

    @property
    def in_memory(self) -> bool:
        """Whether the samples are kept as tensors."""
        return self._held is not None

    @property
    def static(self) -> bool:
        """Whether the network takes batches of one size only."""
        return self._static

    @property
    def fixed(self) -> bool:
        """Whether a sample is the same in every epoch."""
        return not self._shift

    def __len__(self) -> int:
        """Count the batches of one epoch."""
        return len(self._bounds())

    def __iter__(self) -> Iterator[Minibatch]:
        """All samples as they are, in the split's order, the last batch smaller."""
        step = self.size if self._static else max(self.size, _CHUNK)
        for start in range(0, len(self.rows), step):
            yield self._take(np.arange(start, min(start + step, len(self.rows))))

    def epoch(self, number: int) -> Iterator[tuple[NDArray[np.intp], Minibatch]]:
        """The batches of one epoch, shuffled and augmented.

        A last batch of one sample joins the one before it: batch norm cannot be trained on it. So
        does one of too few samples for the loss.

        Args:
            number: the epoch; another one has another order.

        Yields:
            Positions of the samples in `rows`, and the samples.
        """
        order = np.random.default_rng([self._seed, number]).permutation(len(self.rows))
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + number) % (1 << 63))
        for start, stop in self._bounds():
            places = order[start:stop]
            batch = self._take(places)
            yield places, self._moved(batch, generator) if self._shift else batch

    def _bounds(self) -> list[tuple[int, int]]:
        count = len(self.rows)
        starts = list(range(0, count, self.size))
        stops = [*starts[1:], count]
        last = count - starts[-1]
        if len(starts) > 1 and last < self.size and (self._static or last < self._least):
            starts.pop()
            stops.pop(-1 if self._static else -2)
        return list(zip(starts, stops, strict=True))

    def _take(self, places: NDArray[np.intp]) -> Minibatch:
        if self._held is None:
            return self._fetch(self.rows[places])
        index = torch.from_numpy(places)
        held = self._held
        return Minibatch(
            ids=[held.ids[i] for i in places],
            inputs=tuple(t[index] for t in held.inputs),
            targets=None if held.targets is None else held.targets[index],
        )

    def _fetch(self, rows: Rows) -> Minibatch:
        batch = self._data.rows(rows)
        return Minibatch(
            ids=batch.ids,
            inputs=tuple(torch.from_numpy(_own(batch.inputs[spec.name])) for spec in self._specs),
            targets=None if batch.targets is None else torch.from_numpy(_own(batch.targets)),
        )

    def _read_all(self) -> Minibatch:
        parts = [self._fetch(self.rows[i : i + _CHUNK]) for i in range(0, len(self.rows), _CHUNK)]
        targets = [part.targets for part in parts if part.targets is not None]
        return Minibatch(
            ids=[name for part in parts for name in part.ids],
            inputs=tuple(
                torch.cat(tensors) for tensors in zip(*(p.inputs for p in parts), strict=True)
            ),
            targets=torch.cat(targets) if targets else None,
        )

    def _moved(self, batch: Minibatch, generator: torch.Generator) -> Minibatch:
        """Shift images, and with them targets that are images themselves."""
        count = len(batch.ids)
        offsets = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (count, 2), generator=generator)
        images = [t for t in batch.inputs if t.dim() == 4]
        targets = batch.targets
        if (
            targets is not None
            and self._task.kind in {"segmentation", "reconstruction"}
            and targets.dim() >= 3
            and targets.shape[-2:] == images[0].shape[-2:]
        ):
            targets = shifted(targets, offsets)
        inputs = tuple(shifted(t, offsets) if t.dim() == 4 else t for t in batch.inputs)
        return Minibatch(batch.ids, inputs, targets)


def shifted(images: Tensor, offsets: Tensor) -> Tensor:
    """Move each image by whole pixels; its edge fills what comes free.

    Args:
        images: shape (n, ..., h, w), any dtype.
        offsets: shape (n, 2), int64: pixels down and to the right.

    Returns:
        The same shape and dtype.
    """
    height, width = images.shape[-2:]
    down, right = offsets[:, :1], offsets[:, 1:]
    lines = (torch.arange(height) - down).clamp_(0, height - 1)  # (n, h)
    columns = (torch.arange(width) - right).clamp_(0, width - 1)
    between = (1,) * (images.dim() - 3)
    lines = lines.view(-1, *between, height, 1).expand(*images.shape)
    columns = columns.view(-1, *between, 1, width).expand(*images.shape)
    return images.gather(-2, lines).gather(-1, columns)


def _usable(data: "Dataset", task: "Task", split: str) -> Rows:
    rows = np.asarray(data.splits[split], dtype=np.intp)
    if task.kind == "anomaly" and data.targets is not None:
        rows = rows[np.asarray(data.targets)[rows] == 0]
    if not len(rows):
        what = "normal samples" if task.kind == "anomaly" else "samples"
        raise UsageError(f"The {split} split has no {what}.", "Give it some with `data: split:`.")
    return rows


def _batch_size(program: Program, wanted: int, count: int) -> tuple[int, bool]:
    """Samples a batch, and whether the network takes no other number."""
    axis = program.inputs[0].shape[0] if program.inputs[0].shape else wanted
    if isinstance(axis, str):
        return wanted, False
    if count < axis:
        raise UsageError(
            f"The network takes batches of exactly {axis}, and there are {count} samples.",
            "Capture it with a dynamic batch, or give it more samples.",
        )
    return axis, True


def _refuse_small(size: int, least: int) -> None:
    if size < least:
        raise UsageError(
            f"The loss compares samples of a batch: it needs {least}, and a batch has {size}.",
            "Raise `batch_size`, or give more training samples.",
        )


def _refuse_single(program: Program, size: int) -> None:
    """Batch norm over a batch of one value a channel divides by zero."""
    if size > 1:
        return
    for node in program.exported.graph.nodes:
        if "batch_norm" not in str(node.target):
            continue
        shape: Sequence[Any] = node.args[0].meta["val"].shape
        if all(isinstance(n, int) and n == 1 for n in shape[2:]):
            raise UsageError(
                f"Batch norm ({node.name}) cannot be trained on batches of one sample.",
                "Raise `batch_size`, or give more training samples.",
            )


def _check_images(specs: Sequence[TensorSpec]) -> None:
    images = [s for s in specs if len(s.shape) == 4]
    if not images:
        given = ", ".join(map(str, specs))
        raise UsageError(
            f"`augment: shift` needs an image input (n, c, h, w); the network takes {given}.",
            "Use `augment: none`.",
        )
    for spec in images:
        *_, line, column = spec.shape
        if isinstance(column, int) and column <= _SMALL_AXIS and line != column:
            raise UsageError(
                f"`augment: shift` needs images as (n, c, h, w); the network takes {spec}.",
                "Use `augment: none`.",
            )


def _own(values: NDArray[Any]) -> NDArray[Any]:
    """An array that torch may take over: contiguous and writable."""
    return np.require(values, requirements=["C", "W"])
