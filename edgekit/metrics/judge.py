"""Judge a model's outputs, and compare two models on the same samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.metrics.formulas import (
    METRICS,
    Floats,
    answers_and_targets,
    confusion,
    labels_of,
    recalls,
    unions,
)
from edgekit.metrics.intervals import RESAMPLES, bootstrap, tango, wilson
from edgekit.metrics.task import Changes, Evaluation, Interval, Task

Array = NDArray[Any]
Outputs = Mapping[str, Array]
_NAMED = 5


def judged_output(
    task: Task, outputs: Outputs, ids: Sequence[str] | None = None
) -> tuple[str, Array]:
    """The output that a task judges, with its name.

    Args:
        task: what is judged.
        outputs: by name, one row a sample.
        ids: the samples' ids, to name those whose output is not finite.

    Raises:
        UsageError: there is no such output, or it is not finite.
    """
    name = task.output or next(iter(outputs))
    if name not in outputs:
        raise UsageError(f"There is no output {name!r}.", f"Outputs are {', '.join(outputs)}.")
    found = outputs[name]
    if not np.isfinite(found).all():
        rows = np.flatnonzero(~np.isfinite(found.reshape(len(found), -1)).all(axis=1))
        shown = ", ".join(str(ids[i]) if ids else f"row {i}" for i in rows[:_NAMED])
        raise UsageError(
            f"Output {name!r} holds NaN or infinity for {len(rows)} samples: {shown}.",
            "The model is broken for these samples.",
        )
    return name, found


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
        The metric with its 95 % interval (Wilson's for accuracy, expanded percentile bootstrap over
        samples else), and the samples' statistics, shape (samples, k).

    Raises:
        UsageError: outputs and targets do not fit each other, or the metric is undefined on them.
    """
    if task.kind == "none":
        raise UsageError("The task `none` has no metric.", "Give `task: kind:`.")
    metric = METRICS[task.metric_name]
    _, output = judged_output(task, outputs, ids)
    if not len(targets) or len(output) != len(targets) or len(ids) != len(targets):
        raise UsageError(
            f"There are {len(output)} outputs for {len(targets)} targets.", "Give one row each."
        )
    statistics = metric.statistics(output, targets)
    value = metric.of(statistics)
    if not np.isfinite(value):
        raise UsageError(
            f"{task.metric_name} is undefined on these {len(targets)} samples.",
            "Evaluate on samples of both classes.",
        )
    if metric.mean_of:
        low, high = wilson(round(float(statistics[:, 0].sum())), len(statistics))
        method = "Wilson score"
    else:
        low, high = bootstrap(metric.aggregate(statistics), len(targets), seed)
        method = f"expanded percentile bootstrap, {RESAMPLES} resamples"
    evaluation = Evaluation(
        value=value,
        low=min(low, value),
        high=max(high, value),
        metric=task.metric_name,
        higher_is_better=metric.higher_is_better,
        n=len(targets),
        per_class=_per_class(task, output, targets, statistics),
        method=method,
    )
    return evaluation, statistics


def _per_class(
    task: Task, output: Array, targets: Array, statistics: Floats
) -> dict[str, float] | None:
    ones = np.ones(len(targets))
    if task.kind == "classification":
        table = confusion(answers_and_targets(output, targets.reshape(len(targets))))
        return {str(c): share for c, share in recalls(table(ones)).items()}
    if task.kind == "segmentation":
        return {str(c): share for c, share in unions(statistics, ones).items()}
    return None


def paired_drop(task: Task, first: Floats, second: Floats, *, seed: int = 0) -> Interval:
    """How much worse the second model is, on the same samples.

    Args:
        task: what is judged.
        first: statistics of the first model, from `evaluate_predictions`.
        second: statistics of the second, same samples in the same order.
        seed: of the bootstrap.

    Returns:
        The drop in the metric's unit, positive where the second is worse. For accuracy Tango's
        score interval for paired proportions; a paired bootstrap over samples else.

    Raises:
        UsageError: the two were not judged on the same samples.
    """
    if first.shape[0] != second.shape[0]:
        raise UsageError(
            f"One model was judged on {len(first)} samples, the other on {len(second)}.",
            "Judge both on the same split.",
        )
    metric = METRICS[task.metric_name]
    sign = 1.0 if metric.higher_is_better else -1.0
    drop = sign * (metric.of(first) - metric.of(second))
    if metric.mean_of:
        low, high = tango(first[:, 0] > 0, second[:, 0] > 0)
    else:
        one, two = metric.aggregate(first), metric.aggregate(second)
        low, high = bootstrap(lambda w: sign * (one(w) - two(w)), len(first), seed)
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
