"""Training samples as tensors: in memory where they fit, shuffled and augmented from one seed.

Preparing an image costs more than looking at it, so samples are prepared once and indexed; what
does not fit is prepared anew for each batch. Both ways give the same batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.artifact import TensorSpec
from edgekit.errors import UsageError
from edgekit.graph.program import Program
from edgekit.train.augment import MAX_SHIFT, mixed, shifted

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.metrics import Task
    from edgekit.train.config import TrainConfig

MEMORY_BYTES = 1 << 30
"""Samples that take less are kept as tensors."""

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
        weight: of the batch's mean loss in its step's: its share of the step's samples, times the
            number of processes.
        last: whether a step ends with it.
        mixed: where samples were mixed: the other targets, and the share of the own ones.
        passed: share of the training's steps that are done.
    """

    ids: list[str]
    inputs: tuple[Tensor, ...]
    targets: Tensor | None
    teacher: dict[str, Tensor] = field(default_factory=dict)
    weight: float = 1.0
    last: bool = True
    mixed: tuple[Tensor | None, float] | None = None
    passed: float = 0.0

    def to(self, device: torch.device) -> "Minibatch":
        """The same batch on a device."""
        if device.type == "cpu":
            return self
        other, share = self.mixed or (None, 1.0)
        return replace(
            self,
            inputs=tuple(t.to(device) for t in self.inputs),
            targets=None if self.targets is None else self.targets.to(device),
            teacher={name: t.to(device) for name, t in self.teacher.items()},
            mixed=self.mixed and (None if other is None else other.to(device), share),
        )


class Batches:
    """One split of a data set, given out epoch by epoch.

    Args:
        program: the network that is fed.
        data: the data set.
        task: anomaly detectors are shown normal samples (target 0) only.
        config: batch size, augmentation, and the share that is held out.
        seed: of the order, the augmentation and what is held out.
        split: which split.
        least: samples that a batch needs; a last batch of fewer joins the one before it.
        memory_bytes: samples that take less are kept as tensors.
        rank: which process this is; each gets its part of every batch.
        world: how many there are.

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
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._specs = program.inputs
        self._data = data.for_model(program.inputs)
        self._seed = seed
        self._augment, self._alpha = config.augment, config.mix_alpha
        self._accumulate = config.accumulate
        self._task = task
        self._rank, self._world = rank, world
        self.rows, self.held_out = _parted(_usable(data, task, split), config.validation, seed)
        each = len(self.rows) // world
        self._size, self._static = _batch_size(program, config.batch_size, each)
        _refuse_small(min(self._size, each), least)
        _refuse_single(program, min(self._size * world, len(self.rows)))
        self._least = max(least, 2)
        if self._augment != "none":
            _check_augment(self._augment, self._specs)
        first = self._fetch(self.rows[:1])  # whatever does not fit says so before it is all read
        one = sum(t.nbytes for t in (*first.inputs, first.targets) if t is not None)
        self._held = self._read_all() if one * len(self.rows) < memory_bytes else None

    @property
    def in_memory(self) -> bool:
        """Whether the samples are kept as tensors."""
        return self._held is not None

    @property
    def size(self) -> int:
        """Samples of a batch, over all processes."""
        return self._size * self._world

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-len(self) // self._accumulate)

    @property
    def static(self) -> bool:
        """Whether the network takes batches of one size only."""
        return self._static

    @property
    def fixed(self) -> bool:
        """Whether a sample is the same in every epoch."""
        return self._augment == "none"

    def __len__(self) -> int:
        """Count the batches of one epoch."""
        return len(self._bounds())

    def __iter__(self) -> Iterator[Minibatch]:
        """All samples as they are, in the split's order, the last batch smaller."""
        step = self._size if self._static else max(self._size, _CHUNK)
        for start in range(0, len(self.rows), step):
            yield self._take(np.arange(start, min(start + step, len(self.rows))))

    def others(self, rows: Rows) -> Iterator[Minibatch]:
        """Samples of the data set by row, as they are, such as those held out."""
        for start in range(0, len(rows), _CHUNK):
            yield self._fetch(rows[start : start + _CHUNK])

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[NDArray[np.intp], Minibatch]]:
        """The batches of one epoch, shuffled and augmented; of several processes' this one's part.

        A last batch of one sample joins the one before it: batch norm cannot be trained on it. So
        does one of too few samples for the loss. What a batch is made of depends on the seed, the
        epoch and its number alone, so an epoch can be begun in the middle.

        Args:
            number: the epoch; another one has another order.
            start: batches to leave out.

        Yields:
            Positions of the samples in `rows`, and the samples.
        """
        order = np.random.default_rng([self._seed, number]).permutation(len(self.rows))
        bounds = self._bounds()
        for index in range(start, len(bounds)):
            first = index - index % self._accumulate
            group = bounds[first : first + self._accumulate]
            whole = order[slice(*bounds[index])]
            part = slice(*_part(len(whole), self._rank, self._world))
            batch = self._take(whole[part])
            if self._augment == "shift":
                draw = np.random.default_rng([self._seed, number, index])
                offsets = draw.integers(-MAX_SHIFT, MAX_SHIFT + 1, (len(whole), 2))
                batch = self._moved(batch, torch.from_numpy(offsets[part]))
            elif self._augment != "none":
                draw = np.random.default_rng([self._seed, number, index, self._rank])
                own = (batch.inputs, batch.targets)
                inputs, found = mixed(*own, self._augment, self._alpha, draw)
                batch = replace(batch, inputs=inputs, mixed=found)
            batch.weight = len(batch.ids) * self._world / (group[-1][1] - group[0][0])
            batch.last = index + 1 == first + len(group)
            yield whole[part], batch

    def _bounds(self) -> list[tuple[int, int]]:
        count = len(self.rows)
        starts = list(range(0, count, self.size))
        stops = [*starts[1:], count]
        last = count - starts[-1]
        least = self._least * self._world
        if len(starts) > 1 and last < self.size and (self._static or last < least):
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

    def _moved(self, batch: Minibatch, offsets: Tensor) -> Minibatch:
        """Shift images, and with them targets that are images themselves."""
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


def _part(count: int, rank: int, world: int) -> tuple[int, int]:
    """The bounds of one process's part; the first ones get one more where it does not come out."""
    each, more = divmod(count, world)
    start = rank * each + min(rank, more)
    return start, start + each + (rank < more)


def _parted(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """What is trained on, and what is held out, both in the split's order."""
    if not share:
        return rows, rows[:0]
    count = max(1, round(share * len(rows)))
    if count >= len(rows):
        raise UsageError(
            f"There are {len(rows)} training samples: none can be held out for `validation`.",
            "Give more training samples, or leave `validation` out.",
        )
    chosen = np.random.default_rng([seed, 0x5EED]).permutation(len(rows))
    return rows[np.sort(chosen[count:])], rows[np.sort(chosen[:count])]


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


def _check_augment(kind: str, specs: Sequence[TensorSpec]) -> None:
    given = ", ".join(map(str, specs))
    if kind != "shift" and not all(s.dtype.startswith(("float", "bfloat")) for s in specs):
        raise UsageError(
            f"`augment: {kind}` blends numbers; the network takes {given}.", "Use `augment: none`."
        )
    if kind == "mixup":
        return
    images = [s for s in specs if len(s.shape) == 4]
    if not images or (kind == "cutmix" and len(images) < len(specs)):
        raise UsageError(
            f"`augment: {kind}` needs an image input (n, c, h, w); the network takes {given}.",
            "Use `augment: none`.",
        )
    for spec in images:
        *_, line, column = spec.shape
        if isinstance(column, int) and column <= _SMALL_AXIS and line != column:
            raise UsageError(
                f"`augment: {kind}` needs images as (n, c, h, w); the network takes {spec}.",
                "Use `augment: none`.",
            )


def _own(values: NDArray[Any]) -> NDArray[Any]:
    """An array that torch may take over: contiguous and writable."""
    return np.require(values, requirements=["C", "W"])
