"""What a network is for, and the figures that judge it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["classification", "regression", "reconstruction", "segmentation", "anomaly", "none"]
CONFIDENCE = 0.95

METRICS_OF: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced-accuracy", "macro-f1", "roc-auc"),
    "regression": ("rmse", "mae", "mse"),
    "reconstruction": ("mse", "psnr", "mae"),
    "segmentation": ("miou",),
    "anomaly": ("roc-auc",),
    "none": (),
}
# Metrics that lie between 0 and 1.
FRACTIONS = frozenset({"accuracy", "balanced-accuracy", "macro-f1", "roc-auc", "miou"})


class Task(BaseModel):
    """What a network is for, and so how it is judged.

    Attributes:
        kind: `classification`, `regression`, `reconstruction`, `segmentation`, `anomaly` or `none`.
        metric: one of the kind's metrics; its first unless given.
        output: the output that is judged; the first unless given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = "classification"
    metric: str | None = Field(default=None, validate_default=True)
    output: str | None = None

    @model_validator(mode="after")
    def _known_metric(self) -> "Task":
        known = METRICS_OF[self.kind]
        if self.metric is not None and self.metric not in known:
            names = ", ".join(known) or "none"
            raise ValueError(f"{self.kind} has no metric {self.metric!r}; it has {names}")
        return self

    @property
    def metric_name(self) -> str:
        """The metric's name."""
        return self.metric or METRICS_OF[self.kind][0]


class Interval(BaseModel):
    """A figure with its confidence interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE


class Evaluation(Interval):
    """A metric on one split.

    Attributes:
        metric: its name.
        higher_is_better: which way it is good.
        n: samples.
        split: that they are of; None where they are of no data set's split.
        of: samples of the whole data set, likewise.
        per_class: by class (its name, or its number where it has none): the share of its samples
            that are right (classification), or its intersection over union (segmentation).
        method: how the interval was made.
    """

    metric: str
    higher_is_better: bool
    n: int
    split: str | None = None
    of: int | None = None
    per_class: dict[str, float] | None = None
    method: str


@dataclass(frozen=True)
class Changes:
    """What changed from one model to another on the same samples.

    Attributes:
        right_to_wrong: row indices that the first got right and the second wrong.
        wrong_to_right: the other way round.
        agreement: share of samples with the same answer, Wilson interval.
    """

    right_to_wrong: NDArray[np.intp] | None
    wrong_to_right: NDArray[np.intp] | None
    agreement: Interval | None
