"""A network that only answers: its outputs for batches, kept where the samples stay the same."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.errors import UsageError
from edgekit.graph.taps import add_outputs
from edgekit.train.batches import MEMORY_BYTES, Batches, Minibatch
from edgekit.train.layout import fast_inputs, fast_layout

if TYPE_CHECKING:
    from edgekit.graph.program import Program
    from edgekit.progress import Progress


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
        self._kept: dict[str, Tensor] | None = None

    def remember(self, batches: Batches, progress: "Progress", limit: int = MEMORY_BYTES) -> None:
        """Answer all samples once, where they stay the same and the answers fit into memory.

        Args:
            batches: what will be asked.
            progress: shows how far it is.
            limit: bytes that the answers may take.
        """
        if not (batches.fixed and batches.in_memory):
            return
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
        if self._kept is not None:
            index = torch.from_numpy(places)
            return {name: values[index] for name, values in self._kept.items()}
        return self._answers(batch.inputs)
