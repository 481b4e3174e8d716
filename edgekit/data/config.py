"""The `data:` section of a recipe."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Name = Literal["calibration", "train", "evaluation"]
SPLITS: tuple[Name, ...] = ("calibration", "train", "evaluation")

Share = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0.0, le=1.0)]


def _number_from_ratio(value: Any) -> Any:
    """Read `1/255`, which YAML leaves as text."""
    parts = re.fullmatch(r"\s*(\d+\.?\d*)\s*/\s*(\d+\.?\d*)\s*", str(value))
    if isinstance(value, str) and parts and float(parts[2]):
        return float(parts[1]) / float(parts[2])
    return value


Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number_from_ratio)]


class Preprocess(BaseModel):
    """What is done to every floating-point or image input before it reaches the network.

    In this order: resize, channels, `x * scale`, `(x - mean) / std`, and float32.

    Attributes:
        size: height and width to resize images to (class folders only).
        channels: 1 for grey, 3 for colour (class folders only).
        layout: `nchw` or `nhwc`, of images (class folders only).
        scale: factor, a number or `1/255`; images from folders come as 0 to 255.
        mean: subtracted, one for each channel (axis 1), or one for all.
        std: divided by, likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    channels: Literal[1, 3] = 3
    layout: Literal["nchw", "nhwc"] = "nchw"
    scale: Number | None = None
    mean: Annotated[tuple[Number, ...], Field(min_length=1)] | None = None
    std: Annotated[tuple[Annotated[Number, Field(gt=0)], ...], Field(min_length=1)] | None = None


class Split(BaseModel):
    """Which samples are used for what. The three splits are disjoint.

    Attributes:
        calibration: samples to calibrate quantization on: a count, or a share (with a
            decimal point). Where it is not given, at most a quarter of what evaluation leaves.
        evaluation: samples to judge by: a count, or a share. Nothing ever learns from them.
        train: samples to train on; all the others unless given.
        seed: of the shuffle that draws them; classes keep their shares.
        files: files with one sample id a line, which replace the draw for the splits they name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibration: Share = 256
    evaluation: Share = 0.2
    train: Share | None = None
    seed: int = 0
    files: dict[Name, str] = Field(default_factory=dict)


class DataConfig(BaseModel):
    """Where samples come from: exactly one of `npz`, `folder`, `csv` and `python`.

    Attributes:
        npz: a NumPy archive.
        folder: a folder with one folder of images for each class, or of images without labels.
        csv: a table with a header.
        python: `module:factory` or `file.py:factory`, which gives `inputs`, `(inputs, targets)` or
            `(inputs, targets, ids)`; this runs the user's own code.
        inputs: input name to array (`npz`, `python`), or to columns (`csv`, where one name takes
            several); a class folder is one input. Without it every array is an input, all columns
            are one input called `input`, and the images of a folder are called `image`.
        target: array or column that holds the targets; `target` (or `y`, `label`) unless given.
        classes: names of all of the network's classes, in the order of its outputs: what class
            folders and targets that are texts are called. Without it they are numbered in sorted
            order, so all of them must be there.
        preprocess: what is done to the inputs.
        split: which samples are used for what.
        limit: use only this many samples, drawn evenly from the classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    npz: str | None = None
    folder: str | None = None
    csv: str | None = None
    python: str | None = None
    inputs: dict[str, str | tuple[str, ...]] | None = None
    target: str | None = None
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    preprocess: Preprocess = Preprocess()
    split: Split = Split()
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        given = [name for name in ("npz", "folder", "csv", "python") if getattr(self, name)]
        if len(given) != 1:
            what = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of `npz`, `folder`, `csv` and `python`, not {what}")
        if self.target is not None and (self.folder or self.python):
            raise ValueError(f"`{given[0]}` brings its targets itself; leave `target` out")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError("`classes` names one twice")
        if self.limit is not None and self.split.files:
            raise ValueError("`limit` and `split: files:` contradict each other")
        return self
