"""OpenVINO: device, threads, hint and precision chosen, and what it made of them recorded."""

import importlib
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from edgekit.bench.runtimes.base import (
    Array,
    Availability,
    Feeds,
    IoSpec,
    check_feeds,
    with_defaults,
)
from edgekit.errors import UnavailableError, UsageError

FIX = 'pip install "edgekit[openvino]"'
HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")
SUFFIXES = (".onnx", ".xml")
PRECISIONS = ("f32", "f16", "bf16")
# What OpenVINO says of a compiled model that changes how it runs; a device may not have them all.
PROPERTIES = (
    "PERFORMANCE_HINT",
    "EXECUTION_MODE_HINT",
    "INFERENCE_PRECISION_HINT",
    "INFERENCE_NUM_THREADS",
    "NUM_STREAMS",
    "ENABLE_CPU_PINNING",
    "ENABLE_HYPER_THREADING",
    "SCHEDULING_CORE_TYPE",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE",
    "CPU_DENORMALS_OPTIMIZATION",
    "EXECUTION_DEVICES",
)
_TELEMETRY = "openvino_telemetry"
_LOCK = threading.Lock()


class OpenVino:
    """An ONNX file, or OpenVINO's own `.xml`, compiled by OpenVINO.

    Args:
        model: the file; its weights must lie beside it.
        options: any of
            `device`: `CPU` (default), or another that OpenVINO finds here;
            `threads`: CPU threads (default 1; 0: as many as OpenVINO likes);
            `hint`: `LATENCY` (default), `THROUGHPUT` or `CUMULATIVE_THROUGHPUT`;
            `precision`: of the computation, `f32`, `f16` or `bf16`; unless given the device's
            choice, which may be half precision: the options recorded say what it was;
            `profile`: count each layer's time, for `edgekit.bench.profile` only.
    """

    DEFAULTS: Mapping[str, Any] = {
        "device": "CPU",
        "threads": 1,
        "hint": "LATENCY",
        "precision": None,
        "profile": False,
    }

    def __init__(self, model: Path, options: Mapping[str, Any]) -> None:
        self._model = model
        self._wanted = with_defaults("OpenVINO", self.DEFAULTS, options)
        self._compiled: Any = None
        self.inputs: tuple[IoSpec, ...] = ()
        self.outputs: tuple[IoSpec, ...] = ()
        self.options: Mapping[str, Any] = {}
        _check_choice("hint", self._wanted["hint"], HINTS)
        if self._wanted["precision"] is not None:
            _check_choice("precision", self._wanted["precision"], PRECISIONS)

    @classmethod
    def probe(cls) -> Availability:
        """Say whether OpenVINO imports, and which devices it finds."""
        try:
            library = import_openvino()
            devices = library.Core().available_devices
        except UnavailableError as e:
            return Availability(ok=False, reason=e.message, fix=e.hint)
        except RuntimeError as e:
            return Availability(ok=False, reason=f"OpenVINO fails: {_first_line(e)}", fix=FIX)
        return Availability(ok=True, reason=f"OpenVINO {_version(library)} ({', '.join(devices)}).")

    def __enter__(self) -> "OpenVino":
        """Read and compile the model."""
        library = import_openvino()
        if not self._model.is_file():
            raise UsageError(f"{self._model} does not exist.", "Check the path.")
        if self._model.suffix not in SUFFIXES:  # it would try every format that it knows
            raise UsageError(f"{self._model} is no {' or '.join(SUFFIXES)} file.", "Export it.")
        core, wanted = library.Core(), self._wanted
        if wanted["device"].partition(".")[0] not in (present := core.available_devices):
            raise UsageError(
                f"OpenVINO has no device {wanted['device']!r} here.",
                f"Devices present: {', '.join(present)}.",
            )
        config: dict[str, Any] = {"PERFORMANCE_HINT": wanted["hint"]}
        if wanted["threads"] and wanted["device"] == "CPU":
            config["INFERENCE_NUM_THREADS"] = wanted["threads"]
        if wanted["precision"] is not None:
            config["INFERENCE_PRECISION_HINT"] = wanted["precision"]
        if wanted["profile"]:
            config["PERF_COUNT"] = True
        try:
            self._compiled = core.compile_model(
                core.read_model(self._model), wanted["device"], config
            )
        except RuntimeError as e:
            raise UsageError(
                f"OpenVINO cannot load {self._model}: {_reason(e)}",
                "Check that the file is a whole model, with its weights beside it.",
            ) from e
        self.inputs = tuple(_spec(port, self._model) for port in self._compiled.inputs)
        self.outputs = tuple(_spec(port, self._model) for port in self._compiled.outputs)
        properties = {name: _property(self._compiled, name) for name in PROPERTIES}
        real = properties["INFERENCE_PRECISION_HINT"]
        if wanted["precision"] not in (None, real):
            raise UsageError(
                f"OpenVINO computes in {real} on this {wanted['device']}, not in"
                f" {wanted['precision']}.",
                "Leave the precision out.",
            )
        self.options = {
            "device": wanted["device"],
            "threads": wanted["threads"],
            "hint": wanted["hint"],
            "precision": wanted["precision"],
            "properties": {name: value for name, value in properties.items() if value is not None},
            "version": _version(library),
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Free the compiled model."""
        del kind, error, traceback
        self._compiled = None

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; see the protocol."""
        request, run = self.request(feeds)
        run()
        return {spec.name: np.array(request.get_tensor(spec.name).data) for spec in self.outputs}

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Set the inputs once; the returned call is one run of a request with its own outputs."""
        return self.request(feeds)[1]

    def request(self, feeds: Feeds) -> tuple[Any, Callable[[], object]]:
        """An inference request whose inputs are the feeds' own memory, and one run of it."""
        check_feeds(self.inputs, feeds, self._model)
        if self._compiled is None:
            raise UsageError("The model is not loaded.", "Use the runtime in a with statement.")
        library = import_openvino()
        request = self._compiled.create_infer_request()
        for spec in self.inputs:
            array = np.require(feeds[spec.name], requirements=["C", "W"])
            request.set_tensor(spec.name, library.Tensor(array, shared_memory=True))

        def infer_once() -> None:
            try:
                # Sharing: outputs are views of the request's memory, not copies of it.
                request.infer(share_inputs=True, share_outputs=True)
            except RuntimeError as e:
                raise UsageError(
                    f"OpenVINO cannot run {self._model}: {_reason(e)}",
                    "Check the model with these input shapes.",
                ) from e

        return request, infer_once

    def sources(self) -> dict[str, tuple[str, ...]]:
        """By the name of each part that runs, the names of the layers that it was made from."""
        found = {}
        for part in self._compiled.get_runtime_model().get_ordered_ops():
            facts = part.get_rt_info()
            if "originalLayersNames" in facts:
                names = str(facts["originalLayersNames"].astype(str)).split(",")
                found[part.get_friendly_name()] = tuple(name for name in names if name)
        return found

    def synchronize(self) -> None:
        """Nothing to wait for: a run returns when its outputs are there."""


def _check_choice(what: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"OpenVINO has no {what} {value!r}.", f"Choices: {', '.join(known)}.")


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry.

    `import openvino` alone writes an identifier into the home folder and reports to a server where
    its telemetry package is installed; with that hidden, it takes its own stub.
    """
    if sys.modules.get("openvino") is not None:
        return importlib.import_module("openvino")
    with _LOCK:
        hidden = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == _TELEMETRY}
        for name in hidden:
            del sys.modules[name]
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # an import now fails
        try:
            return importlib.import_module("openvino")
        except (ImportError, OSError) as e:
            raise UnavailableError(f"OpenVINO does not import: {_first_line(e)}", FIX) from e
        finally:
            del sys.modules[_TELEMETRY]
            sys.modules.update(hidden)


def _version(library: ModuleType) -> str:
    """The version's number: the rest of what OpenVINO says is a build and a branch."""
    return str(library.__version__).partition("-")[0]


def _property(compiled: Any, name: str) -> Any:
    try:
        value = compiled.get_property(name)
    except RuntimeError:
        return None
    return value if isinstance(value, (bool, int, float, str)) else _word(value)


def _word(value: Any) -> Any:
    """OpenVINO's own types as JSON holds them."""
    if isinstance(value, (list, tuple, set)):
        return [_word(each) for each in value]
    if hasattr(value, "to_string"):
        return str(value.to_string())
    return str(getattr(value, "name", value))


def _spec(port: Any, model: Path) -> IoSpec:
    name = port.any_name if port.names else port.node.friendly_name
    try:
        dtype = np.dtype(port.element_type.to_dtype()).name
    except (RuntimeError, TypeError, ValueError) as e:
        raise UsageError(
            f"{name!r} of {model.name} is {port.element_type}, which NumPy does not have.",
            "Only tensors of numbers and booleans can be measured.",
        ) from e
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        raise UsageError(
            f"{name!r} of {model.name} has no known rank.", "Export the model with fixed ranks."
        )
    sizes = tuple(
        dim.get_length() if dim.is_static else f"{name}_{axis}" for axis, dim in enumerate(shape)
    )
    return IoSpec(name, dtype, sizes)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _reason(error: BaseException) -> str:
    """The last line that says something: the first ones name places in OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
