"""Task metrics with their intervals, and what changed between two models on the same samples.

A metric is two functions: statistics for each sample, and an aggregate of them. So one paired
bootstrap serves every metric, those that are no mean of samples (AUC, F1, mIoU) included.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgekit.errors import UsageError

Array = NDArray[Any]
Floats = NDArray[np.float64]
Outputs = Mapping[str, Array]

Kind = Literal["classification", "regression", "reconstruction", "segmentation", "anomaly", "none"]
CONFIDENCE = 0.95
_Z = 1.959963984540054  # the normal quantile at 0.975
_RESAMPLES = 2000


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        higher_is_better: which way it is good.
        statistics: (outputs, targets) to shape (samples, k), what each sample contributes.
        aggregate: shape (samples, k) to the metric.
        mean_of: True where the metric is the mean of one 0-or-1 statistic a sample.
    """

    higher_is_better: bool
    statistics: Callable[[Array, Array], Floats]
    aggregate: Callable[[Floats], float]
    mean_of: bool = False


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
        per_class: share of each class's samples that are right, for classification.
        method: how the interval was made.
    """

    metric: str
    higher_is_better: bool
    n: int
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


# --- statistics of one sample


def labels_of(output: Array) -> NDArray[np.int64]:
    """The class that each row answers.

    Args:
        output: shape (samples, classes, ...), or (samples,) or (samples, 1) of binary logits.

    Returns:
        Shape (samples, ...), int64.
    """
    if output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1):
        return (output.reshape(len(output)) > 0).astype(np.int64)
    return output.argmax(axis=1).astype(np.int64)


def _rows(values: Array) -> Floats:
    return values.reshape(len(values), -1).astype(np.float64)


def _right(output: Array, targets: Array) -> Floats:
    return (_labels_like(output, targets) == targets).astype(np.float64)[:, None]


def _labels_like(output: Array, targets: Array) -> NDArray[np.int64]:
    labels = labels_of(output)
    if labels.shape != targets.shape:
        raise UsageError(
            f"The output of shape {output.shape} has no answer for targets of shape"
            f" {targets.shape}.",
            "Check `task:`, and its `output:`.",
        )
    return labels


def _answers_and_targets(output: Array, targets: Array) -> Floats:
    return np.stack([_labels_like(output, targets), targets], axis=1).astype(np.float64)


def _binary_score(output: Array, targets: Array) -> Floats:
    flat = output.reshape(len(output), -1).astype(np.float64)
    if flat.shape[1] > 2:
        raise UsageError(
            f"roc-auc needs one score a sample, or two classes; the output has {flat.shape[1]}.",
            "Choose another metric.",
        )
    score = flat[:, 0] if flat.shape[1] == 1 else flat[:, 1] - flat[:, 0]
    return np.stack([score, targets.reshape(len(targets)).astype(np.float64)], axis=1)


def _errors(power: int) -> Callable[[Array, Array], Floats]:
    def statistics(output: Array, targets: Array) -> Floats:
        a, b = _rows(output), _rows(targets)
        if a.shape != b.shape:
            raise UsageError(
                f"The output has shape {output.shape}, the targets {targets.shape}.",
                "Check `task:`, and its `output:`.",
            )
        return (np.abs(a - b) ** power).mean(axis=1)[:, None]

    return statistics


def _overlaps(output: Array, targets: Array) -> Floats:
    """Intersections, then unions, of each class: shape (samples, 2 × classes)."""
    labels = _labels_like(output, targets)
    classes = max(output.shape[1] if output.ndim > targets.ndim else 2, 2)
    axes = tuple(range(1, labels.ndim))
    both = [((labels == c) & (targets == c)).sum(axis=axes) for c in range(classes)]
    either = [((labels == c) | (targets == c)).sum(axis=axes) for c in range(classes)]
    return np.stack([*both, *either], axis=1).astype(np.float64)


# --- aggregates


def _mean(s: Floats) -> float:
    return float(s[:, 0].mean())


def _root_mean(s: Floats) -> float:
    return float(np.sqrt(s[:, 0].mean()))


def _psnr(s: Floats) -> float:
    """Mean of the samples' PSNR for signals in [0, 1], dB; an exact sample counts as 100 dB."""
    return float((-10 * np.log10(np.maximum(s[:, 0], 1e-10))).mean())


def _recalls(s: Floats) -> dict[float, float]:
    return {c: float((s[s[:, 1] == c, 0] == c).mean()) for c in np.unique(s[:, 1])}


def _balanced(s: Floats) -> float:
    return float(np.mean(list(_recalls(s).values())))


def _macro_f1(s: Floats) -> float:
    scores = []
    for c in np.unique(s):
        hit = float(((s[:, 0] == c) & (s[:, 1] == c)).sum())
        wrong = float(((s[:, 0] == c) ^ (s[:, 1] == c)).sum())
        scores.append(2 * hit / (2 * hit + wrong))
    return float(np.mean(scores))


def _auc(s: Floats) -> float:
    """Area under the ROC curve by the rank sum, ties counted half (Hanley & McNeil, 1982)."""
    positive = s[:, 1] > 0
    p, n = int(positive.sum()), int((~positive).sum())
    if not p or not n:
        return float("nan")
    _, inverse, counts = np.unique(s[:, 0], return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


def _miou(s: Floats) -> float:
    totals = s.sum(axis=0)
    both, either = totals[: len(totals) // 2], totals[len(totals) // 2 :]
    return float((both[either > 0] / either[either > 0]).mean())


METRICS: dict[str, Metric] = {
    "accuracy": Metric(True, _right, _mean, mean_of=True),
    "balanced-accuracy": Metric(True, _answers_and_targets, _balanced),
    "macro-f1": Metric(True, _answers_and_targets, _macro_f1),
    "roc-auc": Metric(True, _binary_score, _auc),
    "rmse": Metric(False, _errors(2), _root_mean),
    "mae": Metric(False, _errors(1), _mean),
    "mse": Metric(False, _errors(2), _mean),
    "psnr": Metric(True, _errors(2), _psnr),
    "miou": Metric(True, _overlaps, _miou),
}
METRICS_OF: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced-accuracy", "macro-f1", "roc-auc"),
    "regression": ("rmse", "mae", "mse"),
    "reconstruction": ("mse", "psnr", "mae"),
    "segmentation": ("miou",),
    "anomaly": ("roc-auc",),
    "none": (),
}


# --- judging


def judged_output(task: Task, outputs: Outputs) -> tuple[str, Array]:
    """The output that a task judges, with its name.

    Raises:
        UsageError: there is no such output, or it is not finite.
    """
    name = task.output or next(iter(outputs))
    if name not in outputs:
        raise UsageError(f"There is no output {name!r}.", f"Outputs are {', '.join(outputs)}.")
    if not np.isfinite(outputs[name]).all():
        raise UsageError(
            f"Output {name!r} holds NaN or infinity.", "The model is broken for some sample."
        )
    return name, outputs[name]


def answers(task: Task, outputs: Outputs) -> NDArray[np.int64] | None:
    """The class answered for each sample; None where a task has no classes."""
    if task.kind != "classification":
        return None
    return labels_of(judged_output(task, outputs)[1])


def evaluate_predictions(
    task: Task, outputs: Outputs, targets: Array, ids: Sequence[str], *, seed: int = 0
) -> tuple[Evaluation, Floats]:
    """Compute a task's metric.

    Args:
        task: what is judged, and how.
        outputs: by name, one row a sample.
        targets: one row a sample.
        ids: the samples' ids.
        seed: of the bootstrap.

    Returns:
        The metric with its 95 % interval (Wilson's for accuracy, percentile bootstrap over samples
        else), and the samples' statistics, shape (samples, k).

    Raises:
        UsageError: outputs and targets do not fit each other, or the metric is undefined on them.
    """
    if task.kind == "none":
        raise UsageError("The task `none` has no metric.", "Give `task: kind:`.")
    metric = METRICS[task.metric_name]
    _, output = judged_output(task, outputs)
    if len(output) != len(targets) or len(ids) != len(targets):
        raise UsageError(
            f"There are {len(output)} outputs for {len(targets)} targets.", "Give one row each."
        )
    statistics = metric.statistics(output, targets)
    value = metric.aggregate(statistics)
    if not np.isfinite(value):
        raise UsageError(
            f"{task.metric_name} is undefined on these {len(targets)} samples.",
            "Evaluate on samples of both classes.",
        )
    if metric.mean_of:
        low, high = wilson(round(float(statistics[:, 0].sum())), len(statistics))
        method = "Wilson score"
    else:
        low, high = _bootstrap(lambda rows: metric.aggregate(statistics[rows]), len(targets), seed)
        method = f"percentile bootstrap, {_RESAMPLES} resamples"
    per_class = None
    if task.kind == "classification":
        recalls = _recalls(_answers_and_targets(output, targets))
        per_class = {str(int(c)): r for c, r in recalls.items()}
    evaluation = Evaluation(
        value=value,
        low=min(low, value),
        high=max(high, value),
        metric=task.metric_name,
        higher_is_better=metric.higher_is_better,
        n=len(targets),
        per_class=per_class,
        method=method,
    )
    return evaluation, statistics


def paired_drop(task: Task, first: Floats, second: Floats, *, seed: int = 0) -> Interval:
    """How much worse the second model is, on the same samples.

    Args:
        task: what is judged.
        first: statistics of the first model, from `evaluate_predictions`.
        second: statistics of the second, same samples in the same order.
        seed: of the bootstrap.

    Returns:
        The drop in the metric's unit, positive where the second is worse. For accuracy Newcombe's
        hybrid score interval for paired proportions (Newcombe, 1998, Statistics in Medicine
        17:2635, method 10); a paired percentile bootstrap over samples else.
    """
    metric = METRICS[task.metric_name]
    sign = 1.0 if metric.higher_is_better else -1.0
    drop = sign * (metric.aggregate(first) - metric.aggregate(second))
    if metric.mean_of:
        low, high = newcombe(first[:, 0] > 0, second[:, 0] > 0)
    else:
        low, high = _bootstrap(
            lambda rows: sign * (metric.aggregate(first[rows]) - metric.aggregate(second[rows])),
            len(first),
            seed,
        )
    return Interval(value=drop, low=min(low, drop), high=max(high, drop))


def changes(
    task: Task,
    first: tuple[Floats | None, Array | None],
    second: tuple[Floats | None, Array | None],
) -> Changes:
    """Which samples changed from one model to another.

    Args:
        task: what is judged.
        first: the first model's statistics and answered classes, None where there are none.
        second: the second's.
    """
    to_wrong = to_right = None
    if task.kind == "classification" and first[0] is not None and second[0] is not None:
        right = [_is_right(task, statistics) for statistics in (first[0], second[0])]
        if right[0] is not None and right[1] is not None:
            to_wrong = np.flatnonzero(right[0] & ~right[1])
            to_right = np.flatnonzero(~right[0] & right[1])
    agreement = None
    if first[1] is not None and second[1] is not None and len(first[1]):
        same = int((first[1] == second[1]).sum())
        low, high = wilson(same, len(first[1]))
        agreement = Interval(value=same / len(first[1]), low=low, high=high)
    return Changes(to_wrong, to_right, agreement)


def _is_right(task: Task, statistics: Floats) -> NDArray[np.bool_] | None:
    if task.metric_name == "accuracy":
        return statistics[:, 0] > 0
    if task.metric_name in {"balanced-accuracy", "macro-f1"}:
        return np.asarray(statistics[:, 0] == statistics[:, 1])
    return None


# --- intervals


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95 % (Wilson, 1927, JASA 22:209)."""
    p, z2 = hits / n, _Z * _Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def newcombe(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, float]:
    """Interval of a difference of paired proportions, first minus second, 95 %.

    Newcombe, 1998, Statistics in Medicine 17:2635, method 10: Wilson intervals of both proportions,
    joined by the correlation φ, whose numerator is corrected for continuity.

    Args:
        first: shape (samples,), whether the first model is right.
        second: likewise.
    """
    n = len(first)
    a, b = int((first & second).sum()), int((first & ~second).sum())
    c, d = int((~first & second).sum()), int((~first & ~second).sum())
    p1, p2 = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = wilson(a + b, n), wilson(a + c, n)
    margins = float(a + b) * (c + d) * (a + c) * (b + d)
    product = float(a) * d - float(b) * c
    if product > 0:
        product = max(product - n / 2, 0.0)
    phi = product / np.sqrt(margins) if margins > 0 else 0.0
    below = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    above = (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2
    difference = p1 - p2
    return float(difference - np.sqrt(below)), float(difference + np.sqrt(above))


def _bootstrap(
    statistic: Callable[[NDArray[np.intp]], float], n: int, seed: int
) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(0, n, n)) for _ in range(_RESAMPLES)])
    values = values[np.isfinite(values)]
    tail = (1 - CONFIDENCE) / 2
    if not len(values):
        raise UsageError("The metric is undefined on resamples of this data.", "Give more samples.")
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
