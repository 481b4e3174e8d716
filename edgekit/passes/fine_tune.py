"""`fine-tune`: train the network on its own labels, after a step that cost accuracy."""

from typing import ClassVar, Literal

from edgekit.artifact import Artifact, Format
from edgekit.errors import PassError
from edgekit.passes.base import Context, Pass
from edgekit.passes.capture import save_program
from edgekit.train.config import TrainConfig


class FineTune(TrainConfig, Pass):
    """Supervised training on the recipe's training split."""

    accepts: ClassVar[frozenset[Format]] = frozenset({"pt2"})
    produces: ClassVar[Format | None] = "pt2"
    needs_data: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    kind: Literal["fine-tune"] = "fine-tune"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Fine-tune a `.pt2`."""
        from edgekit.train.trainer import train

        if context.data is None:
            raise PassError(f"{self.title} has no data.", "Add a `data:` section.")
        program, history = train(
            context.load(artifact.path),
            context.data,
            context.task,
            self,
            seed=context.seed,
            progress=context.progress,
            threads=context.threads,
        )
        context.notes["history"] = history.to_dict()
        return save_program(program, context, made_by=self.kind, parents=(artifact,))
