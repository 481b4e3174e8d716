"""`quantize`: int8 post-training quantization that is held against its parent before it is kept."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from edgekit.artifact import Artifact, Format
from edgekit.errors import PassError, RecipeError
from edgekit.passes.base import Context, Pass
from edgekit.passes.capture import onnx_artifact
from edgekit.passes.export_onnx import ExportOnnx
from edgekit.quantize.config import Budget, GuardGate, Method, Place, PtqConfig
from edgekit.target import IntegerScheme, Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.data import Dataset
    from edgekit.quantize.attempts import Attempt
    from edgekit.quantize.ladder import Ladder
    from edgekit.quantize.ptq import QuantReport


_WHY = {
    "latency": "int8 made the network no faster there: the guard left it in float",
    "accuracy": "int8 lost too much there: the guard left it in float",
    "budget": "the budget has room for it in float, where int8 would lose most",
}


class Quantize(PtqConfig, Pass):
    """int8 quantization, calibrated on the recipe's calibration split, and guarded.

    Attributes:
        scheme: how integers are written; the target's unless given.
        method: `static` ranges, `dynamic` ones (ONNX Runtime alone), or what suits the network.
        guard: hold the result against its parent; repair it, or fail with exit code 5.
        gate: what the guard lets it lose.
        search_s: seconds after which the guard looks no further: it finishes what it is trying, and
            keeps the fastest model that holds; None: no limit. A budget has few attempts, and none.
        budget: what the model may cost; the layers that lose most stay in float32 within it.
        requantize: take a model that is quantized already, and quantize what it stands for.
        place: where it will run; the target's unless given.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({"pt2", "onnx"})
    produces: ClassVar[Format | None] = "onnx"
    needs_data: ClassVar[bool] = True

    kind: Literal["quantize"] = "quantize"
    scheme: IntegerScheme | None = None
    method: Method = "auto"
    guard: bool = True
    gate: GuardGate = Field(default_factory=GuardGate)
    search_s: float | None = Field(default=900.0, gt=0, allow_inf_nan=False)
    budget: Budget | None = None
    requantize: bool = False
    place: Place | None = None

    @property
    def measures(self) -> bool:
        """With the guard, this machine's speed decides what comes out."""
        return self.guard or self.budget is not None

    def resolve(self, targets: Sequence[Target]) -> Self:
        """Take the integer scheme of the branch's target, and where it runs."""
        found: dict[str, Any] = {}
        if self.scheme is None:
            schemes = {t.int8.name: t.int8 for t in targets if t.int8 is not None}
            if len(schemes) != 1:
                names = ", ".join(t.name for t in targets) or "no target"
                raise RecipeError(
                    f"`quantize` cannot take one integer scheme from {names}.",
                    "Quantize inside a branch whose target has an int8 scheme.",
                )
            found["scheme"] = next(iter(schemes.values()))
        if self.place is None and len(targets) == 1:
            t = targets[0]
            found["place"] = Place(
                runtime=t.runtime, machine=t.machine, threads=t.threads, energy=t.energy
            )
        return self.model_copy(update=found) if found else self

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write an int8 `model.onnx`."""
        with TemporaryDirectory(dir=context.out.parent, prefix=".float32-") as folder:
            source = artifact
            if artifact.format == "pt2":
                lowering = replace(context, out=Path(folder), notes={})
                source = ExportOnnx().resolve(()).run(artifact, lowering)
            elif self.requantize:
                source = _float_form(artifact, Path(folder) / "model.onnx", context)
            return self._quantize(artifact, source, context)

    def _quantize(self, parent: Artifact, source: Artifact, context: Context) -> Artifact:
        from edgekit.graph.onnx_model import read_onnx, specs

        path = context.out / "model.onnx"
        with TemporaryDirectory(dir=context.out.parent, prefix=".attempts-") as folder:
            ladder = self.ladder(source, context, Path(folder))
            if self.guard or self.budget is not None:
                kept = self._guarded(ladder, context)
                _move(kept.path, path)
                report = self._named(kept, ladder)
            else:
                kind = ladder.kinds(self.method)[0]
                report = ladder.make(kind, self, path)
                context.notes["guard"] = {"held": None, "said": "off: `guard: false` (--no-guard)"}
        if report is None:
            raise PassError(f"{self.title} made no model.", "Report this as a bug.")
        _tell(report, context)
        inputs, outputs = specs(read_onnx(path))
        return onnx_artifact(path, inputs, outputs, made_by=self.kind, parents=(parent,))

    def ladder(self, source: Artifact, context: Context, folder: Path) -> "Ladder":
        """What makes and judges models of one float32 ONNX artifact.

        Args:
            source: the artifact.
            context: with data.
            folder: an empty folder to work in.

        Raises:
            PassError: there is no data or no integer scheme.
        """
        from edgekit.quantize.deadline import Deadline
        from edgekit.quantize.guard import Judge
        from edgekit.quantize.ladder import Ladder

        data = context.data
        if data is None or self.scheme is None:
            raise PassError(
                f"{self.title} has no calibration data or no integer scheme.",
                "Add a `data:` section, and a target with an int8 scheme.",
            )
        judge = Judge(
            parent=source,
            data=data,
            task=context.task,
            gate=self.gate,
            place=self.place,
            threads=context.threads,
            seed=context.seed,
            progress=context.progress,
        )
        fitted = data.for_model(source.inputs)
        return Ladder(
            source=source.path,
            scheme=self.scheme,
            calibration=lambda: _calibration(fitted),
            judge=judge,
            config=self,
            folder=folder,
            seed=context.seed,
            progress=context.progress,
            deadline=Deadline(None if self.budget else self.search_s),
        )

    def _named(self, kept: "Attempt", ladder: "Ladder") -> "QuantReport | None":
        """The report, in which layers that the search left in float say why it did."""
        if kept.report is None:
            return None
        why = {each.node: _WHY[each.why] for each in ladder.reverted}
        given_up = set(kept.config.exclude) - set(self.exclude)
        excluded = tuple(
            (name, why.get(name, _WHY["budget"]) if escape(name) in given_up else reason)
            for name, reason in kept.report.excluded
        )
        return replace(kept.report, excluded=excluded)

    def _guarded(self, ladder: "Ladder", context: Context) -> "Attempt":
        if self.budget is not None:
            from edgekit.quantize.mixed import within

            first = ladder.kinds(self.method)[0]
            kept = within(ladder, first, self.budget, guarded=self.guard)
        else:
            kept = ladder.climb(self.method)
        context.notes["guard"] = {
            "held": True if self.guard else None,
            "budget": self.budget.given() if self.budget else None,
            "gate": self.gate.model_dump(),
            "kept": kept.rung,
            "judged_on": ladder.judge.split,
            "search_s": self.search_s,
            "spent_s": round(ladder.deadline.spent_s, 1),
            "stopped": ladder.stopped,
            "tried": [each.row() for each in ladder.tried],
            "reverted": [asdict(each) for each in ladder.reverted],
        }
        if ladder.stopped:
            context.warn(
                f"The guard stopped its search after {self.search_s:g} s and kept the fastest "
                "model that held until then; `search_s:` (--search) sets the limit."
            )
        for warning in ladder.judge.warnings:
            context.warn(warning)
        latency = kept.latency
        if latency is not None and latency.label == "unavailable":
            context.warn(f"The guard held accuracy alone; latency was {latency.said}.")
        return kept


def _float_form(artifact: Artifact, path: Path, context: Context) -> Artifact:
    """What a quantized file stands for, as an artifact; a float file as it is."""
    from edgekit.graph.onnx_model import read_onnx, write_onnx
    from edgekit.quantize.detect import quantized, to_float

    model = read_onnx(artifact.path)
    how = quantized(model)
    if not how:
        return artifact
    write_onnx(to_float(model), path)
    context.warn(
        f"The model is quantized already: {how}. What it stands for was quantized anew, and is "
        "what the result was compared with; what its rounding lost is lost."
    )
    return onnx_artifact(path, artifact.inputs, artifact.outputs, made_by="dequantize")


def _tell(report: "QuantReport", context: Context) -> None:
    context.notes.update(asdict(report))
    for warning in report.warnings:
        context.warn(warning)


def _move(source: Path, target: Path) -> None:
    """Take a model and its external data from where it was made."""
    for file in source.parent.iterdir():
        shutil.move(file, target.parent / file.name)


def _calibration(data: "Dataset") -> "Iterator[Mapping[str, NDArray[np.generic]]]":
    for batch in data.batches("calibration", 1):
        yield batch.inputs
