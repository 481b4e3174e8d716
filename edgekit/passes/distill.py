"""`distill`: train the network to answer as its teacher does."""

from pathlib import Path
from typing import ClassVar, Literal

from edgekit.artifact import Artifact, Format, content_hash
from edgekit.distill.config import DistillConfig
from edgekit.errors import PassError, UsageError
from edgekit.passes.base import Context, Pass
from edgekit.passes.capture import save_program


class Distill(DistillConfig, Pass):
    """Distillation, with the original as the teacher unless another one is named.

    Attributes:
        teacher: `original`, or a `.pt2` file relative to the recipe.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({"pt2"})
    produces: ClassVar[Format | None] = "pt2"
    needs_data: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    kind: Literal["distill"] = "distill"
    teacher: str = "original"

    def reads(self, context: Context) -> tuple[str, ...]:
        """The teacher's content hash."""
        if self.teacher == "original" and context.original is not None:
            return (context.original.content_hash,)
        return (content_hash([self._teacher_path(context)]),)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Distil into a `.pt2`."""
        from edgekit.distill.distill import distill

        if context.data is None:
            raise PassError(f"{self.title} has no data.", "Add a `data:` section.")
        program, history, pairs = distill(
            context.load(artifact.path),
            context.load(self._teacher_path(context)),
            context.data,
            context.task,
            self,
            seed=context.seed,
            progress=context.progress,
            threads=context.threads,
        )
        context.notes["history"] = history.to_dict()
        if pairs:
            context.notes["features"] = pairs
        context.notes["teacher"] = self.reads(context)[0]
        return save_program(program, context, made_by=self.kind, parents=(artifact,))

    def _teacher_path(self, context: Context) -> Path:
        if self.teacher != "original":
            path = context.base / self.teacher
        elif context.original is not None:
            path = context.original.path
        else:
            raise UsageError("There is no original to learn from.", "Give `teacher: FILE.pt2`.")
        if path.suffix != ".pt2":
            raise UsageError(f"The teacher {path} is not a .pt2 program.", "Capture it first.")
        return path
