"""The metrics: what each sample contributes, and how weighted samples add up to the figure.

An aggregate is made once from the statistics of all samples and then called with one weight a
sample: ones for the figure itself, counts of draws in the bootstrap. What does not depend on the
weights (the order of scores, say) is worked out once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError

Array = NDArray[Any]
Floats = NDArray[np.float64]
Aggregate = Callable[[Floats], float]

_NOISE_FLOOR = 1e-10  # mean squared error of an exact sample: 100 dB for signals in [0, 1]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        higher_is_better: which way it is good.
        statistics: (outputs, targets) to shape (samples, k), what each sample contributes.
        aggregate: shape (samples, k) to a function of one weight a sample, shape (samples,), that
            gives the metric; NaN where it is undefined.
        mean_of: True where the metric is the mean of one 0-or-1 statistic a sample.
    """

    higher_is_better: bool
    statistics: Callable[[Array, Array], Floats]
    aggregate: Callable[[Floats], Aggregate]
    mean_of: bool = False

    def of(self, statistics: Floats) -> float:
        """The metric of all samples, each counted once."""
        return self.aggregate(statistics)(np.ones(len(statistics)))


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
    return np.asarray(output.argmax(axis=1), dtype=np.int64)


def answers_and_targets(output: Array, targets: Array) -> Floats:
    """Answered class and class of each sample: shape (samples, 2)."""
    return np.stack([_labels_like(output, targets), targets], axis=1).astype(np.float64)


def class_count(output: Array) -> int:
    """How many classes an output tells apart."""
    return output.shape[1] if output.ndim > 1 and output.shape[1] > 1 else 2


def _right(output: Array, targets: Array) -> Floats:
    return np.asarray(_labels_like(output, targets) == targets, dtype=np.float64)[:, None]


def _labels_like(output: Array, targets: Array) -> NDArray[np.int64]:
    labels = labels_of(output)
    if labels.shape != targets.shape:
        raise UsageError(
            f"The output of shape {output.shape} has no answer for targets of shape"
            f" {targets.shape}.",
            "Check `task:`, and its `output:`.",
        )
    classes = class_count(output)
    if targets.size and not 0 <= targets.min() <= targets.max() < classes:
        raise UsageError(
            f"The targets are {targets.min()} to {targets.max()}, and the output has {classes}"
            f" classes (0 to {classes - 1}).",
            "Number the classes as the network does.",
        )
    return labels


def _binary_score(output: Array, targets: Array) -> Floats:
    flat = output.reshape(len(output), -1).astype(np.float64)
    if flat.shape[1] > 2 or targets.size != len(output):
        raise UsageError(
            f"roc-auc needs one score a sample, or two classes; the output has shape"
            f" {output.shape}, the targets {targets.shape}.",
            "Choose another metric.",
        )
    score = flat[:, 0] if flat.shape[1] == 1 else flat[:, 1] - flat[:, 0]
    return np.stack([score, targets.reshape(len(targets)) > 0], axis=1).astype(np.float64)


def _errors(power: int) -> Callable[[Array, Array], Floats]:
    def statistics(output: Array, targets: Array) -> Floats:
        a, b = (v.reshape(len(v), -1).astype(np.float64) for v in (output, targets))
        if a.shape != b.shape:
            raise UsageError(
                f"The output has shape {output.shape}, the targets {targets.shape}.",
                "Check `task:`, and its `output:`.",
            )
        return np.asarray((np.abs(a - b) ** power).mean(axis=1)[:, None])

    return statistics


def _overlaps(output: Array, targets: Array) -> Floats:
    """Intersections, then unions, of each class in pixels: shape (samples, 2 x classes)."""
    labels = _labels_like(output, targets)
    classes = class_count(output)
    axes = tuple(range(1, labels.ndim))
    both = [((labels == c) & (targets == c)).sum(axis=axes) for c in range(classes)]
    either = [((labels == c) | (targets == c)).sum(axis=axes) for c in range(classes)]
    return np.stack([*both, *either], axis=1).astype(np.float64)


# --- aggregates


def _mean(s: Floats) -> Aggregate:
    return lambda w: float(w @ s[:, 0] / w.sum())


def _root_mean(s: Floats) -> Aggregate:
    return lambda w: float(np.sqrt(w @ s[:, 0] / w.sum()))


def _psnr(s: Floats) -> Aggregate:
    """Mean of the samples' PSNR for signals in [0, 1], dB; an exact sample counts as 100 dB."""
    return _mean(-10 * np.log10(np.maximum(s, _NOISE_FLOOR)))


def confusion(s: Floats) -> Callable[[Floats], Floats]:
    """Weighted samples by class and answer.

    Args:
        s: from `answers_and_targets`.

    Returns:
        A function of the weights that gives shape (classes, classes): row the class, column the
        answer.
    """
    size = int(s.max()) + 1
    codes = (s[:, 1] * size + s[:, 0]).astype(np.int64)

    def of(w: Floats) -> Floats:
        counts = np.bincount(codes, weights=w, minlength=size * size)
        return counts.astype(np.float64).reshape(size, size)

    return of


def recalls(table: Floats) -> dict[int, float]:
    """Share of each class's samples that are right; classes without samples are left out."""
    return {c: float(row[c] / row.sum()) for c, row in enumerate(table) if row.sum()}


def _balanced(s: Floats) -> Aggregate:
    """Mean of the classes' recalls (Brodersen et al., 2010)."""
    table = confusion(s)
    return lambda w: float(np.mean(list(recalls(table(w)).values())))


def _macro_f1(s: Floats) -> Aggregate:
    """Mean of 2TP / (2TP + FP + FN) over the classes that are here or were answered."""
    table = confusion(s)

    def of(w: Floats) -> float:
        t = table(w)
        both = t.sum(axis=0) + t.sum(axis=1)
        return float((2 * np.diag(t)[both > 0] / both[both > 0]).mean())

    return of


def _auc(s: Floats) -> Aggregate:
    """Area under the ROC curve by the rank sum, ties counted half (Hanley & McNeil, 1982)."""
    order = np.argsort(s[:, 0], kind="stable")
    positive = s[order, 1] > 0
    starts = np.flatnonzero(np.r_[True, np.diff(s[order, 0]) != 0])

    def of(w: Floats) -> float:
        ordered = w[order]
        p = np.add.reduceat(np.where(positive, ordered, 0.0), starts)
        n = np.add.reduceat(np.where(positive, 0.0, ordered), starts)
        pairs = p.sum() * n.sum()
        return float(p @ (np.cumsum(n) - n / 2) / pairs) if pairs else float("nan")

    return of


def unions(s: Floats, w: Floats) -> dict[int, float]:
    """Intersection over union of each class, over all pixels; absent classes are left out."""
    both, either = np.split(w @ s, 2)
    return {c: float(both[c] / either[c]) for c in range(len(both)) if either[c]}


def _miou(s: Floats) -> Aggregate:
    return lambda w: float(np.mean(list(unions(s, w).values())))


METRICS: dict[str, Metric] = {
    "accuracy": Metric(True, _right, _mean, mean_of=True),
    "balanced-accuracy": Metric(True, answers_and_targets, _balanced),
    "macro-f1": Metric(True, answers_and_targets, _macro_f1),
    "roc-auc": Metric(True, _binary_score, _auc),
    "rmse": Metric(False, _errors(2), _root_mean),
    "mae": Metric(False, _errors(1), _mean),
    "mse": Metric(False, _errors(2), _mean),
    "psnr": Metric(True, _errors(2), _psnr),
    "miou": Metric(True, _overlaps, _miou),
}
