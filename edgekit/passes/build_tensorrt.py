"""`build-tensorrt`: build an engine from a checked ONNX file."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import ClassVar, Literal, Self

from pydantic import Field

from edgekit.artifact import Artifact, Format
from edgekit.errors import RecipeError
from edgekit.passes.base import Context, Pass
from edgekit.target import Target

Shape = tuple[int, ...]


class BuildTensorrt(Pass):
    """Build a TensorRT or TensorRT-RTX engine.

    TensorRT-RTX builds ahead of time, without a GPU, for the compute capabilities given;
    TensorRT builds for the GPU it runs on.

    Attributes:
        runtime: which of the two; the target's unless given.
        compute_capabilities: such as `8.9`; the target's unless given. TensorRT-RTX only.
        shapes: smallest, usual and largest shape of each input with dynamic dimensions.
        workspace_mib: the most GPU memory that a layer may use while it runs, MiB.
        optimization_level: 0 (fastest build) to 5 (longest search).
        sparse: use kernels for 2:4 sparse weights.
        strip_weights: leave the weights out; the engine must be refitted before it runs.
        version_compatible: loads in later TensorRT versions too. TensorRT only.
        hardware_compatible: runs on Ampere and every later GPU. TensorRT only.
        dla: the DLA core to build for, with the GPU as fallback. TensorRT only.
        timing_cache: a folder of timing caches, one for each version and GPU. TensorRT only.
        device: build on this device of `edgekit device list`, by its own library. An engine that
            an earlier run made is used again only while that device is as it was then, so the
            device has to be there.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({"onnx"})
    deterministic: ClassVar[bool] = False

    kind: Literal["build-tensorrt"] = "build-tensorrt"
    runtime: Literal["tensorrt", "tensorrt-rtx"] | None = None
    compute_capabilities: tuple[str, ...] | None = None
    shapes: dict[str, tuple[Shape, Shape, Shape]] | None = None
    workspace_mib: int | None = Field(default=None, ge=1)
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    sparse: bool = False
    strip_weights: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla: int | None = Field(default=None, ge=0)
    timing_cache: str | None = None
    device: str | None = None

    @property
    def measures(self) -> bool:
        """Whether this machine's GPU is built for: not where a device builds."""
        return self.device is None

    def reads(self, context: Context) -> tuple[str, ...]:
        """What decides an engine that a device builds: the device as it is now, and its builder.

        Raises:
            DeviceError: the device cannot be reached, or does not say what it is.
            UnavailableError: ssh, adb or its Python is missing.
            UsageError: there is no such device.
        """
        if self.device is None:
            return ()
        from edgekit import device as devices

        with context.progress.task(f"ask {self.device} what it is", None):
            return devices.builder(devices.get(self.device), self.runtime or "tensorrt-rtx")

    def resolve(self, targets: Sequence[Target]) -> Self:
        """Take the builder and the compute capabilities of the branch's target."""
        from edgekit.lower.preflight import check_dla

        for each in targets:
            check_dla(each, self.dla)
        update: dict[str, object] = {}
        builders = {t.build for t in targets}
        if self.runtime is None:
            if len(builders) != 1 or None in builders:
                names = ", ".join(t.name for t in targets) or "no target"
                raise RecipeError(
                    f"`build-tensorrt` has no engine to build for {names}.",
                    "Put it in a branch whose target runs TensorRT, or give `runtime:`.",
                )
            update["runtime"] = builders.pop()
        if self.compute_capabilities is None:
            update["compute_capabilities"] = tuple(
                c for t in targets for c in t.compute_capabilities
            )
        return self.model_copy(update=update)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write `model.engine` and the JSON beside it."""
        from edgekit.bench.engine.options import BuildOptions
        from edgekit.lower.snippet import write_beside
        from edgekit.lower.tensorrt import build_engine

        runtime = self.runtime or "tensorrt-rtx"
        path = context.out / "model.engine"
        report = build_engine(
            artifact.path,
            path,
            runtime=runtime,
            compute_capabilities=self.compute_capabilities or (),
            shapes=self.shapes,
            options=BuildOptions(**{f.name: getattr(self, f.name) for f in fields(BuildOptions)}),
            device=self.device,
            progress=context.progress,
        )
        context.notes.update(asdict(report))
        for warning in report.warnings:
            context.warn(warning)
        usual = {name: triple[1] for name, triple in report.shapes.items()}
        write_beside(path, runtime, artifact.inputs, artifact.outputs, usual)
        side = tuple(sorted(p.name for p in context.out.iterdir() if p != path))
        return Artifact.create(
            context.out,
            model=path.name,
            format=runtime,
            inputs=artifact.inputs,
            outputs=artifact.outputs,
            made_by=self.kind,
            parents=(artifact,),
            extra_files=side,
        )
