"""`distill`: train the network to answer as its teacher does."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator

from edgekit.artifact import Artifact, Format, content_hash
from edgekit.distill.config import DistillConfig
from edgekit.errors import UsageError
from edgekit.passes.base import Context
from edgekit.passes.capture import save_program
from edgekit.passes.shares import DataShares

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.distill.teachers import Network
    from edgekit.graph.program import Program
    from edgekit.train.history import History


class Distill(DistillConfig, DataShares):
    """Distillation, with the original as the teacher unless another one is named.

    Attributes:
        teacher: `original`, or a `.pt2` or `.onnx` file relative to the recipe; a list answers
            with the mean of its members' probabilities.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({"pt2"})
    produces: ClassVar[Format | None] = "pt2"
    needs_data: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    kind: Literal["distill"] = "distill"
    teacher: str | tuple[str, ...] = "original"

    @field_validator("teacher")
    @classmethod
    def _somebody(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value:
            raise ValueError("there is no teacher in the list")
        return value

    def reads(self, context: Context) -> tuple[str, ...]:
        """The teachers' content hashes."""
        return tuple(_hash(name, context) for name in self._names())

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Distil into a `.pt2`."""
        from edgekit.distill.distill import distill

        student = context.load(artifact.path)
        teachers = [_open(name, context) for name in self._names()]

        def trained(
            data: "Dataset", config: DistillConfig, **lent: Any
        ) -> "tuple[Program, History]":
            program, history, pairs = distill(student, teachers, data, context.task, config, **lent)
            if pairs:
                context.notes["features"] = pairs
            return program, history

        program = self.train_with_shares(self, artifact, context, trained)
        hashes = self.reads(context)
        context.notes["teacher"] = hashes[0] if len(hashes) == 1 else hashes
        return save_program(program, context, made_by=self.kind, parents=(artifact,))

    def _names(self) -> tuple[str, ...]:
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher


def _hash(name: str, context: Context) -> str:
    if name == "original" and context.original is not None:
        return context.original.content_hash
    path = _path(name, context)
    if path.suffix == ".onnx":
        from edgekit.evaluate import open_artifact

        return open_artifact(path).content_hash  # external data too
    return content_hash([path])


def _open(name: str, context: Context) -> "Network":
    path = _path(name, context)
    if path.suffix == ".onnx":
        from edgekit.evaluate import open_artifact

        return open_artifact(path)
    return context.load(path)


def _path(name: str, context: Context) -> Path:
    if name != "original":
        path = context.base / name
    elif context.original is not None:
        path = context.original.path
    else:
        raise UsageError("There is no original to learn from.", "Give `teacher: FILE.pt2`.")
    if path.suffix not in (".pt2", ".onnx"):
        raise UsageError(
            f"The teacher {path} is neither a .pt2 program nor an .onnx file.", "Capture it first."
        )
    return path
