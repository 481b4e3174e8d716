"""Engines: TensorRT-RTX builds ahead of time on any machine, TensorRT for the GPU that it runs on.

Every network is strongly typed: precision is what the ONNX file says (casts, Q/DQ), on TensorRT 10
by a flag and from 11 always. The two packages have one API but for compute capabilities. An engine
is bound to the builder's version and to compute capabilities, so both stand in a JSON file beside
it. Building the same file twice gives engines of different bytes (seen with TensorRT-RTX 1.7): the
hash of the ONNX file says what was built.
"""

import hashlib
import importlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import PassError, UnavailableError, UsageError
from edgekit.manifest import write_atomically, write_text_atomically
from edgekit.progress import Progress, Silent

if TYPE_CHECKING:
    from edgekit.artifact import TensorSpec

Kind = Literal["tensorrt", "tensorrt-rtx"]
Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[Shape, Shape, Shape]]

MODULES: dict[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
DEFAULT_BATCHES = (1, 1, 8)
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class BuildReport:
    """What was built.

    Attributes:
        runtime: the builder.
        version: its version; an engine loads only there.
        compute_capabilities: GPUs that the engine is for, such as `8.6`; empty for the one here.
        seconds: wall time of parsing and building.
        parser_warnings: what the ONNX parser found doubtful.
        builder_warnings: what the builder did.
        size_bytes: of the engine.
        flags: of the network and the builder.
        shapes: smallest, usual and largest shape of each dynamic input.
        input_sha256: of the ONNX file.
        deterministic: False; see the module's docstring.
    """

    runtime: Kind
    version: str
    compute_capabilities: tuple[str, ...]
    seconds: float
    parser_warnings: tuple[str, ...]
    builder_warnings: tuple[str, ...]
    size_bytes: int
    flags: tuple[str, ...]
    shapes: dict[str, tuple[Shape, Shape, Shape]]
    input_sha256: str
    deterministic: bool = False


def available(runtime: Kind) -> tuple[bool, str, str]:
    """Whether a builder can be used here.

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
    return True, str(loaded.__version__), ""


def build_engine(
    onnx: Path,
    engine: Path,
    *,
    runtime: Kind = "tensorrt-rtx",
    compute_capabilities: Sequence[str] = (),
    shapes: Shapes | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build an engine from an ONNX file, and write `<engine>.json` beside it.

    Args:
        onnx: the model; precision is as it says.
        engine: the file to write; whole or not at all.
        runtime: the builder.
        compute_capabilities: GPUs to build for, such as `8.6`. TensorRT-RTX only; TensorRT
            builds for the GPU it finds.
        shapes: smallest, usual and largest shape of each input with dynamic dimensions. Where
            only the batch is dynamic the default is 1, 1 and 8.
        progress: where to say how far it is.

    Raises:
        UnavailableError: the builder, or for TensorRT a GPU, is missing; names what to install.
        UsageError: a shape or a compute capability that does not fit.
        PassError: the parser refuses a node (it is named), or the build fails.
    """
    from edgekit.graph.onnx_model import read_onnx, specs

    trt = _load(runtime)
    inputs, _ = specs(read_onnx(onnx))
    profile = profile_shapes(inputs, shapes)
    capabilities = _capabilities(trt, runtime, compute_capabilities)
    shown: Progress = Silent() if progress is None else progress
    started = time.perf_counter()
    with shown.task(f"build {runtime} engine", None):
        data, flags, notes = _build(trt, runtime, onnx, profile, capabilities)
    report = BuildReport(
        runtime=runtime,
        version=str(trt.__version__),
        compute_capabilities=tuple(compute_capabilities) if capabilities else (),
        seconds=round(time.perf_counter() - started, 3),
        parser_warnings=notes[0],
        builder_warnings=notes[1],
        size_bytes=len(data),
        flags=flags,
        shapes=profile,
        input_sha256=hashlib.sha256(onnx.read_bytes()).hexdigest(),
    )
    write_atomically(engine, data)
    text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(report)}, indent=2)
    write_text_atomically(engine.with_name(f"{engine.name}.json"), text + "\n")
    return report


def _load(runtime: Kind) -> Any:
    ok, reason, fix = available(runtime)
    if not ok:
        raise UnavailableError(f"An engine cannot be built: {reason}", fix)
    return importlib.import_module(MODULES[runtime])


def profile_shapes(
    inputs: Sequence["TensorSpec"], shapes: Shapes | None
) -> dict[str, tuple[Shape, Shape, Shape]]:
    """The optimization profile: smallest, usual and largest shape of each dynamic input.

    Args:
        inputs: the model's inputs.
        shapes: the user's.

    Raises:
        UsageError: an unknown input, a shape that does not fit, or a dynamic dimension other than
            the batch without a shape.
    """
    given = dict(shapes or {})
    unknown = sorted(set(given) - {s.name for s in inputs})
    if unknown:
        raise UsageError(
            f"`shapes` names {', '.join(unknown)}, which the model does not have.",
            f"Its inputs are {', '.join(s.name for s in inputs)}.",
        )
    found: dict[str, tuple[Shape, Shape, Shape]] = {}
    for spec in inputs:
        dynamic = [axis for axis, size in enumerate(spec.shape) if isinstance(size, str)]
        if spec.name in given:
            found[spec.name] = _checked(spec, given[spec.name])
        elif dynamic == [0]:
            rest = tuple(int(size) for size in spec.shape[1:])
            small, usual, large = ((batch, *rest) for batch in DEFAULT_BATCHES)
            found[spec.name] = (small, usual, large)
        elif dynamic:
            raise UsageError(
                f"Input {spec} has dynamic dimensions besides the batch.",
                f"Give its smallest, usual and largest shape: shapes: {{{spec.name}: [...]}}.",
            )
    return found


def _checked(spec: "TensorSpec", triple: tuple[Shape, Shape, Shape]) -> tuple[Shape, Shape, Shape]:
    small, usual, large = (tuple(int(v) for v in shape) for shape in triple)
    fits = all(len(s) == len(spec.shape) for s in (small, usual, large)) and all(
        1 <= a <= b <= c and (isinstance(size, str) or size == a == c)
        for size, a, b, c in zip(spec.shape, small, usual, large, strict=True)
    )
    if not fits:
        raise UsageError(
            f"The shapes {small}, {usual}, {large} do not fit input {spec}.",
            "Give smallest <= usual <= largest, and the fixed sizes as they are.",
        )
    return small, usual, large


def _capabilities(trt: Any, runtime: Kind, wanted: Sequence[str]) -> list[Any]:
    """The builder's constants for compute capabilities; none for TensorRT."""
    if runtime == "tensorrt":
        return []
    known = {n: v for n, v in vars(trt.ComputeCapability).items() if n.startswith("SM")}
    names = {f"{n[2:-1]}.{n[-1]}": v for n, v in known.items()}
    unknown = [c for c in wanted if c not in names]
    if unknown or not wanted:
        have = ", ".join(sorted(names, key=float))
        raise UsageError(
            f"TensorRT-RTX cannot build for compute capability {', '.join(unknown) or 'nothing'}.",
            f"Give `compute_capabilities` from {have}.",
        )
    return [names[c] for c in wanted]


def _build(
    trt: Any,
    runtime: Kind,
    onnx: Path,
    profile: Mapping[str, tuple[Shape, Shape, Shape]],
    capabilities: Sequence[Any],
) -> tuple[bytes, tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...]]]:
    log = _logger(trt)
    builder = _builder(trt, runtime, log)
    flags, bits = ["STRONGLY_TYPED"], 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):  # TensorRT 11: always
        bits = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(bits)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)) or parser.num_errors:
        raise _parser_error(parser)
    parsed = tuple(dict.fromkeys(log.warnings))
    log.warnings.clear()
    config = builder.create_builder_config()
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(capability, index)
    if profile:
        optimization = builder.create_optimization_profile()
        for name, (small, usual, large) in profile.items():
            optimization.set_shape(name, small, usual, large)
        config.add_optimization_profile(optimization)
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise PassError(
            f"{runtime} could not build the engine: {'; '.join(log.errors[-3:]) or 'no reason'}",
            "Look at the layer that the message names.",
        )
    return bytes(data), tuple(flags), (parsed, tuple(dict.fromkeys(log.warnings)))


def _builder(trt: Any, runtime: Kind, log: Any) -> Any:
    hint = "TensorRT builds on the device: run this step there, or use tensorrt-rtx."
    try:
        builder = trt.Builder(log)
    except (RuntimeError, TypeError) as e:  # pybind's ways of saying that there is no GPU
        raise UnavailableError(f"{runtime} has no usable GPU: {e}", hint) from e
    if builder is None:
        raise UnavailableError(f"{runtime} has no usable GPU.", hint)
    return builder


def _parser_error(parser: Any) -> PassError:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    if not errors:
        return PassError("The ONNX parser failed and says nothing.", "Check the file with ONNX.")
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return PassError(
        f"The parser refuses node {first.node_name()!r} ({first.node_operator()}): "
        f"{first.desc()}{more}",
        "Quantize for this target, or replace the operator.",
    )


def _logger(trt: Any) -> Any:
    """A logger that keeps warnings and errors and prints nothing."""

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
