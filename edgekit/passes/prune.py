"""`prune`: remove whole channels by coupling analysis over the captured graph."""

from collections.abc import Sequence
from math import lcm
from typing import ClassVar, Literal, Self

from edgekit.artifact import Artifact, Format
from edgekit.passes.base import Context, Pass
from edgekit.passes.capture import save_program
from edgekit.prune.config import PruneConfig
from edgekit.target import Target


class Prune(PruneConfig, Pass):
    """Structured pruning: fewer channels, the same operators, a network that still trains."""

    accepts: ClassVar[frozenset[Format]] = frozenset({"pt2"})
    produces: ClassVar[Format | None] = "pt2"

    kind: Literal["prune"] = "prune"

    def resolve(self, targets: Sequence[Target]) -> Self:
        """Take the channel multiple that suits every target of the shared chain."""
        if self.multiple is not None or not targets:
            return self
        return self.model_copy(update={"multiple": lcm(*(t.channel_multiple for t in targets))})

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Prune a `.pt2`."""
        from edgekit.prune.prune import prune

        program, report = prune(context.load(artifact.path), self, seed=context.seed)
        context.notes.update(report.to_dict())
        for warning in report.warnings:
            context.warn(warning)
        return save_program(program, context, made_by=self.kind, parents=(artifact,))
