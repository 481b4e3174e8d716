"""A target: what a device can use, as data. One YAML file a device class, in `edgekit/targets/`."""

import difflib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgekit.errors import RecipeError

FOLDER = Path(__file__).parent / "targets"
DIALECTS = FOLDER / "dialects"
SUFFIXES = (".yaml", ".yml")  # a target of the user's own is a file

RuntimeName = Literal["onnxruntime", "tensorrt", "tensorrt-rtx", "openvino"]
Precision = Literal["float32", "float16", "bfloat16", "int8"]


class IntegerScheme(BaseModel):
    """How 8-bit integers must be written for a target's kernels to be right and fast: its dialect.

    A name, such as `tensorrt`, stands for the dialect of that name in `edgekit/targets/dialects/`.

    Attributes:
        name: the dialect's name, such as `ort-x86-avx2`.
        title: what runs it.
        activation: dtype of quantized activations.
        activation_symmetric: zero points are fixed (0 for int8).
        weight_bits: 8, or 7 where 8-bit weights would saturate 16-bit sums (u8×s8 without VNNI).
        per_channel: one weight scale for each output channel.
        per_channel_activations: the runtime has kernels for activations with a scale a channel.
        quantize_bias: whether an int32 bias with its own DequantizeLinear is allowed.
        skip_input_of_add: residual adds are quantized on the skip input only (TensorRT's fusion).
        integer_outputs: an integer kernel needs Q/DQ on its output too, or it computes in float.
        integer_operators: whether QLinearConv and its like are taken beside the Q/DQ form.
        dynamic_operators: operators of dynamic quantization that are fast there.
        shared_scales: operators whose quantized inputs must have one scale.
        kept_scales: operators whose quantized output must have the scale of their inputs.
        high_precision: operators that compute in float there; Q/DQ before them only costs.
        minimum_channels: convolutions with fewer channels gain nothing from int8.
        domains: operator domains that the runtime has beside ONNX's own.
        unverified: why the dialect was never tried on its device; empty where it was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str = ""
    activation: Literal["uint8", "int8"]
    activation_symmetric: bool
    weight_bits: Literal[7, 8] = 8
    per_channel: bool = True
    per_channel_activations: bool = False
    quantize_bias: bool = False
    skip_input_of_add: bool = False
    integer_outputs: bool = False
    integer_operators: bool = True
    dynamic_operators: tuple[str, ...] = ()
    shared_scales: tuple[str, ...] = ()
    kept_scales: tuple[str, ...] = ()
    high_precision: tuple[str, ...] = ()
    minimum_channels: int = Field(default=1, ge=1)
    domains: tuple[str, ...] = ()
    unverified: str = ""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in dialects():
            raise ValueError(f"no dialect {value!r}; there are {', '.join(dialects())}")
        return yaml.safe_load((DIALECTS / f"{value}.yaml").read_text(encoding="utf-8"))


class EnergyRates(BaseModel):
    """What arithmetic and memory cost, for an estimate where nothing can be measured.

    Attributes:
        pj_per_mac: picojoules of a multiply-accumulate, by precision.
        pj_per_byte: picojoules of a byte from or to the main memory.
        source: where the figures were published, and for which process and memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pj_per_mac: dict[Precision, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    pj_per_byte: float = Field(gt=0, allow_inf_nan=False)
    source: str = Field(min_length=1)


class Target(BaseModel):
    """A device class: its runtime, what its kernels want, and its meters.

    Attributes:
        name: the name used in recipes and on the command line.
        title: what a person calls it.
        device_class: cpu, gpu or npu.
        machine: its processor architecture as `uname -m` prints it, None for any.
        runtime: what runs the model there.
        build: the engine builder, where one is needed.
        precisions: what the runtime can compute in, fastest first.
        int8: the integer scheme, None where the target has no use for int8.
        channel_multiple: channel counts that its kernels use best are multiples of this.
        sparsity: sparsity patterns that its kernels can exploit, such as `2:4`.
        compute_capabilities: for GPUs, such as `8.9`.
        dla_cores: how many deep learning accelerators it has at most, 0 for none.
        opset: the ONNX opset to export.
        tensorrt: the oldest TensorRT that such a device may have, such as `10.3`, where it counts.
        threads: CPU threads that its runtime uses unless told otherwise.
        meters: energy meters to try, best first.
        energy: what the meter `estimate` reckons with, None where nothing is published.
        notes: facts that a user of this target should know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    device_class: Literal["cpu", "gpu", "npu"]
    machine: str | None = None
    runtime: RuntimeName
    build: Literal["tensorrt", "tensorrt-rtx"] | None = None
    precisions: tuple[Precision, ...]
    int8: IntegerScheme | None = None
    channel_multiple: int = Field(default=8, ge=1)
    sparsity: tuple[str, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    dla_cores: int = Field(default=0, ge=0)
    opset: int = Field(default=20, ge=13)
    tensorrt: str | None = Field(default=None, pattern=r"^\d+\.\d+$")
    threads: int = Field(default=1, ge=1)
    meters: tuple[str, ...] = ()
    energy: EnergyRates | None = None
    notes: tuple[str, ...] = ()


@cache
def dialects() -> tuple[str, ...]:
    """Names of the integer dialects that ship with edgekit, sorted."""
    return tuple(sorted(path.stem for path in DIALECTS.glob("*.yaml")))


@cache
def names() -> tuple[str, ...]:
    """Names of the targets that ship with edgekit, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(name: str) -> Target:
    """Load a target by name, or from a YAML file of the user's own.

    Args:
        name: a name from `names()`, or a path that ends in `.yaml`.

    Raises:
        RecipeError: no such target; the hint names the nearest one.
    """
    path = Path(name) if name.endswith(SUFFIXES) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise RecipeError(
            f"There is no target {name!r}.", f"{guess}`edgekit targets` lists them all."
        )
    try:
        return Target.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError, OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"Target file {path} is not valid: {e}", "See docs/targets.md.") from e
