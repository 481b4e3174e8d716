"""What a user may ask of the engine builder, and which builder can do it."""

from dataclasses import dataclass
from typing import Any

from edgekit.bench.engine.library import Kind
from edgekit.errors import UnavailableError, UsageError


@dataclass(frozen=True)
class BuildOptions:
    """Choices that do not change what is computed.

    Attributes:
        workspace_mib: the most GPU memory that a layer may use while it runs, MiB; None: no limit.
        optimization_level: 0 (fastest build) to 5 (longest search); None: the builder's default.
        sparse: use kernels for 2:4 sparse weights where the weights are so.
        strip_weights: leave the weights out of the engine; it must be refitted before it runs.
        version_compatible: loads in later TensorRT versions too. TensorRT only.
        hardware_compatible: runs on Ampere and every later GPU. TensorRT only.
        dla: the DLA core to build for, with the GPU as fallback. TensorRT only.
        timing_cache: a folder of timing caches, one for each version and GPU. TensorRT only.
    """

    workspace_mib: int | None = None
    optimization_level: int | None = None
    sparse: bool = False
    strip_weights: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla: int | None = None
    timing_cache: str | None = None


def refuse(options: BuildOptions, runtime: Kind) -> None:
    """Refuse what a builder cannot do, before it starts.

    Raises:
        UsageError: TensorRT-RTX is asked for what only TensorRT has; or a number out of range.
    """
    level, workspace = options.optimization_level, options.workspace_mib
    if level is not None and not 0 <= level <= 5:
        raise UsageError(f"Optimization level {level} does not exist.", "Give one from 0 to 5.")
    if workspace is not None and workspace < 1:
        raise UsageError(f"A workspace of {workspace} MiB is none.", "Give 1 MiB or more.")
    if runtime == "tensorrt":
        return
    mends = {
        "version_compatible": "Build again for each version; the package has no lean runtime.",
        "hardware_compatible": "Give several `compute_capabilities` instead.",
    }
    for name, mend in mends.items():
        if getattr(options, name):
            raise UsageError(f"TensorRT-RTX does not build {name.replace('_', '-')} engines.", mend)
    if options.dla is not None:
        raise UsageError("TensorRT-RTX does not drive a DLA.", "Build for a Jetson's target.")
    if options.timing_cache is not None:
        raise UsageError(
            "TensorRT-RTX has no timing cache: its calls do nothing.",
            "Leave the timing cache out; nothing is timed where no GPU is.",
        )


def apply(trt: Any, builder: Any, config: Any, options: BuildOptions) -> tuple[str, ...]:
    """Set the options on a builder's configuration.

    Returns:
        The flags that were set, for the JSON beside the engine.

    Raises:
        UnavailableError: the machine has no such DLA core.
    """
    wanted = {
        "SPARSE_WEIGHTS": options.sparse,
        "STRIP_PLAN": options.strip_weights,
        "VERSION_COMPATIBLE": options.version_compatible,
        "GPU_FALLBACK": options.dla is not None,
    }
    flags = [name for name, asked in wanted.items() if asked]
    for name in flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        flags.append("HARDWARE_COMPATIBILITY_AMPERE_PLUS")
    if options.workspace_mib is not None:
        pool = trt.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.dla is not None:
        if options.dla >= builder.num_DLA_cores:
            raise UnavailableError(
                f"This machine has {builder.num_DLA_cores} DLA cores; core {options.dla} was asked"
                " for.",
                "Build on the Jetson itself, or without --dla.",
            )
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla
    return tuple(flags)
