"""What the user says about pruning: data, checked before torch is imported."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Attention = Literal["heads", "head-dim"]
Recovery = Literal["least-squares", "batch-norm"]
Importance = Literal[
    "l1", "l2", "bn-scale", "activation", "reconstruction", "taylor", "fisher",
    "geometric-median", "random",
]  # fmt: skip
Allocation = Literal["uniform", "global", "sensitivity"]
Amount = Literal["sparsity", "macs", "parameters", "size_bytes"]
AMOUNTS: tuple[Amount, ...] = ("sparsity", "macs", "parameters", "size_bytes")
Fraction = Annotated[float, Field(gt=0, lt=1)]


class PruneConfig(BaseModel):
    """Structured pruning: how much to remove, by which score, where not.

    Exactly one of `sparsity`, `macs`, `parameters` and `size_bytes` says how much.

    Attributes:
        sparsity: fraction of the channels to remove, of every layer (uniform) or in all (global).
        macs: fraction of the multiply-accumulates to keep; met from below.
        parameters: fraction of the parameters to keep; met from below.
        size_bytes: most bytes that the weights may take: trained tensors and floating-point
            buffers, each in its own precision; met from below.
        importance: how channels are scored: `l1` and `l2` of their weights, `bn-scale` (of
            the batch norm), `activation` (what the layers behind would miss on calibration data),
            `reconstruction` (the same, once least squares have made up for it), `taylor` (weight
            times gradient of the loss), `fisher` (its diagonal of second order),
            `geometric-median` (how little a channel resembles the others), `random`. By default
            `reconstruction` where `recovery` has least squares, otherwise `l2`.
        allocation: `uniform` takes the same ratio from every layer, `global` the least important
            channels wherever they are, `sensitivity` loses least importance in all for the budget.
            By default `sensitivity` with `reconstruction` and a budget, otherwise `uniform`.
        layers: sparsity of single layers, by patterns on the user's module paths
            (`layers.0.*`); the first that matches counts.
        protect: patterns of layers whose width stays.
        minimum_channels: fewest channels that a layer keeps.
        multiple: kept channel counts are multiples of this, or the layer stays as it is.
        normalization: `prune` lets channels go that a layer norm, an RMS norm or a mean runs over
            (the residual stream of a transformer); what stays is normalised by its own statistics.
            `keep` leaves such channels whole.
        attention: which part of an attention layer loses indices, whole `heads` or the same
            dimensions of every head (`head-dim`); by default whichever there is more of. One word
            for all, or by patterns on the user's module paths.
        recovery: what is done without training afterwards, in this order: `least-squares` fits the
            weights of each layer that is left to what the layer said before, `batch-norm` takes
            the statistics of batch norms anew. Both look at the calibration split.
        iterations: prune in as many rounds, each by the same factor; what is left is scored, and
            recovered, anew in each.
        calibration: samples of the calibration split that importance and recovery look at.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sparsity: Fraction | None = None
    macs: Fraction | None = None
    parameters: Fraction | None = None
    size_bytes: int | None = Field(default=None, ge=1)
    importance: Importance | None = None
    allocation: Allocation | None = None
    layers: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(default_factory=dict)
    protect: tuple[str, ...] = ()
    minimum_channels: int = Field(default=4, ge=1)
    multiple: int | None = Field(default=None, ge=1)
    normalization: Literal["prune", "keep"] = "prune"
    attention: Attention | dict[str, Attention] | None = None
    recovery: tuple[Recovery, ...] = ()
    iterations: int = Field(default=1, ge=1, le=100)
    calibration: int = Field(default=256, ge=2)

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        given = [name for name in AMOUNTS if getattr(self, name) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "none of them"
            raise ValueError(f"give exactly one of {', '.join(AMOUNTS)}, not {said}")
        return self

    @property
    def scoring(self) -> Importance:
        """How channels are scored, given or by default."""
        if self.importance is not None:
            return self.importance
        return "reconstruction" if "least-squares" in self.recovery else "l2"

    @property
    def allocating(self) -> Allocation:
        """How layers share the budget, given or by default."""
        if self.allocation is not None:
            return self.allocation
        budget = self.sparsity is None and self.scoring == "reconstruction"
        return "sensitivity" if budget else "uniform"

    @property
    def scores_by_data(self) -> bool:
        """Whether the importance needs calibration samples."""
        return self.scoring in ("activation", "reconstruction", "taylor", "fisher")

    @property
    def looks_at_data(self) -> bool:
        """Whether calibration samples are needed."""
        return bool(self.recovery) or self.scores_by_data

    @property
    def amount(self) -> tuple[Amount, float]:
        """Which of the amounts was given, and its value."""
        for name in AMOUNTS:
            value = getattr(self, name)
            if value is not None:
                return name, float(value)
        raise AssertionError("the validator lets no configuration without an amount pass")
