"""Build an engine with TensorRT or TensorRT-RTX, from an ONNX file and a profile of its sizes.

It needs neither onnx nor the rest of edgekit, so that a device can do it: what has to be known of
the file is in the plan.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.bench.engine import library, timing
from edgekit.bench.engine import options as opts
from edgekit.bench.engine.interrupt import held
from edgekit.bench.engine.library import Kind
from edgekit.bench.engine.options import BuildOptions
from edgekit.errors import PassError, UsageError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What to build.

    Attributes:
        runtime: the builder.
        profile: smallest, usual and largest shape of each dynamic input.
        compute_capabilities: GPUs to build for, such as `8.6`. TensorRT-RTX only.
        options: of the builder.
    """

    runtime: Kind
    profile: Mapping[str, tuple[Shape, Shape, Shape]] = field(default_factory=dict)
    compute_capabilities: tuple[str, ...] = ()
    options: BuildOptions = field(default_factory=BuildOptions)


@dataclass(frozen=True)
class Built:
    """An engine, and what is known of it; `BuildReport` of `edgekit.lower.tensorrt` explains."""

    data: bytes
    version: str
    compute_capabilities: tuple[str, ...]
    seconds: float
    parser_warnings: tuple[str, ...]
    builder_warnings: tuple[str, ...]
    flags: tuple[str, ...]
    gpu: str
    driver: str
    timing_cache: str
    layers: list[Any] | None
    warnings: tuple[str, ...] = ()


def build(onnx: Path, plan: Plan) -> Built:
    """Build an engine on this machine.

    Args:
        onnx: the model; precision is as it says.
        plan: what to build.

    Raises:
        UnavailableError: the builder, or for TensorRT a GPU, is missing; names what to install.
        UsageError: a compute capability or an option that the builder does not have, or a folder
            that timing caches cannot be written to.
        PassError: the parser refuses a node (it is named), or the build fails.
    """
    opts.refuse(plan.options, plan.runtime)
    trt = library.load(plan.runtime)
    capabilities = _capabilities(trt, plan.runtime, plan.compute_capabilities)
    gpu, driver = _gpu(plan.runtime)
    cache = None
    if plan.options.timing_cache is not None:
        timing.check_folder(Path(plan.options.timing_cache))
        cache = timing.cache_file(Path(plan.options.timing_cache), str(trt.__version__), gpu)
    started = time.perf_counter()
    data, flags, notes = _build(trt, onnx, plan, capabilities, cache)
    return Built(
        data=data,
        version=str(trt.__version__),
        compute_capabilities=plan.compute_capabilities if capabilities else _capability(gpu),
        seconds=round(time.perf_counter() - started, 3),
        parser_warnings=notes[0],
        builder_warnings=notes[1],
        flags=flags,
        gpu=gpu,
        driver=driver,
        timing_cache=cache.name if cache is not None else "",
        layers=timing.layers_of(trt, library.logger(trt), data) if gpu else None,
        warnings=notes[2],
    )


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
    trt: Any, onnx: Path, plan: Plan, capabilities: Sequence[Any], cache: Path | None
) -> tuple[bytes, tuple[str, ...], tuple[tuple[str, ...], ...]]:
    runtime, options = plan.runtime, plan.options
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
    if plan.profile:
        optimization = builder.create_optimization_profile()
        for name, (small, usual, large) in plan.profile.items():
            optimization.set_shape(name, small, usual, large)
        config.add_optimization_profile(optimization)
    if cache is not None:
        timing.use_cache(config, cache)
    if runtime == "tensorrt":
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    with held(trt, config):
        data = builder.build_serialized_network(parsed.network, config)
    if data is None:
        raise PassError(
            f"{runtime} could not build the engine: {'; '.join(log.errors[-3:]) or 'no reason'}",
            "Without a GPU TensorRT-RTX does not strip every network's weights: leave that out."
            if options.strip_weights and runtime == "tensorrt-rtx"
            else "Look at the layer that the message names; `edgekit preflight` knows some mends.",
        )
    warnings: tuple[str, ...] = ()
    if cache is not None:
        try:
            timing.keep_cache(config, cache)
        except OSError as e:  # the engine is there, and took long
            warnings = (timing.not_kept(cache.name, e),)
    return bytes(data), flags, (parsed.warnings, tuple(dict.fromkeys(log.warnings)), warnings)
