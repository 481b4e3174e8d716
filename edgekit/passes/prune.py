"""`prune`: remove whole channels by coupling analysis over the captured graph."""

from collections.abc import Sequence
from math import lcm
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from edgekit.artifact import Artifact, Format
from edgekit.errors import PassError
from edgekit.passes.base import Context, Pass
from edgekit.passes.capture import save_program
from edgekit.prune.config import PruneConfig
from edgekit.target import Target

if TYPE_CHECKING:
    from edgekit.graph.program import Program


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

    @property
    def reads_data(self) -> bool:
        """Importance and recovery may need samples."""
        return self.looks_at_data

    def _renew_statistics(self, program: "Program", context: Context) -> "Program":
        if "batch-norm" not in self.recovery or context.data is None:
            return program
        from edgekit.train.batch_norm import reestimate_batch_norm

        return reestimate_batch_norm(
            program,
            context.data,
            context.task,
            seed=context.seed,
            progress=context.progress,
            threads=context.threads,
        )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Prune a `.pt2`."""
        from edgekit.prune.calibration import open_calibration
        from edgekit.prune.prune import prune

        whole, calibration = context.load(artifact.path), None
        if self.looks_at_data:
            if context.data is None:
                raise PassError(f"{self.title} has no data.", "Add a `data:` section.")
            calibration = open_calibration(
                whole, context.data, context.task, self, seed=context.seed
            )
        program, report = prune(
            whole, self, seed=context.seed, calibration=calibration, progress=context.progress
        )
        program = self._renew_statistics(program, context)
        context.notes.update(report.to_dict())
        for warning in report.warnings:
            context.warn(warning)
        return save_program(program, context, made_by=self.kind, parents=(artifact,))
