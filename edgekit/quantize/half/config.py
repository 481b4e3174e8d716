"""What a user may choose about half precision; imports nothing heavy."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Half = Literal["float16", "bfloat16"]


class HalfConfig(BaseModel):
    """How a network is cast to half precision.

    Attributes:
        precision: `float16` or `bfloat16`; the fastest of the two that the target has, unless
            given.
        samples: calibration samples to look at.
        headroom: how many times larger than on calibration data a tensor may become before it
            overflows.
        min_sqnr_db: smallest signal to noise ratio of each output against float32, decibels;
            layers are kept in float32 until it is held.
        exclude: patterns (`fnmatch`) of node names, module paths or operator types that stay
            float32, such as `head.*` or `Gelu`.
        float32_products: whether the target multiplies float32 matrices. TensorRT-RTX on Turing
            does not: there no product is kept for underflow alone, and one that must be kept is
            refused. Follows from the target.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: Half | None = None
    samples: int = Field(default=16, ge=1)
    headroom: float = Field(default=2.0, ge=1, allow_inf_nan=False)
    min_sqnr_db: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    exclude: tuple[str, ...] = ()
    float32_products: bool = True
