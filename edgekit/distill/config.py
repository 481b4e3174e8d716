"""How a student learns from its teacher: data alone, so that a recipe can hold it."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgekit.train.config import TrainConfig

AnswerLoss = Literal[
    "kd", "dist", "dkd", "token-kd", "channel-kd", "detection", "mean-squared-error", "none"
]

FeatureLoss = Literal[
    "hint", "attention", "relation-distance", "relation-angle", "contrast", "matching"
]


class Heads(BaseModel):
    """A detector's raw outputs.

    Attributes:
        scores: the output with class logits, (n, anchors, classes) or (n, a*classes, h, w).
        boxes: the output with raw boxes, (n, anchors, 4) or (n, a*4, h, w).
        softmax: whether the classes share one softmax, its first the background; each has a
            sigmoid of its own otherwise.
        boxes_weight: of the boxes' loss, beside the scores'.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: str
    boxes: str
    softmax: bool = False
    boxes_weight: float = Field(default=1.0, ge=0)


class LayerPair(BaseModel):
    """Two layers by their names in the two networks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    student: str
    teacher: str


class FeatureConfig(BaseModel):
    """A loss between layers inside the two networks.

    Attributes:
        loss: `hint` (FitNets), `attention`, `relation-distance`, `relation-angle`, `contrast` (CRD)
            or `matching` (for generators and autoencoders).
        layers: names or patterns of layers that both networks have, or pairs `{student:,
            teacher:}`; edgekit pairs them unless given.
        weight: of the sum over the layers, beside the answers' loss.
        fade: share of the training over which the weight falls to zero, in a straight line, so that
            the answers alone decide in the end; 0 keeps it as it is. Unless given, `hint` fades
            over the first half, as FitNets trains in two stages, and the others do not.
        temperature: of `contrast`.
        width: of `contrast`: numbers in an embedding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: FeatureLoss
    layers: tuple[str | LayerPair, ...] = ()
    weight: float = Field(default=1.0, gt=0)
    fade: float | None = Field(default=None, ge=0, le=1)
    temperature: float = Field(default=0.07, gt=0)
    width: int = Field(default=128, ge=1)

    def left(self, passed: float) -> float:
        """What is left of the weight, 1 to 0, after a share of the training."""
        fade = self.fade if self.fade is not None else 0.5 * (self.loss == "hint")
        return max(0.0, 1.0 - passed / fade) if fade else 1.0


class DistillConfig(TrainConfig):
    """Hyper-parameters of distillation.

    Attributes:
        loss: between the answers: `kd`, `dist`, `dkd` for classes, `token-kd` for classes on the
            last axis, `channel-kd` for class maps, `detection` for raw heads,
            `mean-squared-error` for numbers, `none`; what suits the task unless given.
        temperature: both logits are divided by it before the softmax.
        label_weight: the share of the label loss, between 0 (labels unused) and 1.
        alpha: of `dkd`: weight of how sure the teacher is of the class.
        beta: of `dkd`: weight of how it ranks the other classes.
        mask: of `token-kd`: the input that is not 0 where a token counts.
        heads: of `detection`: the outputs.
        features: losses between layers inside.
    """

    loss: AnswerLoss | None = None
    temperature: float = Field(default=1.0, gt=0)
    label_weight: float = Field(default=0.1, ge=0, le=1)
    alpha: float = Field(default=1.0, ge=0)
    beta: float = Field(default=8.0, ge=0)
    mask: str | None = None
    heads: Heads | None = None
    features: tuple[FeatureConfig, ...] = ()

    @model_validator(mode="after")
    def _loss_has_what_it_needs(self) -> Self:
        if (self.loss == "detection") != (self.heads is not None):
            raise ValueError("`loss: detection` and `heads:` belong together")
        if self.mask is not None and self.loss != "token-kd":
            raise ValueError("`mask` belongs to `loss: token-kd`")
        return self
