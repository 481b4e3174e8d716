"""The `data:` section of a recipe."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Literal["calibration", "train", "evaluation"]
SPLITS: tuple[Name, ...] = ("calibration", "train", "evaluation")

Share = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0.0, le=1.0)]


class Preprocess(BaseModel):
    """What is done to every floating-point or image input before it reaches the network.

    In this order: resize, channels, `x * scale`, `(x - mean) / std`, and float32.

    Attributes:
        size: height and width to resize images to (class folders only).
        channels: 1 for grey, 3 for colour (class folders only).
        layout: `nchw` or `nhwc`, of images (class folders only).
        scale: factor; images from folders come as 0 to 255.
        mean: subtracted, one for each channel (axis 1), or one for all.
        std: divided by, likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[int, int] | None = None
    channels: Literal[1, 3] = 3
    layout: Literal["nchw", "nhwc"] = "nchw"
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None


class Split(BaseModel):
    """Which samples are used for what. The three splits are disjoint.

    Attributes:
        calibration: samples to calibrate quantization on: a count, or a share below 1.
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
        folder: a folder with one folder of images for each class.
        csv: a table with a header.
        python: `module:factory` or `file.py:factory`, which gives `inputs`, `(inputs, targets)` or
            `(inputs, targets, ids)`; this runs the user's own code.
        inputs: input name to array (`npz`), or to columns (`csv`, where one name takes several).
            Without it every array is an input, and all columns are one input called `input`.
        target: array or column that holds the targets; `target` (or `y`, `label`) unless given.
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
    preprocess: Preprocess = Preprocess()
    split: Split = Split()
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        given = [name for name in ("npz", "folder", "csv", "python") if getattr(self, name)]
        if len(given) != 1:
            what = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of `npz`, `folder`, `csv` and `python`, not {what}")
        return self
