"""Measure artifacts side by side on this machine, and say what the machine is."""

import importlib
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.artifact import Artifact, Format
from edgekit.errors import UnavailableError, UsageError
from edgekit.progress import Progress
from edgekit.target import RuntimeName, Target

if TYPE_CHECKING:
    from edgekit.bench import BenchResult

_RUNS: dict[str, frozenset[Format]] = {
    "onnxruntime": frozenset({"onnx"}),
    "tensorrt": frozenset({"tensorrt"}),
    "tensorrt-rtx": frozenset({"tensorrt-rtx"}),
}


def measure(
    artifacts: Mapping[str, Artifact],
    *,
    runtime: str,
    threads: int,
    quick: bool,
    dims: Mapping[str, int],
    seed: int,
    progress: Progress,
    meters: Sequence[str] = (),
) -> "BenchResult":
    """Measure artifacts, interleaved; the first is the baseline of the others.

    Args:
        artifacts: by the name that the result calls them.
        runtime: what runs them.
        threads: the runtime's CPU threads.
        quick: the short protocol.
        dims: sizes of dynamic dimensions; `batch` is 1 unless given.
        seed: seeds the inputs and the order of the blocks.
        progress: where to show the progress.
        meters: energy meters to try, best first.

    Raises:
        UsageError: an artifact is not of the runtime's format.
        UnavailableError: the runtime cannot run here.
    """
    from edgekit.bench import Protocol, Subject, bench, random_feeds

    for name, artifact in artifacts.items():
        if artifact.format not in _RUNS.get(runtime, frozenset()):
            raise UsageError(
                f"{name} is {artifact.format}, which {runtime} does not run.",
                "Export it (`edgekit export`) or build it (`edgekit build`) first.",
            )
    subjects = [
        Subject(
            name=name,
            runtime=runtime,
            model=artifact.path,
            feeds=random_feeds(
                artifact.inputs, batch=dims.get("batch", 1), seed=seed, dims=dict(dims)
            ),
            options={"threads": threads} if runtime == "onnxruntime" else {},
        )
        for name, artifact in artifacts.items()
    ]
    protocol = Protocol.quick(seed) if quick else Protocol.full(seed)
    with progress.task(f"bench {len(subjects)} model{'s' * (len(subjects) > 1)}", 100) as task:
        shown = 0.0

        def say(fraction: float, message: str) -> None:
            nonlocal shown
            task.advance(max(0.0, fraction * 100 - shown), detail=message)
            shown = max(shown, fraction * 100)

        baseline = subjects[0].name if len(subjects) > 1 else None
        return bench(subjects, protocol, baseline=baseline, say=say, meters=meters)


def bench_artifacts(
    artifacts: Mapping[str, Artifact],
    *,
    runtime: str,
    threads: int,
    quick: bool,
    dims: Mapping[str, int],
    layers: bool,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Measure artifacts and give the result as plain data, for `edgekit bench`.

    Returns:
        The benchmark's own JSON, and under `layers`, where asked for, each model's layers.
    """
    from edgekit.bench import random_feeds

    result = measure(
        artifacts,
        runtime=runtime,
        threads=threads,
        quick=quick,
        dims=dims,
        seed=seed,
        progress=progress,
    ).to_dict()
    if layers:
        if runtime != "onnxruntime":
            raise UsageError(f"{runtime} gives no layer times here.", "Leave --layers out.")
        result["layers"] = {
            name: layer_times(
                artifact.path,
                random_feeds(
                    artifact.inputs, batch=dims.get("batch", 1), seed=seed, dims=dict(dims)
                ),
                threads,
            )
            for name, artifact in artifacts.items()
        }
    return result


def layer_times(model: Path, feeds: Mapping[str, Any], threads: int) -> list[dict[str, Any]]:
    """Time of each layer of an ONNX file, from a separate profiling pass, slowest first."""
    from edgekit.bench.profile import profile

    layers = profile(model, dict(feeds), threads=threads)
    rows = [{"layer": layer.name, "op": layer.op, "ms": layer.ms} for layer in layers]
    return sorted(rows, key=lambda row: -float(row["ms"]))


def cannot_measure(target: Target) -> str:
    """Why a target's latency cannot be measured on this machine; empty where it can."""
    machine = platform.machine()
    if target.machine is not None and target.machine != machine:
        return f"{target.title} is {target.machine}; this machine is {machine}."
    probe = runtime_class(target.runtime).probe()
    return "" if probe.ok else f"{probe.reason} {probe.fix}".strip()


def runtime_class(name: RuntimeName) -> Any:
    """The class of a runtime, without loading the runtime itself.

    Raises:
        UnavailableError: edgekit cannot measure with it yet.
    """
    from edgekit.bench.runtimes import RUNTIMES

    if name not in RUNTIMES:
        raise UnavailableError(
            f"edgekit has no benchmark for the runtime {name!r}.", "Measure with its own tool."
        )
    module, _, cls = RUNTIMES[name].partition(":")
    return getattr(importlib.import_module(module), cls)


def machine() -> dict[str, Any]:
    """This machine: its fingerprint, its runtimes and its meters."""
    from edgekit.bench.fingerprint import fingerprint
    from edgekit.bench.meters import probe_meters
    from edgekit.bench.runtimes import probe_runtimes

    return {
        "device": dict(fingerprint()),
        "runtimes": {name: _plain(p) for name, p in probe_runtimes().items()},
        "meters": {name: _plain(p) for name, p in probe_meters().items()},
    }


def _plain(probe: Any) -> dict[str, Any]:
    return {"ok": probe.ok, "reason": probe.reason, "fix": probe.fix}
