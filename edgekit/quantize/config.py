"""How post-training quantization is done: data alone, so that a recipe can hold it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgekit.target import EnergyRates, RuntimeName

Ranges = Literal["min-max", "mean-min-max", "percentile", "mse", "kl"]
Method = Literal["auto", "static", "dynamic"]

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class PtqConfig(BaseModel):
    """Hyper-parameters of post-training quantization.

    Attributes:
        samples: calibration samples to use, at most; having fewer is a warning where this is given.
        exclude: patterns (`fnmatch`) of node names, module paths or operator types that stay in
            float32, such as `stem/*` or `Softmax`.
        bias_correction: take back the shift of each layer's mean that rounding causes.
        bias_samples: calibration samples to use for that, at most; each layer runs them once.
        ranges: what an activation's range is taken from: the smallest and largest value over all
            samples (`min-max`), the mean over samples of each one's smallest and largest
            (`mean-min-max`), or the range from a histogram that leaves out the rarest values
            (`percentile`), has the least squared error (`mse`) or keeps the distribution (`kl`).
        percentile: share of the values within the range `percentile`, percent.
        transformer: place quantizers for attention blocks.
        smooth_quant_alpha: move activation outliers into the weights by this much (0 to 1) before
            matrix products of a transformer; None leaves them.
        equalize: scale channels between layers so that their weights' ranges are alike.
        adaround: choose for each weight whether it is rounded up or down by what its layer gives
            out, not by what is nearer; minutes on a large network. Patterns, as of `exclude`, name
            the layers that need it.
        per_channel: a scale for each output channel of a weight. One for the whole weight is less
            accurate, and faster in small matrix products.
        minimum_channels: layers with fewer input or output channels than this stay in float32;
            integer kernels cost more than they save there. Of a grouped convolution one group's
            channels count, so 2 keeps depthwise convolutions in float32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(default=256, ge=1)
    exclude: tuple[str, ...] = ()
    bias_correction: bool = True
    bias_samples: int = Field(default=64, ge=1)
    ranges: Ranges = "min-max"
    percentile: float = Field(default=99.99, gt=50.0, le=100.0)
    transformer: bool = False
    smooth_quant_alpha: float | None = Field(default=None, ge=0.0, le=1.0)
    equalize: bool = False
    adaround: bool | tuple[str, ...] = False
    per_channel: bool = True
    minimum_channels: int = Field(default=1, ge=1)


class GuardGate(BaseModel):
    """What a quantized model may lose against its parent before the guard repairs or refuses it.

    Attributes:
        accuracy_drop: largest drop of the task's metric, as a fraction; of a metric that is no
            fraction (an error, decibels) a share of the parent's value. Without labels, the largest
            share of samples with another answer.
        sqnr_db: least signal to noise ratio of each output against the parent's, decibels, where
            there are neither labels nor classes.
        slowdown: how much slower than the parent is allowed, as a fraction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy_drop: Fraction = 0.01
    sqnr_db: float = Field(default=20.0, allow_inf_nan=False)
    slowdown: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)


class Budget(BaseModel):
    """What the whole model may cost; layers go to int8 until it holds. One of these.

    Attributes:
        latency_ms: median latency on the target's runtime, milliseconds.
        size_bytes: bytes of the file.
        energy_j: joules of one inference, estimated from the target's published rates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    size_bytes: int | None = Field(default=None, gt=0)
    energy_j: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one(self) -> "Budget":
        if len(self.given()) != 1:
            raise ValueError("a budget is one of latency_ms, size_bytes and energy_j")
        return self

    def given(self) -> dict[str, float]:
        """The one that is given, by name."""
        return {k: float(v) for k, v in self.model_dump().items() if v is not None}


class Place(BaseModel):
    """Where the quantized model will run, as far as the guard must know.

    Attributes:
        runtime: what runs it.
        machine: the processor architecture, None for any.
        threads: CPU threads of the runtime.
        energy: published rates, for a budget in joules.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: RuntimeName
    machine: str | None = None
    threads: int = Field(default=1, ge=1)
    energy: EnergyRates | None = None
