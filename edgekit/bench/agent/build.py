"""What the worker does for a `build`: an engine, by the TensorRT that this device has."""

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from edgekit.bench.agent.install import install_hint
from edgekit.bench.agent.measure import Post
from edgekit.bench.agent.worker import ARRAYS
from edgekit.bench.engine import library
from edgekit.bench.engine.build import Built, Plan
from edgekit.bench.engine.build import build as build_engine
from edgekit.bench.engine.options import BuildOptions
from edgekit.errors import UnavailableError, UsageError

_RUNTIMES: dict[str, library.Kind] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}
JETSON = Path("/etc/nv_tegra_release")
MOST_BYTES = 1 << 30
"""What the host takes in one piece."""


def build(
    order: Mapping[str, Any], folder: Path, post: Post, stopped: threading.Event
) -> dict[str, Any]:
    """Build the engine of an order, and write it and the timing cache as arrays of bytes.

    A stop ends this process at once: the library cannot be interrupted, and half an engine is none.

    Returns:
        `built`: what is known of the engine.

    Raises:
        UnavailableError: the device lacks the library or a GPU.
        UsageError: the plan is none, or the engine is too large to be sent.
        PassError: the parser refuses a node, or the build fails.
    """
    threading.Thread(target=_end_when, args=(stopped,), daemon=True).start()
    plan = _plan(order["plan"])
    ok, reason, _ = library.available(plan.runtime)
    if not ok:
        raise UnavailableError(
            f"The device cannot build an engine: {reason}", how_to_get(plan.runtime)
        )
    timings = Path(order["timings"])
    if plan.options.timing_cache is not None:
        plan = replace(plan, options=replace(plan.options, timing_cache=str(timings)))
    post({"type": "progress", "fraction": 0.0, "text": "building"})
    built = build_engine(Path(order["model"]), plan)
    arrays = {"engine": np.frombuffer(built.data, np.uint8)}
    kept = timings / built.timing_cache
    if built.timing_cache and kept.is_file():
        arrays["timings"] = np.frombuffer(kept.read_bytes(), np.uint8)
    if sum(array.nbytes for array in arrays.values()) > MOST_BYTES - (1 << 16):
        raise UsageError(
            f"The engine has {len(built.data) / 1e9:.1f} GB, more than can be sent back.",
            "Install edgekit on the device and build there, or strip the weights.",
        )
    np.savez(folder / ARRAYS, **arrays)  # type: ignore[arg-type]
    return {"built": _facts(built)}


def how_to_get(runtime: str, jetson: Path = JETSON) -> str:
    """What to do on the device to get a builder."""
    if runtime == "tensorrt" and jetson.is_file():
        return (
            "On a Jetson it comes with JetPack, for the system's own Python:"
            " `sudo apt install python3-libnvinfer`, and name that Python with"
            " `--python /usr/bin/python3`."
        )
    return install_hint([runtime])


def _end_when(stopped: threading.Event) -> None:
    stopped.wait()
    os._exit(1)


def _plan(about: Mapping[str, Any]) -> Plan:
    try:
        profile = {
            str(name): tuple(tuple(int(size) for size in shape) for shape in triple)
            for name, triple in about["profile"].items()
        }
        if any(len(triple) != 3 for triple in profile.values()):
            return _no_plan("no triple of shapes")
        return Plan(
            runtime=_RUNTIMES[about["runtime"]],
            profile=profile,  # type: ignore[arg-type]
            compute_capabilities=tuple(str(each) for each in about["compute_capabilities"]),
            options=BuildOptions(**about["options"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        return _no_plan(f"{type(e).__name__}: {e}")


def _no_plan(why: str) -> NoReturn:
    raise UsageError(
        f"The plan cannot be read: {why}.", "Use the same version of edgekit on both sides."
    )


def _facts(built: Built) -> dict[str, Any]:
    return {name: value for name, value in vars(built).items() if name != "data"}
