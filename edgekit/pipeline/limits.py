"""The roofline of a benchmark: what each model and layer has to do, and the share it reached."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.bench import BenchResult, Figure, Subject
    from edgekit.bench.roofline import Limit, Peaks, Work
    from edgekit.graph.onnx_work import OnnxWork


class Roofline:
    """The work of each subject's model.

    Args:
        subjects: what is measured. One whose work cannot be counted says why in the result.
    """

    def __init__(self, subjects: "Sequence[Subject]") -> None:
        self._work: dict[str, OnnxWork] = {}
        self._reasons: dict[str, str] = {}
        for subject in subjects:
            try:
                self._work[subject.name] = _work_of(subject)
            except EdgekitError as e:
                self._reasons[subject.name] = e.message

    def precisions(self) -> dict[str, list[str]]:
        """By subject name, what its model multiplies in: what the device is to be measured in."""
        return {name: sorted(work.whole().macs) or ["float32"] for name, work in self._work.items()}

    def applied(self, result: "BenchResult", peaks: "Mapping[str, Peaks]") -> "BenchResult":
        """The result with each subject's share of the limits.

        Args:
            result: what was measured.
            peaks: by subject name, the device's limits.
        """
        subjects = tuple(
            replace(each, roofline=self.entry(each.name, each.p50_ms, peaks.get(each.name)))
            for each in result.subjects
        )
        return replace(result, subjects=subjects)

    def rows(
        self, name: str, rows: Sequence[Mapping[str, Any]], peaks: "Peaks | None"
    ) -> list[dict[str, Any]]:
        """A subject's layers with each one's MACs, bytes and share of the limits.

        Args:
            name: of the subject.
            rows: of `edgekit.pipeline.layers`.
            peaks: the device's limits; None leaves the rows as they are.
        """
        work = self._work.get(name)
        if work is None or peaks is None:
            return [dict(row) for row in rows]
        return [{**row, **_layer(row, work, peaks)} for row in rows]

    def entry(self, name: str, p50_ms: "Figure", peaks: "Peaks | None") -> dict[str, Any]:
        """What the result says of one subject.

        Args:
            name: of the subject.
            p50_ms: its latency.
            peaks: the device's limits, None where they were not measured.
        """
        from edgekit.bench import Figure

        if name not in self._work or peaks is None:
            reason = self._reasons.get(name, "The device's limits were not measured.")
            return {"share": asdict(Figure.unavailable("fraction", reason))}
        work = self._work[name].whole()
        found = _limits(work, peaks, p50_ms)
        bandwidth = peaks.bandwidth(work.working_set)
        return {
            "macs": dict(work.macs),
            "bytes": work.bytes,
            "working_set_bytes": work.working_set,
            "macs_per_s": {name: asdict(each) for name, each in peaks.macs_per_s.items()},
            "bytes_per_s": asdict(bandwidth),
            **found,
        }


def _work_of(subject: "Subject") -> "OnnxWork":
    from edgekit.errors import UsageError

    if subject.model.suffix != ".onnx":
        raise UsageError(
            f"Of {subject.model.suffix} files no limits are measured.", "Measure the .onnx."
        )
    from edgekit.graph.onnx_model import read_onnx
    from edgekit.graph.onnx_work import OnnxWork

    shapes = {name: tuple(array.shape) for name, array in subject.feeds.items()}
    return OnnxWork(read_onnx(subject.model), shapes)


def _limits(work: "Work", peaks: "Peaks", taken_ms: "Figure") -> dict[str, Any]:
    from edgekit.bench.roofline import limit, share

    found: Limit = limit(work, peaks)
    return {**asdict(found), "share": asdict(share(found.limit_ms, taken_ms))}


def _layer(row: Mapping[str, Any], work: "OnnxWork", peaks: "Peaks") -> dict[str, Any]:
    from edgekit.bench import Figure

    own = work.of(row["nodes"])
    taken = Figure(row["ms"], None, None, "ms", "measured", "profiled, which adds some time")
    found = _limits(own, peaks, taken)
    reached = found["share"]
    if not row["nodes"]:
        reason = "It computes no node of the file."
        reached = asdict(Figure.unavailable("fraction", reason))
    return {
        "macs": sum(own.macs.values()),
        "bytes": own.bytes,
        "limit_ms": found["limit_ms"]["value"],
        "bound": found["bound"],
        "reached": reached,
    }
