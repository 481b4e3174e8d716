"""What the guard tried: each model that was made, how it was judged, what was given back."""

from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.artifact import Artifact

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgekit.quantize.config import PtqConfig
    from edgekit.quantize.ptq import QuantReport
    from edgekit.quantize.verdict import Accuracy, Latency

Kind = Literal["static", "dynamic"]


@dataclass(frozen=True)
class Attempt:
    """One model that was made and judged.

    Attributes:
        rung: what was tried, for people.
        kind: how it was quantized.
        config: with what.
        path: the file.
        report: what was done.
        accuracy: against the parent; None where it could not be made.
        latency: against the parent; None where it was not measured, since it failed already.
        seconds: that making and judging took.
        failure: why it could not be made.
    """

    rung: str
    kind: Kind
    config: "PtqConfig"
    path: Path
    report: "QuantReport | None"
    accuracy: "Accuracy | None"
    latency: "Latency | None"
    seconds: float
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Accurate enough, and not slower."""
        accurate = self.accuracy is not None and self.accuracy.passed
        return accurate and self.latency is not None and self.latency.passed

    @property
    def made_any(self) -> bool:
        """Whether some layer is in int8."""
        return self.report is not None and self.report.quantized > 0

    @property
    def slower(self) -> bool:
        """Measured, and not shown to be as fast as the gate asks."""
        return self.latency is not None and not self.latency.passed

    @property
    def loss(self) -> tuple[float, float]:
        """What orders attempts: the gate's loss, then the noise."""
        if self.accuracy is None:
            return float("inf"), float("inf")
        noise = self.accuracy.sqnr_db
        return self.accuracy.loss, float("-inf") if noise is None else -noise

    def row(self) -> dict[str, Any]:
        """The attempt as the manifest holds it."""
        a, t, r = self.accuracy, self.latency, self.report
        return {
            "rung": self.rung,
            "method": self.kind,
            "layers_int8": r.quantized if r else None,
            "layers": r.total if r else None,
            "judged_by": a.by if a else None,
            "value": a.value if a else None,
            "drop": a.drop if a else None,
            "drop_low": a.low if a else None,
            "drop_high": a.high if a else None,
            "agreement": a.agreement if a else None,
            "sqnr_db": a.sqnr_db if a else None,
            "speedup": t.speedup if t else None,
            "speedup_low": t.low if t else None,
            "speedup_high": t.high if t else None,
            "latency_label": t.label if t else "unavailable",
            "latency_verdict": t.verdict if t else None,
            "size_bytes": r.size_bytes if r else None,
            "seconds": round(self.seconds, 2),
            "passed": self.passed,
            "said": self.said,
        }

    @property
    def said(self) -> str:
        """The outcome in one line."""
        parts = [self.failure] if self.failure else []
        parts += [x.said for x in (self.accuracy, self.latency) if x is not None]
        return "; ".join(parts)


@dataclass(frozen=True)
class Reverted:
    """A layer that went back to the higher precision, and its price.

    Attributes:
        node: the node's name.
        layer: the user's name for it.
        why: `accuracy`, or `latency` where int8 did not make it faster.
        sqnr_without_db: of the outputs when all layers but this one are in int8, decibels.
        bytes: that the file grows by.
        ms: that int8 saves there, by the profile; negative where int8 was slower; None if unknown.
    """

    node: str
    layer: str
    why: Literal["accuracy", "latency"]
    sqnr_without_db: float | None
    bytes: int
    ms: float | None


def table(tried: "Sequence[Attempt]") -> str:
    """The attempts as lines of text."""
    head = ("tried", "int8 layers", "drop", "agreement", "SQNR", "speed-up", "size")
    rows: list[tuple[str, ...]] = [head, *map(_cells, tried)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cells(each: Attempt) -> tuple[str, ...]:
    a, t, r = each.accuracy, each.latency, each.report

    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    return (
        f"{each.kind}: {each.rung}",
        f"{r.quantized} of {r.total}" if r else each.failure[:60],
        shown(a.drop if a else None, "+.4f"),
        shown(a.agreement if a else None, ".4f"),
        shown(a.sqnr_db if a else None, ".1f") + (" dB" if a and a.sqnr_db is not None else ""),
        shown(t.speedup if t else None, ".2f") + ("x" if t and t.speedup is not None else ""),
        f"{r.size_bytes / 1e3:.1f} kB" if r else "–",
    )


def excluding(config: "PtqConfig", names: "Iterable[str]") -> "PtqConfig":
    """The configuration with further layers left in float, by their exact names."""
    more = tuple(escape(name) for name in names)
    return config.model_copy(update={"exclude": tuple(dict.fromkeys((*config.exclude, *more)))})


def artifact_of(path: Path) -> Artifact:
    """A quantized ONNX file as an artifact, to be judged."""
    from edgekit.graph.onnx_model import external_data, read_onnx, specs

    inputs, outputs = specs(read_onnx(path))
    return Artifact.create(
        path.parent, model=path.name, format="onnx", inputs=inputs, outputs=outputs,
        made_by="quantize", extra_files=external_data(path),
    )  # fmt: skip
