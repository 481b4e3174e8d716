"""`fine-tune`: train the network on its own labels, after a step that cost accuracy."""

from typing import ClassVar, Literal

from pydantic import Field

from edgekit.artifact import Artifact, Format
from edgekit.errors import PassError
from edgekit.passes.base import Context, Pass
from edgekit.passes.capture import save_program
from edgekit.passes.keeping import keep_of
from edgekit.train.config import TrainConfig


class FineTune(TrainConfig, Pass):
    """Supervised training on the recipe's training split.

    Attributes:
        sparsify: sparse training before `prune`: pull whole channels towards zero, by the norm of
            all that goes with them (`group-l2`), weight by weight (`group-l1`), or by the scales of
            batch norms (`bn-scale`).
        sparsify_strength: how strongly: what each weight of a channel loses a step, in learning
            rates.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({"pt2"})
    produces: ClassVar[Format | None] = "pt2"
    needs_data: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    kind: Literal["fine-tune"] = "fine-tune"
    sparsify: Literal["group-l2", "group-l1", "bn-scale"] | None = None
    sparsify_strength: float = Field(default=0.1, gt=0)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Fine-tune a `.pt2`."""
        from edgekit.train.trainer import train

        if context.data is None:
            raise PassError(f"{self.title} has no data.", "Add a `data:` section.")
        network, shrinkage = context.load(artifact.path), None
        if self.sparsify is not None:
            from edgekit.prune.sparsify import groups_of

            groups = groups_of(network, self.sparsify)
            shrinkage = (self.sparsify, self.sparsify_strength, groups)
        program, history = train(
            network,
            context.data,
            context.task,
            self,
            seed=context.seed,
            progress=context.progress,
            threads=context.threads,
            shrinkage=shrinkage,
            keep=keep_of(self, artifact, context),
        )
        context.notes["history"] = history.to_dict()
        return save_program(program, context, made_by=self.kind, parents=(artifact,))
