"""Task metrics with their intervals, and what changed between two models on the same samples.

A metric is two functions: statistics for each sample, and an aggregate of weighted samples. So one
paired bootstrap serves every metric, those that are no mean of samples (AUC, F1, mIoU) included.
"""

from edgekit.metrics.formulas import METRICS, Metric, labels_of
from edgekit.metrics.intervals import tango, wilson
from edgekit.metrics.judge import (
    answers,
    changes,
    evaluate_predictions,
    judged_output,
    paired_drop,
)
from edgekit.metrics.task import (
    CONFIDENCE,
    FRACTIONS,
    METRICS_OF,
    Changes,
    Evaluation,
    Interval,
    Task,
)

__all__ = [
    "CONFIDENCE",
    "FRACTIONS",
    "METRICS",
    "METRICS_OF",
    "Changes",
    "Evaluation",
    "Interval",
    "Metric",
    "Task",
    "answers",
    "changes",
    "evaluate_predictions",
    "judged_output",
    "labels_of",
    "paired_drop",
    "tango",
    "wilson",
]
