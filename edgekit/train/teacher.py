"""A network that only answers: its outputs for batches, kept where the samples stay the same."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.errors import UsageError
from edgekit.train.batches import MEMORY_BYTES, Batches, Minibatch
from edgekit.train.layout import fast_inputs, fast_layout

if TYPE_CHECKING:
    from edgekit.graph.program import Program
    from edgekit.progress import Progress


class Teacher:
    """Answers of a frozen network.

    Args:
        program: the network; it runs in eval mode, without gradients.
        inputs: names of the tensors that batches hold, in order; a single one serves a single
            input, whatever their names.

    Raises:
        UsageError: the network needs an input that batches do not hold.
    """

    def __init__(self, program: "Program", inputs: Sequence[str]) -> None:
        needs = [spec.name for spec in program.inputs]
        if len(needs) == len(inputs) == 1:
            needs = list(inputs)
        if missing := [name for name in needs if name not in inputs]:
            raise UsageError(
                f"The teacher takes {', '.join(missing)}, the student {', '.join(inputs)}.",
                "Give both networks the same inputs.",
            )
        self._order = [list(inputs).index(name) for name in needs]
        self._module = program.module()
        fast_layout(self._module)
        self._names = [spec.name for spec in program.outputs]
        axis = program.inputs[0].shape[0] if program.inputs[0].shape else ""
        self._static = axis if isinstance(axis, int) else None
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
                parts.append(self._run(batch.inputs))
                task.advance(len(batch.ids))
                one = sum(t.nbytes for t in parts[0].values()) / len(next(iter(parts[0].values())))
                if one * len(batches.rows) > limit:
                    return
        self._kept = {name: torch.cat([p[name] for p in parts]) for name in self._names}

    def answer(self, places: NDArray[np.intp], batch: Minibatch) -> dict[str, Tensor]:
        """The outputs for a batch, by name.

        Args:
            places: positions of the samples, as `Batches.epoch` gives them.
            batch: the samples.
        """
        if self._kept is not None:
            index = torch.from_numpy(places)
            return {name: values[index] for name, values in self._kept.items()}
        return self._run(batch.inputs)

    @torch.no_grad()
    def _run(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        chosen = fast_inputs([inputs[i] for i in self._order])
        count = len(chosen[0])
        if self._static is None:
            return dict(zip(self._names, self._module(*chosen), strict=True))
        # A network for batches of one size is fed full ones, the last padded with its first rows.
        index = torch.arange(-(-count // self._static) * self._static) % count
        parts = [self._module(*(t[i] for t in chosen)) for i in torch.split(index, self._static)]
        whole = [torch.cat(p)[:count] for p in zip(*parts, strict=True)]
        return dict(zip(self._names, whole, strict=True))
