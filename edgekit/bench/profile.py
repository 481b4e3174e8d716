"""Time of each layer, from a separate pass: profiling slows a model, so its sums are no latency."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bench.fusion import computing, groups
from edgekit.bench.measure import collection_off
from edgekit.bench.onnx_graph import Graph, read_graph
from edgekit.bench.protocol import Clock, SystemClock
from edgekit.bench.runtimes.base import Array
from edgekit.bench.runtimes.onnxruntime import OnnxRuntime
from edgekit.bench.runtimes.openvino import OpenVino
from edgekit.errors import UsageError

SUFFIX = "_kernel_time"
MAX_RUNS = 200
WARM_RUNS = 5


@dataclass(frozen=True)
class Layer:
    """What the runtime runs as one: a kernel, or several that stand for the same nodes.

    Attributes:
        name: the runtime's name for it, of the slowest kernel where there are several.
        op: operator, such as `Conv` or `Reshape+Gemm+Reshape`.
        provider: where it ran.
        ms: time in one inference: mean of the middle half of the runs (the profile counts whole
            microseconds, so a median would be coarse).
        share: of the sum over all layers, in [0, 1].
        runs: inferences that count.
        nodes: the nodes of the file that it computes, by name, in order; empty where it computes
            none, or where the runtime does not tell.
        after: where `nodes` is empty, the nodes whose output it only rearranges in memory.
    """

    name: str
    op: str
    provider: str
    ms: float
    share: float
    runs: int
    nodes: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def profile(
    model: Path,
    feeds: Mapping[str, Array],
    *,
    runtime: str = "onnxruntime",
    threads: int = 1,
    options: Mapping[str, Any] | None = None,
    seconds: float = 1.0,
    clock: Clock | None = None,
) -> list[Layer]:
    """Profile an ONNX file, layer by layer.

    Args:
        model: the `.onnx` file.
        feeds: one array for each input.
        runtime: a key of `PROFILERS`.
        threads: CPU threads of the runtime.
        options: further options of the runtime.
        seconds: time to spend, within 6 and 205 inferences.
        clock: time.

    Returns:
        The layers in the order in which they first ran.

    Raises:
        UsageError: the model cannot be loaded, the feeds do not fit, or the runtime does not tell
            how long each layer takes.
    """
    if runtime not in PROFILERS:
        raise UsageError(
            f"{runtime} gives no layer times here.", f"These do: {', '.join(PROFILERS)}."
        )
    wanted = {**(options or {}), "threads": threads}
    return PROFILERS[runtime](model, feeds, wanted, seconds, clock or SystemClock())


def _onnxruntime(
    model: Path,
    feeds: Mapping[str, Array],
    options: Mapping[str, Any],
    seconds: float,
    clock: Clock,
) -> list[Layer]:
    with tempfile.TemporaryDirectory(prefix="edgekit-profile-") as folder:
        prefix = Path(folder) / "ort"
        with OnnxRuntime(model, {**options, "profile": prefix}) as runtime, collection_off():
            run = runtime.bind(feeds)
            repeat(run, seconds, clock)
            written = runtime.end_profiling()
        events = json.loads(Path(written).read_text(encoding="utf-8"))
        kernels = layers_from_events(events, skip=WARM_RUNS)
        return joined(kernels, graph_of(model), graph_of(prefix.with_suffix(".onnx")))


def _openvino(
    model: Path,
    feeds: Mapping[str, Array],
    options: Mapping[str, Any],
    seconds: float,
    clock: Clock,
) -> list[Layer]:
    runs: list[dict[tuple[str, str], float]] = []
    with OpenVino(model, {**options, "profile": True}) as runtime, collection_off():
        request, run = runtime.request(feeds)

        def count() -> None:
            run()
            ran = (p for p in request.profiling_info if str(p.status).endswith("EXECUTED"))
            runs.append({(p.node_name, p.node_type): p.real_time.total_seconds() for p in ran})

        repeat(count, seconds, clock)
        device, sources = runtime.options["device"], runtime.sources()
    counted, graph = runs[WARM_RUNS:], graph_of(model)
    means = {
        key: middle_mean(np.array([run.get(key, 0.0) for run in counted])) * 1e3
        for key in dict.fromkeys(key for run in counted for key in run)
    }
    total = sum(means.values()) or 1.0
    return [
        Layer(
            name,
            op,
            str(device),
            ms,
            ms / total,
            len(counted),
            nodes=_known(sources.get(name, ()), graph),
        )
        for (name, op), ms in means.items()
    ]


Profiler = Callable[
    [Path, Mapping[str, Array], Mapping[str, Any], float, Clock],
    list[Layer],
]
PROFILERS: Mapping[str, Profiler] = {"onnxruntime": _onnxruntime, "openvino": _openvino}


def repeat(run: Callable[[], object], seconds: float, clock: Clock) -> None:
    """Warm up, and run again and again for a while."""
    for _ in range(WARM_RUNS):
        run()
    end = clock.ns() + int(seconds * 1e9)
    for _ in range(MAX_RUNS):
        run()
        if clock.ns() >= end:
            break


def layers_from_events(events: Iterable[Mapping[str, Any]], skip: int) -> list[Layer]:
    """Sum a profile's events by kernel and inference.

    A kernel inside a loop runs several times in one inference: its times are summed.

    Args:
        events: of ONNX Runtime's profile, in its (Chrome trace) format; microseconds.
        skip: inferences to leave out at the start.
    """
    events = sorted(events, key=lambda e: int(e.get("ts", 0)))
    starts = np.array([int(e["ts"]) for e in events if e.get("name") == "model_run"])
    counted = max(1, len(starts) - skip)
    times: dict[tuple[str, str, str, str], npt.NDArray[np.float64]]
    times = defaultdict(lambda: np.zeros(counted))
    for event in events:
        if event.get("cat") != "Node" or not str(event["name"]).endswith(SUFFIX):
            continue
        number = int(np.searchsorted(starts, int(event["ts"]), side="right")) - 1 - skip
        if number < 0:
            continue
        about = event["args"]
        name = str(event["name"])[: -len(SUFFIX)]
        index = str(about.get("node_index", ""))  # two kernels may have one name
        times[name, about["op_name"], about.get("provider", ""), index][number] += int(event["dur"])
    means = {key: middle_mean(values) / 1e3 for key, values in times.items()}
    total = sum(means.values()) or 1.0
    return [
        Layer(name or op, op, provider, ms, ms / total, counted)
        for (name, op, provider, _), ms in means.items()
    ]


def joined(
    kernels: Sequence[Layer], original: Graph | None, optimized: Graph | None
) -> list[Layer]:
    """Say which nodes of the file the kernels compute, and join those that share them.

    Args:
        kernels: in the order in which they run.
        original: the graph of the file, None where it cannot be read.
        optimized: the graph as it runs, None where the runtime does not tell.
    """
    if original is None:
        return list(kernels)
    names = frozenset(node.name for node in original.nodes)
    if optimized is None or [k.op for k in kernels] != [n.op for n in optimized.nodes]:
        # Kernels inside loops, or of another provider: some still have the name of their node.
        return [replace(k, nodes=(k.name,) if k.name in names else ()) for k in kernels]
    found = []
    for group in groups(original, optimized):
        parts = [kernels[place] for place in group.kernels]
        slowest = max(parts, key=lambda part: part.ms)
        found.append(
            replace(
                slowest,
                op="+".join(part.op for part in parts),
                ms=sum(part.ms for part in parts),
                share=sum(part.share for part in parts),
                nodes=group.nodes,
                after=group.after,
            )
        )
    return found


def graph_of(path: Path) -> Graph | None:
    """The graph of an ONNX file, None where it is not there or not to be read."""
    try:
        return read_graph(path)
    except (OSError, ValueError):
        return None


def _known(sources: Sequence[str], graph: Graph | None) -> tuple[str, ...]:
    """Nodes of the file among the names that OpenVINO gives: a node's own, or its output's."""
    if graph is None:
        return ()
    names = {node.name: node for node in graph.nodes}
    makers = {tensor: node for node in graph.nodes for tensor in node.outputs}
    nodes = [names.get(name, makers.get(name)) for name in sources]
    found = [node for node in nodes if node is not None]
    return tuple(dict.fromkeys(node.name for node in computing(found)))


def middle_mean(values: npt.NDArray[Any]) -> float:
    """Mean of the middle half: as robust as a median, and finer where values are whole numbers."""
    quarter = len(values) // 4
    return float(np.sort(values)[quarter : len(values) - quarter].mean())
