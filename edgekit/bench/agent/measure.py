"""What the worker does for a `run`: call the benchmark, and write what it found."""

import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bench import power
from edgekit.bench.agent.emulation import relabel
from edgekit.bench.agent.install import install_hint
from edgekit.bench.agent.wire import Kind, Message
from edgekit.bench.agent.worker import ARRAYS, fail, write
from edgekit.bench.api import bench
from edgekit.bench.measure import Subject
from edgekit.bench.profile import PROFILERS, profile
from edgekit.bench.protocol import Protocol
from edgekit.bench.result import BenchResult
from edgekit.bench.roofline import peaks_of
from edgekit.bench.runtimes import runtime_class
from edgekit.errors import EdgekitError, PassError, UnavailableError, UsageError

PROGRESS_S = 5.0
EMULATED = "An emulated processor ran this: the times say nothing about a real device."


Post = Callable[[Message], None]
Work = Callable[[Mapping[str, Any], Path, Post, threading.Event], dict[str, Any]]


def main(folder: Path, post: Post, stopped: threading.Event, work: Work | None = None) -> int:
    """Do what `order.json` asks for; return the exit code.

    Args:
        folder: the work folder; gets `result.json` and `arrays.npz`, or `error.json`.
        post: sends a message to the supervisor.
        stopped: set when the host wants what there is.
        work: what to do; `measure` where None.
    """
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    try:
        found = (work or measure)(order, folder, post, stopped)
    except KeyboardInterrupt:
        return fail(folder, "stopped", "It was stopped before it had a result.", "")
    except MemoryError:
        hint = "Give a smaller model or batch, or end other programs on the device."
        return fail(folder, "crash", "The device ran out of memory.", hint)
    except EdgekitError as e:
        kinds: Mapping[type[EdgekitError], Kind] = {
            UsageError: "usage",
            UnavailableError: "unavailable",
            PassError: "pass",
        }
        kind = next((kinds[cls] for cls in kinds if isinstance(e, cls)), None)
        return fail(folder, kind or "internal", e.message, e.hint)
    write(folder / "result.json", found)
    return 0


def measure(
    order: Mapping[str, Any], folder: Path, post: Post, stopped: threading.Event
) -> dict[str, Any]:
    """Run the benchmark of an order, and write the raw samples.

    Returns:
        `result` as JSON, and `layers` and `peaks` by subject where they were asked for.
    """
    subjects = subjects_of(order)
    result = bench(
        subjects,
        Protocol.from_dict(order["protocol"]),
        baseline=order["baseline"],
        say=Progress(post),
        meters=order["meters"],
        stop=Stop(post, stopped),
    )
    result = _renamed(result, order)
    result.save_raw(folder / ARRAYS)
    found: dict[str, Any] = {"result": result.to_dict()}
    if order["layers"] and not stopped.is_set():
        found["layers"] = _layers(subjects)
    if order["roofline"] and not stopped.is_set():
        affinity = Protocol.from_dict(order["protocol"]).affinity
        peaks = peaks_of(
            subjects,
            order["roofline"],
            affinity=affinity,
            say=lambda text: post({"type": "progress", "fraction": 1.0, "text": text}),
        )
        found["peaks"] = {name: dataclasses.asdict(each) for name, each in peaks.items()}
    return found if not order["emulated"] else dict(relabel(found))


class Progress:
    """Sends how far the benchmark is, at most every five seconds, or when its phase changes.

    Each message wakes the supervisor, which must cost nothing while the worker measures.
    """

    def __init__(
        self, post: Callable[[Message], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._post, self._now = post, now
        self._sent_s = float("-inf")
        self._phase = ""

    def __call__(self, fraction: float, text: str) -> None:
        """Send it, or not."""
        now, phase = self._now(), re.sub(r"\d+", "", text)
        if phase == self._phase and now - self._sent_s < PROGRESS_S:
            return
        self._sent_s, self._phase = now, phase
        self._post({"type": "progress", "fraction": round(float(fraction), 4), "text": text})


class Stop:
    """Tells the benchmark whether to stop, and the supervisor that the benchmark has heard it."""

    def __init__(self, post: Callable[[Message], None], stopped: threading.Event) -> None:
        self._post, self._stopped = post, stopped
        self._told = False

    def __call__(self) -> bool:
        """Whether the host has had enough."""
        if self._stopped.is_set() and not self._told:
            self._told = True
            self._post({"type": "stopping"})
        return self._stopped.is_set()


def subjects_of(order: Mapping[str, Any]) -> list[Subject]:
    """Return an order's subjects, once the runtimes that they need are known to be here.

    Raises:
        UnavailableError: a runtime is missing.
        UsageError: inputs cannot be read.
    """
    for runtime in dict.fromkeys(each["runtime"] for each in order["subjects"]):
        _check_runtime(runtime)
    return [_subject(each) for each in order["subjects"]]


def _check_runtime(name: str) -> None:
    state = runtime_class(name).probe()
    if not state.ok:
        missing = "does not import" in state.reason
        hint = install_hint([name]) if missing else state.fix
        raise UnavailableError(f"The device cannot run {name}: {state.reason}", hint)


def _subject(about: Mapping[str, Any]) -> Subject:
    return Subject(
        about["name"],
        about["runtime"],
        Path(about["model"]),
        _feeds(Path(about["feeds"]), about["name"]),
        about["options"],
    )


def _feeds(path: Path, name: str) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError) as e:
        raise UsageError(
            f"The inputs of {name!r} cannot be read: {type(e).__name__}: {e}.",
            "Send them as an .npz of arrays.",
        ) from e


def _renamed(result: BenchResult, order: Mapping[str, Any]) -> BenchResult:
    """Call the models what the host calls them, and say what the device was set to."""
    shown = {each["name"]: each["shown"] for each in order["subjects"]}
    subjects = tuple(dataclasses.replace(each, model=shown[each.name]) for each in result.subjects)
    warnings = (*result.warnings, EMULATED) if order["emulated"] else result.warnings
    conditions = {**result.conditions, "power_mode": power.read()}
    return dataclasses.replace(result, subjects=subjects, warnings=warnings, conditions=conditions)


def _layers(subjects: list[Subject]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in subjects:
        if each.runtime in PROFILERS:
            rest = {name: value for name, value in each.options.items() if name != "threads"}
            layers = profile(
                each.model,
                each.feeds,
                runtime=each.runtime,
                threads=each.options.get("threads", 1),
                options=rest,
            )
            found[each.name] = [dataclasses.asdict(layer) for layer in layers]
    return found
