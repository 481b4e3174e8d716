"""Turn what the benchmark and the metrics say into the report's figures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.metrics import FRACTIONS
from edgekit.report.schema import ChangedExample, Changes, ClassChange, Figure, StepReport

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.metrics import Task
    from edgekit.pipeline.scores import Judged

_EXAMPLES = 50
_PERCENTILES = {"latency_p50_ms": "p50_ms", "latency_p90_ms": "p90_ms", "latency_p99_ms": "p99_ms"}


def figure(plain: Mapping[str, Any]) -> Figure:
    """One figure of the benchmark's JSON."""
    return Figure(
        value=plain["value"],
        low=plain["low"],
        high=plain["high"],
        unit=str(plain["unit"]).lower(),
        label=plain["label"],
        note=plain["note"],
    )


def latency_fields(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The latency, speed-up and energy of each subject, as fields of a step's report."""
    found: dict[str, dict[str, Any]] = {}
    for subject in result["subjects"]:
        name = subject["name"]
        fields: dict[str, Any] = {
            ours: figure(subject[theirs]) for ours, theirs in _PERCENTILES.items()
        }
        fields["energy_j"] = figure(subject["energy"]["energy_j"])
        comparison = result["comparisons"].get(name)
        if comparison is not None:
            fields["speedup"] = figure(comparison["speedup"])
        elif name == result["baseline"]:
            fields["speedup"] = Figure.unavailable("x", "The others are compared with this one.")
        found[name] = fields
    return found


def unmeasured(reason: str) -> dict[str, Figure]:
    """The fields of a step whose latency was not measured."""
    figures = {name: Figure.unavailable("ms", reason) for name in _PERCENTILES}
    return {
        **figures,
        "speedup": Figure.unavailable("x", reason),
        "energy_j": Figure.unavailable("j", reason),
    }


def metric_unit(metric: str) -> str:
    """The unit of a metric: a fraction where it lies between 0 and 1, dB for PSNR."""
    if metric in FRACTIONS:
        return "fraction"
    return "dB" if metric == "psnr" else ""


def interval_figure(evaluation: Mapping[str, Any] | None, reason: str) -> Figure:
    """A metric with its interval, or why there is none."""
    if evaluation is None:
        return Figure.unavailable("", reason)
    return Figure(
        value=evaluation["value"],
        low=evaluation["low"],
        high=evaluation["high"],
        unit=metric_unit(str(evaluation["metric"])),
    )


def derived(steps: Sequence[StepReport]) -> tuple[StepReport, ...]:
    """Give an engine that cannot run here the accuracy and cost of the file it was built from."""
    found: list[StepReport] = []
    for step in steps:
        parent = found[-1] if found else None
        engine = step.kind == "build-tensorrt" and step.metric.label == "unavailable"
        if engine and parent is not None:
            note = f"of {parent.name}, which the engine was built from; the engine was not run"
            figures = {
                name: known.model_copy(update={"label": "derived", "note": note})
                for name in ("metric", "metric_drop")
                if (known := getattr(parent, name)).label != "unavailable"
            }
            step = step.model_copy(
                update={**figures, "macs": parent.macs, "parameters": parent.parameters}
            )
        found.append(step)
    return tuple(found)


def changes_of(
    task: "Task", data: "Dataset | None", original: "Judged", now: "Judged"
) -> tuple[Figure, Changes | None]:
    """The drop of the metric against the original, and the samples that changed."""
    from edgekit.metrics import changes, paired_drop

    if data is None or (now.scores is None and now.labels is None):
        return Figure.unavailable("fraction", now.reason or "There is nothing to compare."), None
    drop = Figure.unavailable("fraction", now.reason or "The data has no targets.")
    if original.scores is not None and now.scores is not None:
        found = paired_drop(task, original.scores, now.scores)
        unit = metric_unit(task.metric_name)
        drop = Figure(value=found.value, low=found.low, high=found.high, unit=unit)
    changed = changes(task, (original.scores, original.labels), (now.scores, now.labels))
    agreement = Figure.unavailable("fraction")
    if changed.agreement is not None:
        a = changed.agreement
        agreement = Figure(value=a.value, low=a.low, high=a.high, unit="fraction")
    rows = data.splits["evaluation"]
    to_wrong, to_right = changed.right_to_wrong, changed.wrong_to_right
    return drop, Changes(
        n=len(rows),
        right_to_wrong=None if to_wrong is None else len(to_wrong),
        wrong_to_right=None if to_right is None else len(to_right),
        agreement=agreement,
        per_class=_per_class(data, original, now),
        examples=()
        if to_wrong is None
        else tuple(_example(data, original, now, int(i)) for i in to_wrong[:_EXAMPLES]),
    )


def _example(data: "Dataset", original: "Judged", now: "Judged", place: int) -> ChangedExample:
    row = data.splits["evaluation"][place]

    def name(label: Any) -> str:
        return data.classes[int(label)] if data.classes else str(int(label))

    return ChangedExample(
        id=data.ids[row],
        target=name(data.targets[row]) if data.targets is not None else "",
        original=name(original.labels[place]) if original.labels is not None else "",
        now=name(now.labels[place]) if now.labels is not None else "",
    )


def _per_class(data: "Dataset", original: "Judged", now: "Judged") -> tuple[ClassChange, ...]:
    """Each class's share of right answers, before and now, with the paired interval of the drop."""
    from edgekit.metrics import tango

    targets = data.targets
    if targets is None or original.labels is None or now.labels is None or targets.ndim != 1:
        return ()
    targets = targets[data.splits["evaluation"]]
    found = []
    for label in np.unique(targets):
        members = targets == label
        before, after = original.labels[members] == label, now.labels[members] == label
        low, high = tango(before, after)
        value = float(before.mean() - after.mean())
        found.append(
            ClassChange(
                name=data.classes[int(label)] if data.classes else str(int(label)),
                n=int(members.sum()),
                original=float(before.mean()),
                now=float(after.mean()),
                drop=Figure(
                    value=value, low=min(low, value), high=max(high, value), unit="fraction"
                ),
            )
        )
    return tuple(found)
