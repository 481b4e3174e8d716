"""TensorRT and TensorRT-RTX engines. Without module, driver or GPU it says so, and nothing else."""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, ClassVar

import numpy as np

from edgekit.bench.runtimes.base import (
    Array,
    Availability,
    Feeds,
    IoSpec,
    check_feeds,
    with_defaults,
)
from edgekit.bench.runtimes.binding import Binding
from edgekit.bench.runtimes.cuda import Cuda, device_name
from edgekit.errors import UnavailableError, UsageError

DEFAULTS: Mapping[str, Any] = {"device": 0, "transfers": True, "cuda_graph": False}


class TensorRt:
    """A built engine; each binding has an execution context and a stream of its own.

    Args:
        model: the engine file, built for this GPU.
        options: any of
            `device`: index of the GPU (default 0);
            `transfers`: copy inputs to the GPU and outputs back in every timed run (default true);
            `cuda_graph`: record a run as a CUDA graph, and time its launch (default false).
    """

    DEFAULTS: Mapping[str, Any] = DEFAULTS
    MODULE: ClassVar[str] = "tensorrt"
    PACKAGE: ClassVar[str] = "edgekit[tensorrt]"

    def __init__(self, model: Path, options: Mapping[str, Any]) -> None:
        # The threads of a CPU runtime mean nothing here and are not an error: one recipe's options
        # serve several runtimes.
        own = {name: value for name, value in options.items() if name != "threads"}
        self._model = model
        self._wanted = with_defaults(self.MODULE, DEFAULTS, own)
        self._cuda: Cuda | None = None
        self._engine: Any = None
        self._bindings: list[Binding] = []
        self._last: Binding | None = None
        self.inputs: tuple[IoSpec, ...] = ()
        self.outputs: tuple[IoSpec, ...] = ()
        self.options: Mapping[str, Any] = {}

    @classmethod
    def probe(cls) -> Availability:
        """Say which of module, driver and GPU is missing, if any."""
        try:
            library = cls._import()
            name = device_name()
        except UnavailableError as e:
            return Availability(ok=False, reason=e.message, fix=e.hint)
        return Availability(ok=True, reason=f"{cls.MODULE} {library.__version__} on {name}.")

    def __enter__(self) -> "TensorRt":
        """Deserialise the engine."""
        library = self._import()
        if not self._model.is_file():
            raise UsageError(f"{self._model} does not exist.", "Check the path.")
        device = self._wanted["device"]
        name = device_name(device)
        self._cuda = Cuda(device)
        try:
            self._load(library, name)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Free the engine and the GPU's memory."""
        self._close()

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; see the protocol."""
        if self._last is not None and self._last.takes(feeds):
            check_feeds(self.inputs, feeds, self._model)
            self._last.feed(feeds)
        else:
            if self._last is not None:
                self._bindings.remove(self._last)
                self._last.close()
                self._last = None
            self._last = self._bind(feeds, transfers=True, graph=False)
        self._last()
        return self._last.read()

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Allocate once; the returned call enqueues one inference and waits for it.

        Its method `split` runs once and tells the host's time from the GPU's, by events.
        """
        wanted = self._wanted
        return self._bind(feeds, transfers=wanted["transfers"], graph=wanted["cuda_graph"])

    def synchronize(self) -> None:
        """Nothing to wait for: a run returns when its outputs are there."""

    @classmethod
    def _import(cls) -> ModuleType:
        try:
            return importlib.import_module(cls.MODULE)
        except (ImportError, OSError) as e:
            raise UnavailableError(
                f"The module {cls.MODULE} does not import: {e}.", f'pip install "{cls.PACKAGE}"'
            ) from e

    def _load(self, library: ModuleType, gpu: str) -> None:
        beside = self._model.with_name(f"{self._model.name}.json")
        built = _build_facts(beside) if beside.is_file() else {}
        self._check_fits(library, built, gpu)
        runtime = library.Runtime(library.Logger(library.Logger.ERROR))
        self._engine = runtime.deserialize_cuda_engine(self._model.read_bytes())
        if self._engine is None:
            raise UsageError(
                f"{library.__name__} {library.__version__} cannot load the engine {self._model}.",
                f"Build it with this version for this GPU, {gpu}.",
            )
        specs = [self._spec(library, place) for place in range(self._engine.num_io_tensors)]
        self.inputs = tuple(spec for spec, is_input in specs if is_input)
        self.outputs = tuple(spec for spec, is_input in specs if not is_input)
        self.options = {**self._wanted, "gpu": gpu, "version": library.__version__}
        if built:
            self.options = {**self.options, "build": built}

    def _check_fits(self, library: ModuleType, built: Mapping[str, Any], gpu: str) -> None:
        """Refuse an engine of another version or GPU by its JSON: the library may crash on it."""
        flags = " ".join(str(each).upper() for each in built.get("flags") or ())
        made, have = str(built.get("version") or ""), str(library.__version__)
        if made and made != have and "VERSION_COMPATIBLE" not in flags:
            raise UsageError(
                f"The engine {self._model} was built by {self.MODULE} {made}, and {have} is here.",
                "Build it again with the version that runs it.",
            )
        wanted = [str(each) for each in built.get("compute_capabilities") or ()]
        here = gpu.rpartition("(")[2].rstrip(")")
        if wanted and here not in wanted and "HARDWARE_COMPATIB" not in flags:
            raise UsageError(
                f"The engine {self._model} was built for compute capability {', '.join(wanted)},"
                f" and this GPU is {gpu}.",
                "Build it for this GPU.",
            )

    def _spec(self, library: ModuleType, place: int) -> tuple[IoSpec, bool]:
        name = self._engine.get_tensor_name(place)
        kind = self._engine.get_tensor_dtype(name)
        try:
            dtype = np.dtype(library.nptype(kind)).name
        except TypeError as e:
            raise UsageError(
                f"{name!r} of {self._model.name} is {kind}, which NumPy does not have.",
                "Build the engine with float32, float16 or integer inputs and outputs.",
            ) from e
        shape = tuple(
            size if size >= 0 else f"{name}_{axis}"
            for axis, size in enumerate(self._engine.get_tensor_shape(name))
        )
        is_input = self._engine.get_tensor_mode(name) == library.TensorIOMode.INPUT
        return IoSpec(name, dtype, shape), is_input

    def _bind(self, feeds: Feeds, *, transfers: bool, graph: bool) -> Binding:
        check_feeds(self.inputs, feeds, self._model)
        if self._engine is None:
            raise UsageError("The engine is not loaded.", "Use the runtime in a with statement.")
        binding = Binding(
            self._engine,
            self._model.name,
            self.inputs,
            self.outputs,
            feeds,
            device=self._wanted["device"],
            transfers=transfers,
            graph=graph,
        )
        self._bindings.append(binding)
        return binding

    def _close(self) -> None:
        for binding in self._bindings:
            binding.close()
        self._bindings, self._last = [], None
        self._engine = None
        if self._cuda is not None:
            self._cuda.close()
        self._cuda = None


class TensorRtRtx(TensorRt):
    """An engine of TensorRT for RTX; the same Python interface under another module name."""

    MODULE: ClassVar[str] = "tensorrt_rtx"
    PACKAGE: ClassVar[str] = "edgekit[tensorrt-rtx]"


def _build_facts(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise UsageError(f"{path} is not valid JSON: {e}.", "Build the engine again.") from e
    if not isinstance(found, dict):
        raise UsageError(f"{path} says nothing of an engine.", "Build the engine again.")
    return found
