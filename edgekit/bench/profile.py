"""Time of each layer, from a separate pass: profiling slows a model, so its sums are no latency."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bench.measure import collection_off
from edgekit.bench.protocol import Clock, SystemClock
from edgekit.bench.runtimes.base import Array
from edgekit.bench.runtimes.onnxruntime import OnnxRuntime

SUFFIX = "_kernel_time"
MAX_RUNS = 200
WARM_RUNS = 5


@dataclass(frozen=True)
class Layer:
    """One node of the graph as the runtime runs it, after its own fusions.

    Attributes:
        name: the node's name. edgekit's exports call nodes after the user's modules.
        op: operator, such as `Conv` or `FusedConv`.
        provider: where it ran.
        ms: time in one inference: mean of the middle half of the runs (the profile counts whole
            microseconds, so a median would be coarse).
        share: of the sum over all layers, in [0, 1].
        runs: inferences that count.
    """

    name: str
    op: str
    provider: str
    ms: float
    share: float
    runs: int


def profile(
    model: Path,
    feeds: Mapping[str, Array],
    *,
    threads: int = 1,
    options: Mapping[str, Any] | None = None,
    seconds: float = 1.0,
    clock: Clock | None = None,
) -> list[Layer]:
    """Profile an ONNX file on ONNX Runtime, layer by layer.

    Args:
        model: the `.onnx` file.
        feeds: one array for each input.
        threads: CPU threads of the runtime.
        options: further options of the runtime.
        seconds: time to spend, within 6 and 205 inferences.
        clock: time.

    Returns:
        The layers in the order in which they first ran.

    Raises:
        UsageError: the model cannot be loaded, or the feeds do not fit.
    """
    clock = clock or SystemClock()
    with tempfile.TemporaryDirectory(prefix="edgekit-profile-") as folder:
        wanted = {**(options or {}), "threads": threads, "profile": Path(folder) / "ort"}
        with OnnxRuntime(model, wanted) as runtime, collection_off():
            run = runtime.bind(feeds)
            for _ in range(WARM_RUNS):
                run()
            end = clock.ns() + int(seconds * 1e9)
            for _ in range(MAX_RUNS):
                run()
                if clock.ns() >= end:
                    break
            written = runtime.end_profiling()
        events = json.loads(Path(written).read_text(encoding="utf-8"))
    return layers_from_events(events, skip=WARM_RUNS)


def layers_from_events(events: Iterable[Mapping[str, Any]], skip: int) -> list[Layer]:
    """Sum a profile's events by node and inference.

    A node inside a loop runs several times in one inference: its times are summed.

    Args:
        events: of ONNX Runtime's profile, in its (Chrome trace) format; microseconds.
        skip: inferences to leave out at the start.
    """
    events = list(events)
    runs = sorted(
        (int(e["ts"]), int(e["ts"]) + int(e["dur"])) for e in events if e.get("name") == "model_run"
    )
    counted = max(1, len(runs) - skip)
    starts = np.array([start for start, _ in runs])
    times: dict[tuple[str, str, str], np.ndarray[Any, np.dtype[np.float64]]]
    times = defaultdict(lambda: np.zeros(counted))
    for event in events:
        if event.get("cat") != "Node" or not str(event["name"]).endswith(SUFFIX):
            continue
        number = int(np.searchsorted(starts, int(event["ts"]), side="right")) - 1 - skip
        if number < 0:
            continue
        about = event["args"]
        key = (str(event["name"])[: -len(SUFFIX)], about["op_name"], about.get("provider", ""))
        times[key][number] += int(event["dur"])
    means = {key: _middle_mean(values) / 1e3 for key, values in times.items()}
    total = sum(means.values()) or 1.0
    return [
        Layer(name or op, op, provider, ms, ms / total, counted)
        for (name, op, provider), ms in means.items()
    ]


def _middle_mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    quarter = len(values) // 4
    return float(np.sort(values)[quarter : len(values) - quarter].mean())
