"""`export-onnx`: write the network as a clean ONNX file that computes the same numbers."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from edgekit.artifact import Artifact, Format
from edgekit.errors import UsageError
from edgekit.lower.deploy import Deployment
from edgekit.passes.base import Context, Pass
from edgekit.passes.capture import onnx_artifact
from edgekit.target import Target

if TYPE_CHECKING:
    from edgekit.lower.clean import CleanReport
    from edgekit.lower.export import ExportReport

DEFAULT_OPSET = 20
_LARGEST = 2_000_000_000  # bytes of weights that ONNX Runtime takes from memory


class ExportOnnx(Deployment, Pass):
    """Lower a `.pt2` to ONNX, or clean an ONNX file, and check the numbers.

    Attributes:
        opset: the ONNX opset; the target's unless given.
        batches: batch sizes on which the numbers are compared.
        atol: absolute tolerance of that comparison, float32.
        rtol: relative tolerance of that comparison.
        upgrade: write an ONNX file that is older in `opset`.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({"pt2", "onnx"})
    produces: ClassVar[Format | None] = "onnx"

    kind: Literal["export-onnx"] = "export-onnx"
    opset: int | None = Field(default=None, ge=13)
    batches: tuple[int, ...] = (1, 2, 5)
    atol: float = Field(default=1e-4, gt=0)
    rtol: float = Field(default=1e-3, gt=0)
    upgrade: bool = False

    @property
    def deployment(self) -> Deployment:
        """What is asked beside the export itself."""
        return Deployment(**{name: getattr(self, name) for name in Deployment.model_fields})

    def resolve(self, targets: Sequence[Target]) -> Self:
        """Take the lowest opset of the targets."""
        if self.opset is not None:
            return self
        opset = min((t.opset for t in targets), default=DEFAULT_OPSET)
        return self.model_copy(update={"opset": opset})

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write `model.onnx`."""
        from edgekit.graph.onnx_model import read_onnx, specs

        path = context.out / "model.onnx"
        if artifact.format == "onnx":
            from edgekit.lower.clean import clean_onnx

            report: CleanReport | ExportReport = clean_onnx(
                artifact.path, path, opset=self.opset if self.upgrade else None
            )
        else:
            from edgekit.lower.export import export_onnx

            report = export_onnx(
                context.load(artifact.path),
                path,
                opset=self.opset or DEFAULT_OPSET,
                batches=self.batches,
                atol=self.atol,
                rtol=self.rtol,
            )
        context.notes.update(asdict(report))
        for warning in report.warnings:
            context.warn(warning)
        if self.deployment.asked:
            self._deploy(path, context)
        inputs, outputs = specs(read_onnx(path))
        return onnx_artifact(path, inputs, outputs, made_by=self.kind, parents=(artifact,))

    def _deploy(self, path: Path, context: Context) -> None:
        """Change the file as deployment wants it, and compare it with what it was."""
        from edgekit.graph.onnx_model import read_onnx, specs, weight_bytes, write_onnx
        from edgekit.lower.deploy import deploy
        from edgekit.lower.deploy_check import check_deployment

        model = read_onnx(path)
        if weight_bytes(model) > _LARGEST:
            raise UsageError(
                f"{path.name} holds over 2 GB: what is changed for deployment cannot be compared.",
                "Export it without these options.",
            )
        original = bytes(model.SerializeToString())
        deploy(model, self.deployment)
        write_onnx(model, path)
        found, feeds = check_deployment(
            original, path, specs(model)[0], self.deployment, atol=self.atol, rtol=self.rtol
        )
        context.notes["deployment"] = {
            **self.deployment.model_dump(mode="json", exclude_defaults=True),
            "checked": [", ".join(f"{k}{list(v.shape)}" for k, v in f.items()) for f in feeds],
            "max_abs_error": found.max_abs,
        }
