"""`fine-tune`: train the network on its own labels, after a step that cost accuracy."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from edgekit.artifact import Artifact, Format
from edgekit.passes.base import Context
from edgekit.passes.capture import save_program
from edgekit.passes.shares import DataShares
from edgekit.train.config import TrainConfig

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.graph.program import Program
    from edgekit.train.history import History


class FineTune(TrainConfig, DataShares):
    """Supervised training on the recipe's training split.

    Attributes:
        sparsify: sparse training before `prune`: pull whole channels towards zero, by the norm of
            all that goes with them (`group-l2`), weight by weight (`group-l1`), or by the scales of
            batch norms (`bn-scale`).
        sparsify_strength: how strongly: what each weight of a channel loses a step, in learning
            rates.
        classes: give the network a new last layer for so many classes first, to train it on
            another data set.
        head_epochs: epochs in which the new layer alone learns; all of it does afterwards.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({"pt2"})
    produces: ClassVar[Format | None] = "pt2"
    needs_data: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    kind: Literal["fine-tune"] = "fine-tune"
    sparsify: Literal["group-l2", "group-l1", "bn-scale"] | None = None
    sparsify_strength: float = Field(default=0.1, gt=0)
    classes: int | None = Field(default=None, ge=1)
    head_epochs: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _head_is_new(self) -> Self:
        if self.head_epochs and self.classes is None:
            raise ValueError("`head_epochs` needs `classes`: the number of the new layer's")
        return self

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Fine-tune a `.pt2`."""
        from edgekit.train.trainer import train

        network, shrinkage, config = context.load(artifact.path), None, self
        if self.classes is not None:
            network, config = self._with_new_head(network, self.classes, context)
        if self.sparsify is not None:
            from edgekit.prune.sparsify import groups_of

            groups = groups_of(network, self.sparsify)
            shrinkage = (self.sparsify, self.sparsify_strength, groups)

        def trained(data: "Dataset", config: TrainConfig, **lent: Any) -> "tuple[Program, History]":
            return train(network, data, context.task, config, shrinkage=shrinkage, **lent)

        program = self.train_with_shares(config, artifact, context, trained)
        return save_program(program, context, made_by=self.kind, parents=(artifact,))

    def _with_new_head(
        self, network: "Program", classes: int, context: Context
    ) -> tuple["Program", "FineTune"]:
        """The network with a new last layer, and what is frozen while that alone learns."""
        from edgekit.graph.head import replace_head
        from edgekit.train.losses import output_name

        judged = output_name(context.task, network)
        network, names = replace_head(network, judged, classes, seed=context.seed)
        context.notes["new_head"] = list(names)
        freeze: dict[str, int | None] = dict(self.freeze)
        if self.head_epochs:
            for name in network.exported.state_dict:
                layer = name.rpartition(".")[0] or name
                if name not in names and not name.startswith(f"{names[0].rpartition('.')[0]}."):
                    freeze.setdefault(layer, self.head_epochs)
        return network, self.model_copy(update={"freeze": freeze})
