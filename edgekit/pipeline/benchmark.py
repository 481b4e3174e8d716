"""Measure models side by side, here and on the user's devices."""

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.artifact import Artifact, Format
from edgekit.entry import import_modules
from edgekit.errors import DeviceError, EdgekitError, UsageError
from edgekit.pipeline.bench_request import BenchRequest
from edgekit.pipeline.bench_subjects import OpenModel, open_models, subjects_of
from edgekit.pipeline.joules import check_estimate, meters_for, with_estimates
from edgekit.pipeline.layers import check_layered, layer_rows, layer_times
from edgekit.pipeline.limits import Roofline
from edgekit.pipeline.runtimes import TORCH, opener_for
from edgekit.pipeline.step import guarded
from edgekit.progress import Progress, Silent
from edgekit.progress import Task as ProgressTask

if TYPE_CHECKING:
    from edgekit.bench import BenchResult, Protocol, Subject
    from edgekit.bench.roofline import Peaks
    from edgekit.device import Device
    from edgekit.device.session import Stop

HERE = "local"
_RUNS: dict[str, frozenset[Format]] = {
    "onnxruntime": frozenset({"onnx"}),
    "openvino": frozenset({"onnx"}),
    "tensorrt": frozenset({"tensorrt"}),
    "tensorrt-rtx": frozenset({"tensorrt-rtx"}),
}


@dataclass(frozen=True)
class Outcome:
    """What came of one device.

    Attributes:
        device: its name, `local` for this machine.
        result: what was measured, None where the device failed.
        extras: beside the result: `layers` by model, where asked for.
        error: why there is no result.
        interrupted: Ctrl-C came before it was done.
    """

    device: str
    result: "BenchResult | None" = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    error: EdgekitError | None = None
    interrupted: bool = False

    def plain(self) -> dict[str, Any]:
        """The result as JSON holds it, with the extras."""
        return {**(self.result.to_dict() if self.result else {}), **self.extras}


def bench_models(
    request: BenchRequest,
    *,
    devices: Sequence[str] = (),
    compare: bool = True,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Measure models, interleaved; with several devices, on all of them at once.

    Args:
        request: what to measure, and how.
        devices: names of devices that the user added, `local` for this machine; this machine
            where empty.
        compare: compare the other models with the first.
        progress: where to show the progress.

    Returns:
        One outcome a device. Where several were asked for, one that failed has its error there;
        a single one raises it. Ctrl-C gives what there is, marked as not complete.

    Raises:
        UsageError: a choice, a model or a device's name is wrong.
        UnavailableError: the only machine that was asked for cannot run a model.
        DeviceError: the only device that was asked for cannot be reached, or was lost.
    """
    request.check()
    import_modules(request.imports, Path.cwd())
    jobs = _jobs(request, devices, compare=compare)
    progress = progress or Silent()
    if len(jobs) == 1:
        with guarded("The benchmark"):
            return [jobs[0].run(progress)]
    return _at_once(jobs, progress)


@dataclass(frozen=True)
class _Job:
    """One device's share of the work: everything that can be wrong in it has been checked."""

    name: str
    device: "Device | None"
    request: BenchRequest
    models: Sequence[OpenModel]
    subjects: "Sequence[Subject]"
    baseline: str | None
    roofline: Roofline | None = None

    def run(self, progress: Progress, stop: "Stop | None" = None) -> Outcome:
        """Measure, and show the progress as a task of its own."""
        count = len(self.subjects)
        what = f"bench {count} model{'s' * (count > 1)}"
        with progress.task(what if self.device is None else f"{what} on {self.name}", 100) as task:
            measure = self._here if self.device is None else self._there
            result, extras = measure(self.request.protocol(), _teller(task), stop)
        result = with_estimates(replace(result, where=self.name), self.subjects, self.request)
        return Outcome(self.name, result, extras, interrupted=not result.complete)

    def _here(
        self,
        protocol: "Protocol",
        say: Callable[[float, str], None],
        stop: "Stop | None",
    ) -> "tuple[BenchResult, dict[str, Any]]":
        from edgekit.bench import bench
        from edgekit.bench.roofline import peaks_of

        request = self.request
        with ExitStack() as stack:
            stack.enter_context(_power_mode(request.power_mode))
            result = bench(
                self.subjects,
                protocol,
                baseline=self.baseline,
                say=say,
                meters=meters_for(request, self.subjects),
                opener=opener_for(self.subjects, request.imports),
                stop=None if stop is None else lambda: bool(stop()),
            )
            extras: dict[str, Any] = {}
            if request.layers and result.complete:
                extras["layers"] = {
                    s.name: layer_times(
                        s.model, s.feeds, s.options, runtime=s.runtime, imports=request.imports
                    )
                    for s in self.subjects
                }
            if self.roofline is not None and result.complete:
                say(1.0, "measuring the limits")
                peaks = peaks_of(
                    self.subjects, self.roofline.precisions(), affinity=protocol.affinity
                )
                result = self._with_roofline(result, extras, peaks)
        return result, extras

    def _with_roofline(
        self, result: "BenchResult", extras: dict[str, Any], peaks: "Mapping[str, Peaks]"
    ) -> "BenchResult":
        """The result with its shares of the limits, and the layers with theirs."""
        if self.roofline is None:
            return result
        for name, rows in extras.get("layers", {}).items():
            extras["layers"][name] = self.roofline.rows(name, rows, peaks.get(name))
        return self.roofline.applied(result, peaks)

    def _there(
        self,
        protocol: "Protocol",
        say: Callable[[float, str], None],
        stop: "Stop | None",
    ) -> "tuple[BenchResult, dict[str, Any]]":
        from edgekit import device as devices
        from edgekit.bench.roofline import Peaks

        if self.device is None:
            raise UsageError("There is no device.", "Name one with --device.")
        result, extras = devices.bench(
            self.device,
            self.subjects,
            protocol,
            baseline=self.baseline,
            say=say,
            meters=meters_for(self.request, self.subjects),
            layers=self.request.layers,
            roofline=self.roofline.precisions() if self.roofline is not None else None,
            power_mode=self.request.power_mode,
            stop=stop,
        )
        if "layers" in extras:
            files = {subject.name: subject.model for subject in self.subjects}
            rows = {name: layer_rows(each, files[name]) for name, each in extras["layers"].items()}
            extras = {**extras, "layers": rows}
        if "peaks" in extras:
            given = extras.pop("peaks")
            peaks = {name: Peaks.from_dict(each) for name, each in given.items()}
            result = self._with_roofline(result, extras, peaks)
        return result, extras


def _jobs(request: BenchRequest, devices: Sequence[str], *, compare: bool) -> list[_Job]:
    names = list(devices) or [HERE]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"The device {name!r} is given twice.", "Name each device once.")
    jobs = []
    for name in names:
        device = find_device(name, alone=len(names) == 1)
        wanted = request
        if device is not None:
            wanted = request.for_device(device.target, device.meters)
        check_estimate(wanted)
        models = open_models(wanted)
        if device is not None:
            _check_device(device, models)
        if wanted.layers:
            for model in models:
                check_layered(model.runtime, model.name)
        subjects = subjects_of(wanted, models)
        baseline = subjects[0].name if compare and len(subjects) > 1 else None
        roofline = Roofline(subjects) if wanted.roofline else None
        jobs.append(_Job(name, device, wanted, models, subjects, baseline, roofline))
    return jobs


def find_device(name: str, *, alone: bool = True) -> "Device | None":
    """The device of that name; None for this machine.

    Args:
        name: as the user added it, or `local`.
        alone: nothing else is measured at the same time. Beside others, this machine is measured
            by a process of its own, so that talking to the others takes none of its time.

    Raises:
        UsageError: there is no such device.
    """
    from edgekit.device import registry

    if name != HERE:
        return registry.get(name)
    if alone:
        return None
    return registry.Device(name="this-machine", url="local://", python=sys.executable)


def _check_device(device: "Device", models: Sequence[OpenModel]) -> None:
    for model in models:
        if model.runtime in TORCH:
            raise UsageError(
                f"{model.name} runs on torch, which is measured on this machine alone, not on the"
                f" device {device.name}.",
                "Export it (`edgekit export`), and measure the ONNX file there.",
            )


def _at_once(jobs: Sequence[_Job], progress: Progress) -> list[Outcome]:
    """Run every job in a thread of its own; Ctrl-C stops them all, and takes what there is."""
    from edgekit.device.api import interruptible

    with interruptible() as interrupted, ThreadPoolExecutor(len(jobs)) as pool:

        def attempt(job: _Job) -> Outcome:
            try:
                with guarded(f"The benchmark on {job.name}"):
                    return job.run(progress, interrupted)
            except EdgekitError as e:
                return Outcome(job.name, error=e, interrupted=bool(interrupted()))
            except KeyboardInterrupt:
                error = DeviceError("Stopped before there was a result.", "Measure again.")
                return Outcome(job.name, error=error, interrupted=True)

        futures = [pool.submit(attempt, job) for job in jobs]
        found = [future.result() for future in futures]
    if all(outcome.result is None and outcome.interrupted for outcome in found):
        raise KeyboardInterrupt
    return found


def _teller(task: ProgressTask) -> Callable[[float, str], None]:
    shown = 0.0

    def say(fraction: float, message: str) -> None:
        nonlocal shown
        task.advance(max(0.0, fraction * 100 - shown), detail=message)
        shown = max(shown, fraction * 100)

    return say


def _power_mode(mode: str | None) -> Any:
    if mode is None:
        return nullcontext()
    from edgekit.bench.power import changed

    return changed(mode)


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
    target: str | None = None,
    device: "Device | None" = None,
) -> Outcome:
    """Measure a recipe's artifacts, interleaved; the first is the baseline of the others.

    Args:
        artifacts: by the name that the result calls them.
        runtime: what runs them.
        threads: the runtime's CPU threads.
        quick: the short protocol.
        dims: sizes of dynamic dimensions; `batch` is 1 unless given.
        seed: seeds the inputs and the order of the blocks.
        progress: where to show the progress.
        meters: energy meters to try, best first.
        target: the target's name, for the meter `estimate`.
        device: where; this machine where None. A device times the layers of ONNX files as well.

    Raises:
        UsageError: an artifact is not of the runtime's format.
        UnavailableError: the runtime cannot run there.
        DeviceError: the device cannot be reached, or was lost.
    """
    for name, artifact in artifacts.items():
        if artifact.format not in _RUNS.get(runtime, frozenset()):
            raise UsageError(
                f"{name} is {artifact.format}, which {runtime} does not run.",
                "Export it (`edgekit export`) or build it (`edgekit build`) first.",
            )
    request = BenchRequest(
        models=tuple(artifact.path for artifact in artifacts.values()),
        target=target,
        threads=threads,
        quick=quick,
        batch=dims.get("batch", 1),
        dims=dims,
        meters=tuple(meters),
        layers=device is not None and runtime == "onnxruntime",
        seed=seed,
    )
    check_estimate(request)
    models = [
        OpenModel(name, artifact.path, runtime, artifact.inputs)
        for name, artifact in artifacts.items()
    ]
    subjects = subjects_of(request, models)
    baseline = subjects[0].name if len(subjects) > 1 else None
    name = HERE if device is None else device.name
    outcome = _Job(name, device, request, models, subjects, baseline).run(progress)
    if outcome.result is None or not outcome.result.complete:
        raise KeyboardInterrupt  # a run keeps no half measurement; it measures again
    return outcome
