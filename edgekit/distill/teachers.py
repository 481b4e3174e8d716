"""Teachers other than one captured program: ONNX files, and several networks at once."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.artifact import Artifact, TensorSpec
from edgekit.errors import UsageError
from edgekit.evaluate import fixed_batch, predictor
from edgekit.graph.program import Program
from edgekit.train.teacher import Answers, full_batches, order

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

Network = Program | Artifact
"""A teacher: a captured program, or the artifact of an ONNX file."""

Combine = Callable[[str, list[Tensor]], Tensor]


class OnnxAnswers:
    """Answers of an ONNX file, from ONNX Runtime on the CPU.

    Args:
        artifact: the file.
        inputs: names of the tensors that batches hold, in order; a single one serves a single
            input, whatever their names.
        threads: CPU threads.

    Raises:
        UsageError: the file cannot be loaded, or needs an input that batches do not hold.
    """

    def __init__(self, artifact: Artifact, inputs: Sequence[str], threads: int = 1) -> None:
        self._specs = artifact.inputs
        self._order = order([spec.name for spec in artifact.inputs], inputs)
        self._size = fixed_batch(artifact)
        self._run = predictor(artifact, threads=threads)

    def __call__(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """The outputs by name."""
        chosen = tuple(inputs[i] for i in self._order)
        parts = [self._run(self._feeds(p)) for p in full_batches(chosen, self._size)]
        return {
            name: torch.cat([torch.from_numpy(part[name]) for part in parts])[: len(chosen[0])]
            for name in parts[0]
        }

    def _feeds(self, tensors: tuple[Tensor, ...]) -> "Mapping[str, NDArray[np.generic]]":
        return {
            spec.name: tensor.contiguous().to(getattr(torch, spec.dtype)).numpy()
            for spec, tensor in zip(self._specs, tensors, strict=True)
        }


class Renamed:
    """The one output of a network under another name."""

    def __init__(self, answers: Answers, name: str) -> None:
        self._answers, self._name = answers, name

    def __call__(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """The output by its new name."""
        (value,) = self._answers(inputs).values()
        return {self._name: value}


class Ensemble:
    """Several networks that answer as one.

    Args:
        members: the networks.
        combine: from an output's name and the members' values to one value.
    """

    def __init__(self, members: Sequence[Answers], combine: Combine) -> None:
        self._members, self._combine = members, combine

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """The outputs that all members have, by name."""
        answers = [member(inputs) for member in self._members]
        names = [name for name in answers[0] if all(name in a for a in answers)]
        return {name: self._combine(name, [a[name] for a in answers]) for name in names}


def combine_by(judged: str, *, soft: bool, axis: int | None) -> Combine:
    """How an ensemble's outputs are combined: probabilities and numbers by their mean.

    Args:
        judged: the output that the task judges.
        soft: whether it holds logits of classes.
        axis: its axis of classes; None where each number is the logit of the second of two.
    """

    def combine(name: str, values: list[Tensor]) -> Tensor:
        if name != judged or not soft:
            return torch.stack(values).mean(0)
        return mean_of_classes(values, axis)

    return combine


def mean_of_classes(logits: Sequence[Tensor], axis: int | None) -> Tensor:
    """Logits whose probabilities are the mean of the members' probabilities.

    With classes, log mean_k softmax(z_k): its softmax is that mean. Without, the log-odds of
    mean_k sigmoid(z_k). Both are computed from logarithms, so that nothing rounds to 0 or 1.

    Args:
        logits: one tensor for each member, all of one shape.
        axis: of the classes; None where each number is the logit of the second of two.
    """
    if axis is not None:
        logs = torch.stack([functional.log_softmax(z, dim=axis) for z in logits])
        return logs.logsumexp(0) - math.log(len(logits))
    z = torch.stack(list(logits))
    return functional.logsigmoid(z).logsumexp(0) - functional.logsigmoid(-z).logsumexp(0)


def one_name(student: Sequence[TensorSpec], teacher: Sequence[TensorSpec]) -> str | None:
    """The student's name for the one output that both networks have under different names."""
    if len(student) == len(teacher) == 1 and student[0].name != teacher[0].name:
        return student[0].name
    return None


def only_program(teachers: Sequence[Network]) -> Program:
    """The one captured program that features are taken from.

    Raises:
        UsageError: there are several teachers, or the one is an ONNX file.
    """
    first = teachers[0]
    if len(teachers) == 1 and isinstance(first, Program):
        return first
    what = f"{len(teachers)} teachers" if len(teachers) > 1 else "an ONNX file"
    raise UsageError(
        f"`features` need layers inside the teacher, and it is {what}.",
        "Give one .pt2 as the teacher, or leave `features` out.",
    )
