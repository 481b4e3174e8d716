"""How a network is trained: data alone, so that a recipe can hold it."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainConfig(BaseModel):
    """Hyper-parameters of training.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples at once, in each process.
        accumulate: batches whose gradients are added up to one step.
        optimizer: `adamw` (Loshchilov & Hutter, arXiv:1711.05101) or `sgd` with momentum.
        learning_rate: its peak.
        weight_decay: decoupled for AdamW.
        l1: strength of Σ|w| over the weights, beside the loss.
        l2: strength of Σw²/2 over the weights, beside the loss; unlike `weight_decay` it passes
            through AdamW's division.
        dropout: probability of every dropout of the network; None leaves each its own.
        momentum: of SGD.
        schedule: `cosine` to zero, `constant`, or `one-cycle` (Smith & Topin, arXiv:1708.07120).
        warmup_fraction: share of all steps in which the learning rate rises; 0.05 unless given, and
            0.3 for `one-cycle`.
        gradient_clip: largest norm of the whole gradient; None does not clip.
        label_smoothing: of the cross-entropy with the labels.
        augment: `shift` moves each image by up to 2 pixels; `mixup` (arXiv:1710.09412) blends pairs
            of samples, `cutmix` (arXiv:1905.04899) pastes a rectangle of one into the other; `none`
            leaves samples alone.
        mix_alpha: of `mixup` and `cutmix`: shares are drawn from Beta(alpha, alpha).
        ema: decay of the average of the weights that is kept as the result; None keeps the last.
        batch_norm: `train` follows the batches' statistics, taken over all processes; `frozen`
            keeps the running ones, and trains scales and shifts alone.
        freeze: pattern of a layer's or weight's name to the number of epochs for which it does not
            learn; `null` for all of them.
        precision: of the forward and backward pass; weights are float32. `bfloat16` and `float16`
            need accelerate.
        parallel: what each of several processes holds: all weights (`replicated`), or its part of
            weights, gradients and optimizer state, put together in each step (`sharded`, FSDP).
        validation: share of the training samples that is held out to be judged after each epoch.
        patience: epochs without a better metric on them after which training stops; the best
            epoch's weights are kept. Needs `validation`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)
    accumulate: int = Field(default=1, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    l1: float = Field(default=0.0, ge=0)
    l2: float = Field(default=0.0, ge=0)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["cosine", "constant", "one-cycle"] = "cosine"
    warmup_fraction: float | None = Field(default=None, ge=0, lt=1)
    gradient_clip: float | None = Field(default=1.0, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: Literal["none", "shift", "mixup", "cutmix"] = "none"
    mix_alpha: float = Field(default=1.0, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    batch_norm: Literal["train", "frozen"] = "train"
    freeze: dict[str, int | None] = Field(default_factory=dict)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    parallel: Literal["replicated", "sharded"] = "replicated"
    validation: float = Field(default=0.0, ge=0, le=0.5)
    patience: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _patience_has_a_metric(self) -> Self:
        if self.patience is not None and not self.validation:
            raise ValueError("`patience` needs `validation`: samples that are held out")
        if any(epochs is not None and epochs < 1 for epochs in self.freeze.values()):
            raise ValueError("`freeze` takes a number of epochs of 1 or more, or null for all")
        return self

    @model_validator(mode="after")
    def _shards_are_plain(self) -> Self:
        if self.parallel == "sharded" and self.precision != "float32":
            raise ValueError(
                "`parallel: sharded` does not go with `precision`; leave one of them out"
            )
        return self
