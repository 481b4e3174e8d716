"""`cast-half`: write half precision into the ONNX file, for targets that compute in it."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar, Literal, Self, get_args

from edgekit.artifact import Artifact, Format
from edgekit.errors import PassError, RecipeError
from edgekit.lower.limits import AMPERE
from edgekit.passes.base import Context, Pass
from edgekit.passes.capture import onnx_artifact
from edgekit.passes.export_onnx import ExportOnnx
from edgekit.quantize.half.config import Half, HalfConfig
from edgekit.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgekit.lower.check import Arrays

_SHOWN = 8


class CastHalf(HalfConfig, Pass):
    """Compute in float16 or bfloat16, but for what these cannot hold on calibration data."""

    accepts: ClassVar[frozenset[Format]] = frozenset({"pt2", "onnx"})
    produces: ClassVar[Format | None] = "onnx"
    needs_data: ClassVar[bool] = True

    kind: Literal["cast-half"] = "cast-half"

    def resolve(self, targets: Sequence[Target]) -> Self:
        """Take the target's half precision, and refuse one that a target does not compute in."""
        precision = self.precision
        for each in targets:
            own = _halves(each)
            if not own:
                raise RecipeError(
                    f"{each.name} computes in {', '.join(each.precisions)}: half precision gains"
                    " nothing there.",
                    "Put `cast-half` in a branch whose target has float16 or bfloat16.",
                )
            precision = precision or own[0]
            if precision not in own:
                raise RecipeError(
                    f"{each.name} has no {precision}; it computes in {', '.join(own)}.",
                    f"Give `precision: {own[0]}`.",
                )
        products = self.float32_products and not any(_is_turing(each) for each in targets)
        return self.model_copy(
            update={"precision": precision or "float16", "float32_products": products}
        )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write a half-precision `model.onnx`."""
        if artifact.format == "onnx":
            return self._cast(artifact, artifact.path, context)
        with TemporaryDirectory(dir=context.out.parent, prefix=".float32-") as folder:
            lowering = replace(context, out=Path(folder), notes={})
            lowered = ExportOnnx().resolve(()).run(artifact, lowering)
            return self._cast(artifact, lowered.path, context)

    def _cast(self, parent: Artifact, source: Path, context: Context) -> Artifact:
        from edgekit.graph.onnx_model import read_onnx, specs
        from edgekit.quantize.half.cast import cast_onnx

        if context.data is None:
            raise PassError(f"{self.title} has no calibration data.", "Add a `data:` section.")
        data = context.data.for_model(parent.inputs)

        def calibration() -> "Iterator[Arrays]":
            for batch in data.batches("calibration", 1):
                yield batch.inputs

        path = context.out / "model.onnx"
        report = cast_onnx(
            source, path, calibration=calibration(), config=self, progress=context.progress
        )
        context.notes.update(asdict(report))
        for each in [k for k in report.kept if k.reason in {"overflow", "precision"}][:_SHOWN]:
            context.warn(f"{each.node} stays float32: {each.detail}.")
        inputs, outputs = specs(read_onnx(path))
        return onnx_artifact(path, inputs, outputs, made_by=self.kind, parents=(parent,))


def _is_turing(target: Target) -> bool:
    return target.build == "tensorrt-rtx" and any(
        float(c) < AMPERE for c in target.compute_capabilities
    )


def _halves(target: Target) -> tuple[Half, ...]:
    own: tuple[Half, ...] = tuple(p for p in get_args(Half) if p in target.precisions)
    if any(float(c) < AMPERE for c in target.compute_capabilities):
        own = tuple(p for p in own if p != "bfloat16")
    return tuple(sorted(own, key=target.precisions.index))
