"""How a network is trained: data alone, so that a recipe can hold it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """Hyper-parameters of training.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples at once.
        optimizer: `adamw` (Loshchilov & Hutter, arXiv:1711.05101) or `sgd` with momentum.
        learning_rate: its peak.
        weight_decay: decoupled for AdamW.
        momentum: of SGD.
        schedule: `cosine` to zero, or `constant`, after the warm-up.
        warmup_fraction: share of all steps in which the learning rate rises from zero.
        gradient_clip: largest norm of the whole gradient; None does not clip.
        label_smoothing: of the cross-entropy with the labels.
        augment: `shift` moves each image by up to 2 pixels; `none` leaves samples alone.
        ema: decay of the average of the weights that is kept as the result; None keeps the last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    gradient_clip: float | None = Field(default=1.0, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: Literal["none", "shift"] = "none"
    ema: float | None = Field(default=None, gt=0, lt=1)
