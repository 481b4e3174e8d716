"""ONNX Runtime: providers chosen explicitly, every session option recorded, inputs bound once."""

import functools
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

CPU = "CPUExecutionProvider"
# Where the weights of a written graph go: in the file itself they could not be over 2 GiB.
EXTERNAL = "session.optimized_model_external_initializers_file_name"
FIX = "Install onnxruntime (or onnxruntime-gpu)."
# y = Identity(x), float32 of one element, opset 13.
SMALLEST_MODEL = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n'
    b"\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)

# ONNX Runtime's own names for element types, and NumPy's.
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16)},
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (32, 64)},
}
LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


class OnnxRuntime:
    """An ONNX file, or ONNX Runtime's own `.ort`, in ONNX Runtime.

    Args:
        model: the file; external data must lie beside it.
        options: any of
            `providers`: names, in order of preference (default: the CPU alone);
            `threads`: threads inside an operator (default 1; 0: as many as there are cores);
            `inter_threads`: threads across operators (default 1);
            `spinning`: idle threads spin instead of sleeping (default: ONNX Runtime's, true);
            `bound`: bind inputs and outputs once (default true); false calls `session.run` with
            a dictionary, as most Python programs do, at 2 to 5 µs more for each inference;
            `arena`, `memory_pattern`: reuse of memory (default true);
            `optimization`: `all`, `extended`, `basic` or `disable` (default `all`);
            `profile`: prefix of a profile file, for `edgekit.bench.profile` only; on the CPU the
            graph as it runs is written as well, to that prefix with `.onnx` behind it.
    """

    DEFAULTS: Mapping[str, Any] = {
        "providers": (CPU,),
        "threads": 1,
        "inter_threads": 1,
        "spinning": True,
        "bound": True,
        "arena": True,
        "memory_pattern": True,
        "optimization": "all",
        "profile": None,
    }

    def __init__(self, model: Path, options: Mapping[str, Any]) -> None:
        self._model = model
        self._wanted = with_defaults("ONNX Runtime", self.DEFAULTS, options)
        self._session: Any = None
        self.inputs: tuple[IoSpec, ...] = ()
        self.outputs: tuple[IoSpec, ...] = ()
        self.options: Mapping[str, Any] = {}
        if self._wanted["optimization"] not in LEVELS:
            raise UsageError(
                f"There is no optimization level {self._wanted['optimization']!r}.",
                f"Levels: {', '.join(LEVELS)}.",
            )

    @classmethod
    def probe(cls) -> Availability:
        """Say whether ONNX Runtime imports, and which providers it has."""
        try:
            library = _import()
            _begin()
        except UnavailableError as e:
            return Availability(ok=False, reason=e.message, fix=e.hint)
        providers = ", ".join(library.get_available_providers())
        return Availability(ok=True, reason=f"ONNX Runtime {library.__version__} ({providers}).")

    def __enter__(self) -> "OnnxRuntime":
        """Load the model into a session."""
        library = _import()
        self._check_providers(library)
        if not self._model.is_file():
            raise UsageError(f"{self._model} does not exist.", "Check the path.")
        wanted = self._wanted
        settings = library.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = wanted["threads"]
        settings.inter_op_num_threads = wanted["inter_threads"]
        settings.enable_cpu_mem_arena = wanted["arena"]
        settings.enable_mem_pattern = wanted["memory_pattern"]
        settings.graph_optimization_level = getattr(
            library.GraphOptimizationLevel, LEVELS[wanted["optimization"]]
        )
        spinning = str(int(wanted["spinning"]))
        settings.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        settings.add_session_config_entry("session.inter_op.allow_spinning", spinning)
        if wanted["profile"] is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(wanted["profile"])
            if tuple(wanted["providers"]) == (CPU,):  # others may compile parts out of the graph
                place = Path(f"{wanted['profile']}.onnx")
                settings.optimized_model_filepath = str(place)
                settings.add_session_config_entry(EXTERNAL, f"{place.name}.data")
        try:
            session = library.InferenceSession(
                str(self._model), settings, providers=list(wanted["providers"])
            )
        except _load_errors() as e:
            raise UsageError(
                f"ONNX Runtime cannot load {self._model}: {_first_line(e)}",
                "Check that the file is a whole ONNX model, with its external data beside it.",
            ) from e
        session.disable_fallback()
        self._session = session
        self.inputs = tuple(_spec(node, self._model) for node in session.get_inputs())
        self.outputs = tuple(_spec(node, self._model) for node in session.get_outputs())
        self.options = {
            **{key: value for key, value in wanted.items() if key != "profile"},
            "providers": list(session.get_providers()),
            "bound": wanted["bound"] and session.get_providers() == [CPU],
            "execution_mode": "sequential",
            "version": library.__version__,
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Free the session."""
        del kind, error, traceback
        self._session = None

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; see the protocol."""
        check_feeds(self.inputs, feeds, self._model)
        names = [spec.name for spec in self.outputs]
        try:
            values = self._session.run(names, dict(feeds))
        except _load_errors() as e:
            raise self._failed(e) from e
        return dict(zip(names, values, strict=True))

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Bind inputs and outputs once; the returned call is one run and nothing else.

        On the CPU nothing is copied. On another provider nothing is bound: inputs are on the host,
        so that each run counts the transfers as a caller would see them.
        """
        check_feeds(self.inputs, feeds, self._model)
        session, errors = self._session, _load_errors()
        arguments: tuple[Any, ...]
        if self.options["bound"]:
            binding = session.io_binding()
            for name, array in feeds.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
            for spec in self.outputs:
                binding.bind_output(spec.name)  # the first run allocates it, later ones reuse it
            run, arguments = session.run_with_iobinding, (binding,)
        else:
            run, arguments = session.run, ([spec.name for spec in self.outputs], dict(feeds))

        def infer_once() -> None:
            try:  # costs nothing where nothing is raised
                run(*arguments)
            except errors as e:
                raise self._failed(e) from e

        return infer_once

    def synchronize(self) -> None:
        """Nothing to wait for: a run returns when its outputs are there."""

    def end_profiling(self) -> str:
        """Close the profile and return its path (only with the option `profile`)."""
        return str(self._session.end_profiling())

    def metadata(self) -> dict[str, str]:
        """Return the model's own metadata, such as the map of names that an export leaves."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def _check_providers(self, library: ModuleType) -> None:
        present = library.get_available_providers()
        for name in self._wanted["providers"]:
            if name not in present:
                raise UsageError(
                    f"ONNX Runtime has no provider {name!r} here.",
                    f"Providers present: {', '.join(present)}.",
                )

    def _failed(self, error: Exception) -> UsageError:
        return UsageError(
            f"ONNX Runtime cannot run {self._model}: {_first_line(error)}",
            "Check the model with these input shapes.",
        )


def _import() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as e:
        raise UnavailableError(f"ONNX Runtime does not import: {_first_line(e)}", FIX) from e
    return onnxruntime  # type: ignore[no-any-return]


@functools.cache
def _begin() -> None:
    """Make and run the first session of this process, with the smallest model there is.

    It reads in 10 MB of the library's code and sets up what all sessions share. Left to the first
    model, its load time and memory would look several times those of the same model named second.
    """
    library = _import()
    settings = library.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    try:
        session = library.InferenceSession(SMALLEST_MODEL, settings, providers=[CPU])
        session.run(None, {"x": np.zeros(1, np.float32)})
    except _load_errors() as e:
        raise UnavailableError(f"ONNX Runtime does not run: {_first_line(e)}", FIX) from e


def _load_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = [value for value in vars(state).values() if isinstance(value, type)]
    own = [value for value in found if issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError, MemoryError)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _spec(node: Any, model: Path) -> IoSpec:
    if node.type not in DTYPES:
        raise UsageError(
            f"{node.name!r} of {model.name} is a {node.type}, not a tensor of numbers.",
            "Only tensors of numbers and booleans can be measured.",
        )
    return IoSpec(node.name, DTYPES[node.type], tuple(map(_dimension, node.shape)))


def _dimension(dim: object) -> int | str:
    """Size or name; "" where it is open and has none (some exporters write -1, or the name `?`)."""
    if isinstance(dim, int):
        return dim if dim >= 0 else ""
    return dim if isinstance(dim, str) and dim != "?" else ""
