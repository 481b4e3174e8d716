"""How post-training quantization is done: data alone, so that a recipe can hold it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PtqConfig(BaseModel):
    """Hyper-parameters of post-training quantization.

    Attributes:
        samples: calibration samples to use, at most; having fewer is a warning where this is given.
        exclude: patterns (`fnmatch`) of node names, module paths or operator types that stay in
            float32, such as `stem/*` or `Softmax`.
        bias_correction: take back the shift of each layer's mean that rounding causes.
        bias_samples: calibration samples to use for that, at most; each layer runs them once.
        ranges: what an activation's range is taken from: the smallest and largest value over all
            samples, or the mean over samples of each one's smallest and largest.
        transformer: place quantizers for attention blocks.
        smooth_quant_alpha: move activation outliers into the weights by this much (0 to 1) before
            matrix products of a transformer; None leaves them.
        minimum_channels: layers with fewer input or output channels than this stay in float32;
            integer kernels cost more than they save there. Of a grouped convolution one group's
            channels count, so 2 keeps depthwise convolutions in float32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(default=256, ge=1)
    exclude: tuple[str, ...] = ()
    bias_correction: bool = True
    bias_samples: int = Field(default=64, ge=1)
    ranges: Literal["min-max", "mean-min-max"] = "min-max"
    transformer: bool = False
    smooth_quant_alpha: float | None = Field(default=None, ge=0.0, le=1.0)
    minimum_channels: int = Field(default=1, ge=1)
