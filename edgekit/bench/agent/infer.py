"""What the worker does for an `infer`: run a model over inputs, and write what comes out."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bench.agent.measure import Post, Progress, subjects_of
from edgekit.bench.agent.worker import ARRAYS
from edgekit.bench.measure import Subject, open_runtime
from edgekit.bench.runtimes import Runtime
from edgekit.errors import UsageError


def infer(
    order: Mapping[str, Any], folder: Path, post: Post, stopped: threading.Event
) -> dict[str, Any]:
    """Run the only subject of an order over its inputs, which have one more leading axis: the runs.

    Writes one array for each output, by its place, with the same leading axis.

    Returns:
        `outputs`: their names, in order.

    Raises:
        UsageError: there are several subjects, or outputs whose shapes differ between runs.
        KeyboardInterrupt: it was stopped.
    """
    subjects = subjects_of(order)
    if len(subjects) != 1:
        raise UsageError("Outputs are computed of one model at a time.", "Ask for each.")
    subject = subjects[0]
    counts = {len(array) if array.ndim else 0 for array in subject.feeds.values()}
    if len(counts) != 1 or counts == {0}:
        raise UsageError(f"The inputs of {subject.name!r} have no runs.", "Give at least one.")
    found: list[dict[str, Any]] = []
    runs, say = counts.pop(), Progress(post)
    with open_runtime(subject) as runtime:
        for run in range(runs):
            if stopped.is_set():
                raise KeyboardInterrupt
            found.append(_outputs(runtime, subject, run))
            say((run + 1) / runs, f"run {run + 1}")
    names = list(found[0])
    arrays = {str(place): _stacked(name, found) for place, name in enumerate(names)}
    np.savez(folder / ARRAYS, **arrays)
    return {"outputs": names}


def _outputs(runtime: Runtime, subject: Subject, run: int) -> dict[str, Any]:
    return dict(runtime.infer({name: array[run] for name, array in subject.feeds.items()}))


def _stacked(name: str, found: list[dict[str, Any]]) -> Any:
    parts = [each[name] for each in found]
    if len({part.shape for part in parts}) > 1:
        raise UsageError(
            f"Output {name!r} has another shape for other inputs.",
            "Compare it on one batch, without --data.",
        )
    return np.stack(parts)
