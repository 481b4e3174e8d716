"""TensorRT as a library: is it here, its parser, and a logger that keeps what they say.

`tensorrt` and `tensorrt_rtx` have one Python interface: what preflight and build share is written
once, for both.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any, Literal

from edgekit.bench.engine.interrupt import held
from edgekit.errors import UnavailableError

Kind = Literal["tensorrt", "tensorrt-rtx"]
MODULES: dict[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
OLDEST = 10  # TensorRT's major version; precision is what the file says from then on


@dataclass(frozen=True)
class Refusal:
    """A node that the parser does not take.

    Attributes:
        index: of the node in the graph, as the parser counts; -1 where it names none.
        node: its name, perhaps empty.
        operator: its ONNX operator.
        reason: what the parser says, which is often a condition of its source.
        check: the parser's function that refused it.
    """

    index: int
    node: str
    operator: str
    reason: str
    check: str


@dataclass
class Parsed:
    """A parsed network. The parser owns the weights, so the two stay together.

    Attributes:
        network: of the library, typed as the ONNX file is.
        parser: of the library.
        refusals: nodes that the parser does not take; empty where it took the file.
        warnings: what the parser found doubtful, each once.
    """

    network: Any
    parser: Any
    refusals: tuple[Refusal, ...]
    warnings: tuple[str, ...]


def available(runtime: Kind) -> tuple[bool, str, str]:
    """Whether a library can be used here.

    Returns:
        Whether it can; the version, or why not; and the mend, empty where there is nothing to mend.
    """
    module = MODULES[runtime]
    fix = f'Install it with: pip install "edgekit[{runtime}]"'
    if util.find_spec(module) is None:
        return False, f"Python package {module} is not installed.", fix
    try:
        loaded = importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as e:
        return False, f"{module} is installed but does not load: {e}", fix
    version = str(loaded.__version__)
    if module == "tensorrt" and int(version.partition(".")[0]) < OLDEST:
        reason = f"TensorRT {version} is too old: networks are strongly typed from {OLDEST} on."
        return False, reason, "Update it; on a Jetson, JetPack 6.1 and later have TensorRT 10.3."
    return True, version, ""


def load(runtime: Kind) -> Any:
    """Import a library.

    Raises:
        UnavailableError: it is not here; names what to install.
    """
    ok, reason, fix = available(runtime)
    if not ok:
        raise UnavailableError(f"An engine cannot be built: {reason}", fix)
    return importlib.import_module(MODULES[runtime])


def make_builder(trt: Any, runtime: Kind, log: Any) -> Any:
    """Make a builder, which for TensorRT needs a GPU.

    Raises:
        UnavailableError: there is none; says what this machine lacks.
    """
    try:
        builder = trt.Builder(log)
    except (RuntimeError, TypeError) as e:  # pybind's ways of saying that there is no GPU
        raise UnavailableError(f"{runtime} has no usable GPU: {e}", _gpu_fix()) from e
    if builder is None:
        raise UnavailableError(f"{runtime} has no usable GPU.", _gpu_fix())
    return builder


def _gpu_fix() -> str:
    """What keeps TensorRT from a GPU of this machine: no driver, no GPU, or an old driver."""
    from edgekit.bench.runtimes.cuda import device_name

    try:
        name = device_name()
    except UnavailableError as lack:
        return f"{lack.message} {lack.hint}"
    return f"The driver finds {name}: see whether it is too old for this TensorRT (nvidia-smi)."


def parse(trt: Any, builder: Any, log: Any, onnx: Path) -> Parsed:
    """Parse a file, strongly typed: precision is what the file says.

    It is parsed by path, so that external data of any size is read by the library alone.
    """
    bits = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):  # TensorRT 11: always
        bits = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(bits)
    parser = trt.OnnxParser(network, log)
    with held(trt):
        taken = parser.parse_from_file(str(onnx))
    refusals = _refusals(parser)
    if not taken and not refusals:
        reason = "; ".join(log.errors[-2:]) or "no reason"
        refusals = (Refusal(-1, "", "", reason, ""),)
    warnings = tuple(dict.fromkeys(log.warnings))
    log.warnings.clear()
    return Parsed(network, parser, refusals, warnings)


def _refusals(parser: Any) -> tuple[Refusal, ...]:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return tuple(
        Refusal(e.node(), e.node_name(), e.node_operator(), e.desc(), e.func()) for e in errors
    )


@cache
def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.warnings: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            levels = trt.ILogger.Severity
            if severity in (levels.ERROR, levels.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == levels.WARNING:
                self.warnings.append(message)

    return Log()


def logger(trt: Any) -> Any:
    """A logger that keeps warnings and errors and prints nothing, emptied.

    There is one for each library: TensorRT speaks to the first that it was given, whatever it is
    given later, and warns of that.
    """
    log = _logger(trt)
    log.warnings.clear()
    log.errors.clear()
    return log


def names_of(refusals: Sequence[Refusal]) -> str:
    """The first refused node in words, and how many more there are."""
    first = refusals[0]
    more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
    # The parser's source calls an operator that it never takes with the condition `false`.
    reason = "" if first.reason in {"", "false"} else f": {first.reason}"
    return f"node {first.node!r} ({first.operator}){reason}{more}."
