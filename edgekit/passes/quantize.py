"""`quantize`: int8 post-training quantization in the integer scheme of the branch's target."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from edgekit.artifact import Artifact, Format
from edgekit.errors import PassError, RecipeError
from edgekit.passes.base import Context, Pass
from edgekit.passes.capture import onnx_artifact
from edgekit.passes.export_onnx import ExportOnnx
from edgekit.quantize.config import PtqConfig
from edgekit.target import IntegerScheme, Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.data import Dataset


class Quantize(PtqConfig, Pass):
    """Static int8 quantization, calibrated on the recipe's calibration split.

    Attributes:
        scheme: how integers are written; the target's unless given.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({"pt2", "onnx"})
    produces: ClassVar[Format | None] = "onnx"
    needs_data: ClassVar[bool] = True

    kind: Literal["quantize"] = "quantize"
    scheme: IntegerScheme | None = None

    def resolve(self, targets: Sequence[Target]) -> Self:
        """Take the integer scheme of the branch's target."""
        if self.scheme is not None:
            return self
        schemes = {t.int8.name: t.int8 for t in targets if t.int8 is not None}
        if len(schemes) != 1:
            names = ", ".join(t.name for t in targets) or "no target"
            raise RecipeError(
                f"`quantize` cannot take one integer scheme from {names}.",
                "Quantize inside a branch whose target has an int8 scheme.",
            )
        return self.model_copy(update={"scheme": next(iter(schemes.values()))})

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write an int8 `model.onnx`."""
        if artifact.format == "onnx":
            return self._quantize(artifact, artifact.path, context)
        with TemporaryDirectory(dir=context.out.parent, prefix=".float32-") as folder:
            lowering = replace(context, out=Path(folder), notes={})
            lowered = ExportOnnx().resolve(()).run(artifact, lowering)
            return self._quantize(artifact, lowered.path, context)

    def _quantize(self, parent: Artifact, source: Path, context: Context) -> Artifact:
        from edgekit.graph.onnx_model import read_onnx, specs
        from edgekit.quantize.ptq import quantize_onnx

        if context.data is None or self.scheme is None:
            raise PassError(
                f"{self.title} has no calibration data or no integer scheme.",
                "Add a `data:` section, and a target with an int8 scheme.",
            )
        path = context.out / "model.onnx"
        report = quantize_onnx(
            source,
            path,
            scheme=self.scheme,
            calibration=_calibration(context.data.for_model(parent.inputs)),
            config=self,
            seed=context.seed,
            progress=context.progress,
        )
        context.notes.update(asdict(report))
        for warning in report.warnings:
            context.warn(warning)
        inputs, outputs = specs(read_onnx(path))
        return onnx_artifact(path, inputs, outputs, made_by=self.kind, parents=(parent,))


def _calibration(data: "Dataset") -> Iterator[dict[str, "NDArray[np.generic]"]]:
    for batch in data.batches("calibration", 1):
        yield batch.inputs
