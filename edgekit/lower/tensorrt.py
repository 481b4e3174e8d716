"""Engines: TensorRT-RTX builds ahead of time on any machine, TensorRT for the GPU that it runs on.

Every network is strongly typed: precision is what the ONNX file says (casts, Q/DQ), on TensorRT 10
by a flag and from 11 always. The two packages have one API but for compute capabilities. An engine
is bound to the builder's version and to compute capabilities, so both stand in a JSON file beside
it. Building the same file twice gives engines of different bytes (seen with TensorRT-RTX 1.7): the
hash of the ONNX file says what was built.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import PassError, UsageError
from edgekit.lower import library, timing
from edgekit.lower import options as opts
from edgekit.lower.library import MODULES, Kind, available
from edgekit.lower.options import BuildOptions
from edgekit.lower.profile import Shape, Shapes, profile_shapes
from edgekit.manifest import write_atomically, write_text_atomically
from edgekit.progress import Progress, Silent

__all__ = ["MODULES", "BuildReport", "Kind", "available", "build_engine", "profile_shapes"]

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
        inputs: name, dtype and shape of what goes in, in order.
        outputs: the same of what comes out.
        input_sha256: of the ONNX file.
        options: what was asked of the builder.
        gpu: the GPU that it was built on, such as `NVIDIA Orin (8.7)`; empty where there was none.
        driver: NVIDIA's driver there; empty where there was none.
        timing_cache: the cache that was used; empty for none.
        layers: what the engine inspector says of each layer, where the engine can be opened here.
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
    inputs: tuple[dict[str, Any], ...]
    outputs: tuple[dict[str, Any], ...]
    input_sha256: str
    options: dict[str, Any]
    gpu: str = ""
    driver: str = ""
    timing_cache: str = ""
    layers: list[Any] | None = None
    deterministic: bool = False


def build_engine(
    onnx: Path,
    engine: Path,
    *,
    runtime: Kind = "tensorrt-rtx",
    compute_capabilities: Sequence[str] = (),
    shapes: Shapes | None = None,
    options: BuildOptions | None = None,
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
        options: of the builder; its own defaults unless given.
        progress: where to say how far it is.

    Raises:
        UnavailableError: the builder, or for TensorRT a GPU, is missing; names what to install.
        UsageError: a shape or a compute capability that does not fit.
        PassError: the parser refuses a node (it is named), or the build fails.
    """
    from edgekit.graph.onnx_model import read_onnx, specs

    options = options or BuildOptions()
    opts.refuse(options, runtime)
    trt = library.load(runtime)
    inputs, outputs = specs(read_onnx(onnx))
    profile = profile_shapes(inputs, shapes)
    capabilities = _capabilities(trt, runtime, compute_capabilities)
    gpu, driver = _gpu(runtime)
    cache = None
    if options.timing_cache is not None:
        cache = timing.cache_file(Path(options.timing_cache), str(trt.__version__), gpu)
    shown: Progress = Silent() if progress is None else progress
    started = time.perf_counter()
    with shown.task(f"build {runtime} engine", None):
        data, flags, notes = _build(trt, runtime, onnx, profile, capabilities, options, cache)
    report = BuildReport(
        runtime=runtime,
        version=str(trt.__version__),
        compute_capabilities=tuple(compute_capabilities) if capabilities else _capability(gpu),
        seconds=round(time.perf_counter() - started, 3),
        parser_warnings=notes[0],
        builder_warnings=notes[1],
        size_bytes=len(data),
        flags=flags,
        shapes=profile,
        inputs=tuple(spec.model_dump() for spec in inputs),
        outputs=tuple(spec.model_dump() for spec in outputs),
        input_sha256=hashlib.sha256(onnx.read_bytes()).hexdigest(),
        options=asdict(options),
        gpu=gpu,
        driver=driver,
        timing_cache=cache.name if cache is not None else "",
        layers=timing.layers_of(trt, library.logger(trt), data) if gpu else None,
    )
    write_atomically(engine, data)
    text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(report)}, indent=2)
    write_text_atomically(engine.with_name(f"{engine.name}.json"), text + "\n")
    return report


def _gpu(runtime: Kind) -> tuple[str, str]:
    """The GPU that TensorRT builds for, and its driver; empty for a build ahead of time."""
    if runtime != "tensorrt":
        return "", ""
    from edgekit.bench.fingerprint import fingerprint
    from edgekit.bench.runtimes.cuda import device_name

    return device_name(), str(fingerprint().get("gpu_driver", ""))


def _capability(gpu: str) -> tuple[str, ...]:
    found = gpu.rpartition("(")[2].rstrip(")")
    return (found,) if found else ()


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
    options: BuildOptions,
    cache: Path | None,
) -> tuple[bytes, tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...]]]:
    log = library.logger(trt)
    builder = library.make_builder(trt, runtime, log)
    parsed = library.parse(trt, builder, log, onnx)
    if parsed.refusals:
        raise PassError(
            f"The parser refuses {library.names_of(parsed.refusals)}",
            "`edgekit preflight` lists every node that it refuses, and the mend of each.",
        )
    config = builder.create_builder_config()
    flags = ("STRONGLY_TYPED", *opts.apply(trt, builder, config, options))
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(capability, index)
    if profile:
        optimization = builder.create_optimization_profile()
        for name, (small, usual, large) in profile.items():
            optimization.set_shape(name, small, usual, large)
        config.add_optimization_profile(optimization)
    if cache is not None:
        timing.use_cache(config, cache)
    if runtime == "tensorrt":
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    data = builder.build_serialized_network(parsed.network, config)
    if data is None:
        raise PassError(
            f"{runtime} could not build the engine: {'; '.join(log.errors[-3:]) or 'no reason'}",
            "Without a GPU TensorRT-RTX does not strip every network's weights: leave that out."
            if options.strip_weights and runtime == "tensorrt-rtx"
            else "Look at the layer that the message names.",
        )
    if cache is not None:
        timing.keep_cache(config, cache)
    return bytes(data), flags, (parsed.warnings, tuple(dict.fromkeys(log.warnings)))
