"""TensorRT and TensorRT-RTX engines. Without module, driver or GPU it says so, and nothing else."""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, ClassVar

import numpy as np

from edgekit.bench.runtimes.base import Array, Availability, Feeds, IoSpec, check_feeds
from edgekit.bench.runtimes.cuda import Cuda, device_name
from edgekit.errors import UnavailableError, UsageError

DEFAULTS: Mapping[str, Any] = {"device": 0, "transfers": True}


class TensorRt:
    """A built engine, with one execution context and its own stream.

    Args:
        model: the engine file, built for this GPU.
        options: any of
            `device`: index of the GPU (default 0);
            `transfers`: copy inputs to the GPU and outputs back in every timed run (default true).
    """

    MODULE: ClassVar[str] = "tensorrt"
    PACKAGE: ClassVar[str] = "edgekit[tensorrt]"

    def __init__(self, model: Path, options: Mapping[str, Any]) -> None:
        # The threads of a CPU runtime mean nothing here and are not an error: one recipe's options
        # serve several runtimes.
        wanted = {name: value for name, value in options.items() if name != "threads"}
        for name in wanted:
            if name not in DEFAULTS:
                raise UsageError(
                    f"{self.MODULE} has no option {name!r} here.",
                    f"Options: {', '.join(DEFAULTS)}.",
                )
        self._model = model
        self._wanted = {**DEFAULTS, **wanted}
        self._cuda: Cuda | None = None
        self._engine: Any = None
        self._context: Any = None
        self._memory: dict[str, tuple[int, int]] = {}
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
        run, outputs = self._bind(feeds, transfers=True)
        run()
        return outputs

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Allocate once; the returned call enqueues one inference and waits for it."""
        run, _ = self._bind(feeds, transfers=self._wanted["transfers"])
        return run

    def synchronize(self) -> None:
        """Wait for the stream."""
        if self._cuda is not None:
            self._cuda.synchronize()

    @classmethod
    def _import(cls) -> ModuleType:
        try:
            return importlib.import_module(cls.MODULE)
        except (ImportError, OSError) as e:
            raise UnavailableError(
                f"The module {cls.MODULE} does not import: {e}.", f"Install {cls.PACKAGE}."
            ) from e

    def _load(self, library: ModuleType, gpu: str) -> None:
        runtime = library.Runtime(library.Logger(library.Logger.ERROR))
        self._engine = runtime.deserialize_cuda_engine(self._model.read_bytes())
        if self._engine is None:
            raise UsageError(
                f"{library.__name__} {library.__version__} cannot load the engine {self._model}.",
                f"Build it with this version for this GPU, {gpu}.",
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise UnavailableError(
                f"There is not enough GPU memory to run {self._model.name}.", "Free some of it."
            )
        specs = [self._spec(library, place) for place in range(self._engine.num_io_tensors)]
        self.inputs = tuple(spec for spec, is_input in specs if is_input)
        self.outputs = tuple(spec for spec, is_input in specs if not is_input)
        self.options = {**self._wanted, "gpu": gpu, "version": library.__version__}
        beside = self._model.with_suffix(".json")
        if beside.is_file():
            self.options = {**self.options, "build": _build_facts(beside)}

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

    def _bind(
        self, feeds: Feeds, *, transfers: bool
    ) -> tuple[Callable[[], object], dict[str, Array]]:
        check_feeds(self.inputs, feeds, self._model)
        cuda, context = self._cuda, self._context
        if cuda is None:
            raise UsageError("The engine is not loaded.", "Use the runtime in a with statement.")
        uploads = []
        for spec in self.inputs:
            array = np.ascontiguousarray(feeds[spec.name])
            if not context.set_input_shape(spec.name, array.shape):
                raise UsageError(
                    f"Input {spec.name!r} of {self._model.name} may not have the shape "
                    f"{list(array.shape)}.",
                    "Give a shape inside the profile that the engine was built with.",
                )
            uploads.append((self._place(spec.name, array), array))
        outputs = {spec.name: self._output(spec) for spec in self.outputs}
        downloads = [(array, self._place(name, array)) for name, array in outputs.items()]
        for address, array in uploads:
            cuda.upload(address, array)
        cuda.synchronize()

        def run() -> None:
            if transfers:
                for address, array in uploads:
                    cuda.upload(address, array)
            if not context.execute_async_v3(cuda.stream):
                raise UsageError(f"The engine {self._model} failed to run.", "Build it again.")
            if transfers:
                for array, address in downloads:
                    cuda.download(array, address)
            cuda.synchronize()

        return run, outputs

    def _output(self, spec: IoSpec) -> Array:
        shape = tuple(self._context.get_tensor_shape(spec.name))
        if any(size < 0 for size in shape):
            raise UsageError(
                f"The shape of output {spec.name!r} of {self._model.name} depends on the data.",
                "Such engines cannot be measured yet.",
            )
        return np.empty(shape, dtype=spec.dtype)

    def _place(self, name: str, array: Array) -> int:
        """Point a tensor at memory of its own, kept from one binding to the next."""
        if self._cuda is None:
            raise UsageError("The engine is not loaded.", "Use the runtime in a with statement.")
        address, size = self._memory.get(name, (0, -1))
        if size < array.nbytes:
            address = self._cuda.allocate(array.nbytes)
            self._memory[name] = (address, array.nbytes)
        self._context.set_tensor_address(name, address)
        return address

    def _close(self) -> None:
        self._context = self._engine = None
        self._memory = {}
        if self._cuda is not None:
            self._cuda.close()
        self._cuda = None


class TensorRtRtx(TensorRt):
    """An engine of TensorRT for RTX; the same Python interface under another module name."""

    MODULE: ClassVar[str] = "tensorrt_rtx"
    PACKAGE: ClassVar[str] = "edgekit[tensorrt-rtx]"


def _build_facts(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise UsageError(f"{path} is not valid JSON: {e}.", "Build the engine again.") from e
