"""`shrink`: a student made from the network itself, narrower or with fewer blocks."""

from collections.abc import Sequence
from math import lcm
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from edgekit.artifact import Artifact, Format
from edgekit.passes.base import Context, Pass
from edgekit.passes.capture import save_program
from edgekit.target import Target

Share = Annotated[float, Field(gt=0, lt=1)]


class Shrink(Pass):
    """A sibling of the network: all layers at one share of their width, stages of fewer blocks.

    Attributes:
        width: share of the channels, heads and hidden units that every layer keeps.
        depth: share of the blocks that stay where residual blocks of one form follow each other:
            at least one of each stage, evenly spread.
        weights: `kept` leaves the channels of largest norm and the blocks that stay as they were;
            `new` draws all weights anew.
        multiple: kept channel counts are multiples of this, or the layer stays as it is.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({"pt2"})
    produces: ClassVar[Format | None] = "pt2"

    kind: Literal["shrink"] = "shrink"
    width: Share | None = None
    depth: Share | None = None
    weights: Literal["kept", "new"] = "kept"
    multiple: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _something_shrinks(self) -> Self:
        if self.width is None and self.depth is None:
            raise ValueError("give `width` or `depth`, or both")
        return self

    def resolve(self, targets: Sequence[Target]) -> Self:
        """Take the channel multiple that suits every target of the shared chain."""
        if self.multiple is not None or not targets:
            return self
        return self.model_copy(update={"multiple": lcm(*(t.channel_multiple for t in targets))})

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Shrink a `.pt2`."""
        from edgekit.graph.blocks import keep_blocks
        from edgekit.graph.cost import cost
        from edgekit.graph.renew import renew
        from edgekit.prune.config import PruneConfig
        from edgekit.prune.prune import prune

        whole = program = context.load(artifact.path)
        if self.depth is not None:
            program, gone = keep_blocks(program, self.depth)
            context.notes["blocks_left_out"] = gone
        if self.width is not None:
            config = PruneConfig(
                sparsity=1 - self.width, importance="l2", minimum_channels=1, multiple=self.multiple
            )
            program, report = prune(program, config, seed=context.seed, progress=context.progress)
            context.notes["groups"] = report.to_dict()["groups"]
            for warning in report.warnings:
                context.warn(warning)
        if self.weights == "new":
            program = renew(program, seed=context.seed)
        before, after = cost(whole), cost(program)
        context.notes |= {
            "macs_before": before.macs,
            "macs_after": after.macs,
            "parameters_before": before.parameters,
            "parameters_after": after.parameters,
        }
        return save_program(program, context, made_by=self.kind, parents=(artifact,))
