"""Engines: TensorRT-RTX builds ahead of time on any machine, TensorRT for the GPU that it runs on.

Every network is strongly typed: precision is what the ONNX file says (casts, Q/DQ), on TensorRT 10
by a flag and from 11 always. The two packages have one API but for compute capabilities. An engine
is bound to the builder's version and to compute capabilities, so both stand in a JSON file beside
it. Building the same file twice gives engines of different bytes (seen with TensorRT-RTX 1.7): the
hash of the ONNX file says what was built.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.bench.engine import library
from edgekit.bench.engine import options as opts
from edgekit.bench.engine.build import Plan, build
from edgekit.bench.engine.library import MODULES, Kind, available
from edgekit.bench.engine.options import BuildOptions
from edgekit.errors import PassError, UnavailableError
from edgekit.lower.limits import known_here, limits
from edgekit.lower.profile import Shape, Shapes, profile_shapes
from edgekit.manifest import write_atomically, write_text_atomically
from edgekit.progress import Progress, Silent

if TYPE_CHECKING:
    from onnx import ModelProto

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
        device: where it was built; empty for this machine.
        gpu: the GPU that it was built on, such as `NVIDIA Orin (8.7)`; empty where there was none.
        driver: NVIDIA's driver there; empty where there was none.
        timing_cache: the cache that was used; empty for none.
        layers: what the engine inspector says of each layer, where the engine can be opened here.
        warnings: what the user should know, one sentence each.
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
    device: str = ""
    gpu: str = ""
    driver: str = ""
    timing_cache: str = ""
    layers: list[Any] | None = None
    warnings: tuple[str, ...] = ()
    deterministic: bool = False


def build_engine(
    onnx: Path,
    engine: Path,
    *,
    runtime: Kind = "tensorrt-rtx",
    compute_capabilities: Sequence[str] = (),
    shapes: Shapes | None = None,
    options: BuildOptions | None = None,
    device: str | None = None,
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
        device: build on this device of `edgekit device list`; on this machine unless given.
        progress: where to say how far it is.

    Raises:
        UnavailableError: the builder, or for TensorRT a GPU, is missing; names what to install.
        UsageError: a shape or a compute capability that does not fit.
        PassError: the parser refuses a node (it is named), or the build fails.
        DeviceError: the device cannot be reached, was lost, or is in use.
        KeyboardInterrupt: the build on a device was stopped; nothing is written.
    """
    from edgekit import device as devices
    from edgekit.graph.onnx_model import read_onnx, specs

    options = options or BuildOptions()
    opts.refuse(options, runtime)
    there = None if device is None else devices.get(device)
    if there is None:
        with _naming_devices(runtime):
            library.load(runtime)
    model = read_onnx(onnx, data=False)
    if runtime == "tensorrt-rtx":
        _refuse_fatal(model, onnx)
    inputs, outputs = specs(model)
    plan = Plan(runtime, profile_shapes(inputs, shapes), tuple(compute_capabilities), options)
    shown: Progress = Silent() if progress is None else progress
    where = "" if there is None else f" on {there.name}"
    with shown.task(f"build {runtime} engine{where}", None) as task:
        if there is None:
            with _naming_devices(runtime):
                built = build(onnx, plan)
        else:
            built = devices.build(
                there, onnx, plan, say=lambda _, text: task.advance(0, detail=text)
            )
    facts = {name: value for name, value in vars(built).items() if name != "data"}
    report = BuildReport(
        runtime=runtime,
        size_bytes=len(built.data),
        shapes=dict(plan.profile),
        inputs=tuple(spec.model_dump() for spec in inputs),
        outputs=tuple(spec.model_dump() for spec in outputs),
        input_sha256=hashlib.sha256(onnx.read_bytes()).hexdigest(),
        options=asdict(options),
        device="" if there is None else there.name,
        **facts,
    )
    write_atomically(engine, built.data)
    text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(report)}, indent=2)
    write_text_atomically(engine.with_name(f"{engine.name}.json"), text + "\n")
    return report


def _refuse_fatal(model: "ModelProto", path: Path) -> None:
    """Refuse what would end the process; whatever else does not build, the builder says."""
    found = next((each for each in limits(model, (), {}) if each.fatal), None)
    if found is not None and known_here():
        raise PassError(
            f"{path.name} does not build with TensorRT-RTX: {found.node}: {found.message}.",
            found.mend,
        )


@contextmanager
def _naming_devices(runtime: Kind) -> Iterator[None]:
    """Add to what this machine lacks that TensorRT need not build here."""
    try:
        yield
    except UnavailableError as e:
        if runtime == "tensorrt":
            e.hint = (
                f"{e.hint.rstrip('.')}. Or build where TensorRT and a GPU are: `--device NAME`, in"
                " a recipe `device:`. TensorRT-RTX needs no GPU to build."
            )
        raise
