"""A network that only answers: its outputs for batches, kept where the samples stay the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.errors import UsageError
from edgekit.graph.taps import add_outputs
from edgekit.train.answer_files import stored, writer
from edgekit.train.batches import MEMORY_BYTES, Batches, Minibatch
from edgekit.train.layout import fast_inputs, fast_layout

if TYPE_CHECKING:
    from edgekit.graph.program import Program
    from edgekit.progress import Progress
    from edgekit.train.place import Place


class Answers(Protocol):
    """Something that answers batches: a network, or several."""

    def __call__(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """The outputs by name, without gradients, for tensors in the batches' order."""
        ...


class ProgramAnswers:
    """Answers of a captured network, frozen.

    Args:
        program: the network; it runs in eval mode, without gradients.
        inputs: names of the tensors that batches hold, in order; a single one serves a single
            input, whatever their names.
        taps: nodes of the graph whose values are wanted among the outputs, by their names there.

    Raises:
        UsageError: the network needs an input that batches do not hold.
    """

    def __init__(
        self, program: "Program", inputs: Sequence[str], taps: Mapping[str, str] | None = None
    ) -> None:
        self._order = order([spec.name for spec in program.inputs], inputs)
        self._module = program.module()
        self._names = [*(spec.name for spec in program.outputs), *(taps or {})]
        if taps:
            add_outputs(self._module, list(taps.values()))
        fast_layout(self._module)
        axis = program.inputs[0].shape[0] if program.inputs[0].shape else ""
        self._static = axis if isinstance(axis, int) else None

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """The outputs and taps by name."""
        chosen = fast_inputs([inputs[i] for i in self._order])
        parts = [self._module(*part) for part in full_batches(chosen, self._static)]
        if len(parts) == 1 and self._static is None:
            return dict(zip(self._names, parts[0], strict=True))
        whole = [torch.cat(p)[: len(chosen[0])] for p in zip(*parts, strict=True)]
        return dict(zip(self._names, whole, strict=True))


def order(needs: Sequence[str], inputs: Sequence[str]) -> list[int]:
    """Where the inputs that a teacher needs are among a batch's tensors.

    Raises:
        UsageError: a batch does not hold one of them.
    """
    if len(needs) == len(inputs) == 1:
        return [0]
    if missing := [name for name in needs if name not in inputs]:
        raise UsageError(
            f"The teacher takes {', '.join(missing)}, the student {', '.join(inputs)}.",
            "Give both networks the same inputs.",
        )
    return [list(inputs).index(name) for name in needs]


def full_batches(inputs: Sequence[Tensor], size: int | None) -> list[tuple[Tensor, ...]]:
    """Batches of one size for a network that takes no other, the last padded with first rows."""
    if size is None:
        return [tuple(inputs)]
    count = len(inputs[0])
    index = torch.arange(-(-count // size) * size) % count
    return [tuple(t[i] for t in inputs) for i in torch.split(index, size)]


class Teacher:
    """Answers for the batches of an epoch, asked once where samples stay the same.

    Args:
        answers: the network.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._kept: Mapping[str, Tensor | NDArray[Any]] | None = None

    def remember(
        self,
        batches: Batches,
        progress: "Progress",
        limit: int = MEMORY_BYTES,
        *,
        folder: Path | None = None,
        place: "Place | None" = None,
    ) -> None:
        """Answer all samples once, where they stay the same.

        With a folder the answers are kept there, for this training and every later one of the same
        teacher and samples, however large they are. Without, or where the disk is full, they are
        kept in memory if they fit.

        Args:
            batches: what will be asked.
            progress: shows how far it is.
            limit: bytes that the answers may take in memory.
            folder: of this teacher and these samples.
            place: where several processes train, the first asks and the others wait.
        """
        if not batches.fixed:
            return
        if folder is not None:
            first = place is None or place.rank == 0
            if first and stored(folder, len(batches.rows)) is None:
                self._store(batches, progress, folder)
            if place is not None:
                place.totals([0.0])  # the others wait here
            self._kept = stored(folder, len(batches.rows))
        if self._kept is None and batches.in_memory:
            self._hold(batches, progress, limit)

    def _store(self, batches: Batches, progress: "Progress", folder: Path) -> None:
        try:
            with writer(folder) as write, progress.task("teacher", total=len(batches.rows)) as task:
                for batch in batches:
                    write(self._answers(batch.inputs))
                    task.advance(len(batch.ids))
        except OSError as e:
            progress.say(
                f"  The teacher's answers cannot be kept in {folder}: {e.strerror or e}."
                " It is asked again in each epoch where they do not fit into memory."
            )

    def _hold(self, batches: Batches, progress: "Progress", limit: int) -> None:
        parts: list[dict[str, Tensor]] = []
        with progress.task("teacher", total=len(batches.rows)) as task:
            for batch in batches:
                parts.append(self._answers(batch.inputs))
                task.advance(len(batch.ids))
                one = sum(t.nbytes for t in parts[0].values()) / len(next(iter(parts[0].values())))
                if one * len(batches.rows) > limit:
                    return
        self._kept = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}

    def answer(self, places: NDArray[np.intp], batch: Minibatch) -> dict[str, Tensor]:
        """The outputs for a batch, by name.

        Args:
            places: positions of the samples, as `Batches.epoch` gives them.
            batch: the samples.
        """
        if self._kept is None:
            return self._answers(batch.inputs)
        return {
            name: values[torch.from_numpy(places)]
            if isinstance(values, Tensor)
            else torch.from_numpy(values[places])
            for name, values in self._kept.items()
        }
