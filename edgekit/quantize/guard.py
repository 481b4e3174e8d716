"""The guard: is a quantized model as accurate as its parent, and no slower on its runtime?

Accuracy is judged on the evaluation split, by the task's metric where there are labels, by the
share of equal answers where there are only classes, and by the signal to noise ratio of the outputs
otherwise. Latency is measured in interleaved blocks with the parent, one sample at a time. What
cannot be measured here is said to be unavailable, and does not count against the model.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifact import Artifact
from edgekit.errors import EdgekitError, UnavailableError, UsageError
from edgekit.evaluate import Arrays, answer_of, fixed_batch, padded, predict, targets_of
from edgekit.progress import Progress, Silent
from edgekit.quantize.config import GuardGate, Place
from edgekit.quantize.verdict import (
    CHILD,
    PARENT,
    Accuracy,
    Latency,
    decided,
    held,
    structure,
)

if TYPE_CHECKING:
    from edgekit.bench import BenchResult, Protocol, Subject
    from edgekit.data import Dataset
    from edgekit.metrics import Task
    from edgekit.metrics.formulas import Floats

_IN_UNITS = frozenset(
    {"rmse", "mae", "mse", "psnr"}
)  # no fractions: held as shares of the parent's
_PROFILED = frozenset({"onnxruntime", "openvino"})


@dataclass
class Judge:
    """Measures quantized models against one parent.

    Attributes:
        parent: the float32 ONNX artifact.
        data: samples in splits.
        task: what the network is for.
        gate: what it may lose.
        place: where it will run; None: nobody knows, and no latency is measured.
        threads: CPU threads for evaluation.
        seed: of the benchmark's order.
        progress: where to show the progress.
        warnings: what the user should know.
    """

    parent: Artifact
    data: "Dataset"
    task: "Task"
    gate: GuardGate
    place: Place | None
    threads: int = 1
    seed: int = 0
    progress: Progress = field(default_factory=Silent)
    warnings: list[str] = field(default_factory=list)
    _known: dict[str, Latency] = field(default_factory=dict)

    # --- accuracy

    @cached_property
    def split(self) -> str:
        """The split that models are judged on."""
        if self.data.count("evaluation"):
            return "evaluation"
        self.warnings.append(
            "There is no evaluation split: the guard judged on the calibration samples."
        )
        return "calibration"

    @cached_property
    def _by_rows(self) -> bool:
        """Whether every output has one row a sample, as metrics and agreement need."""
        batch = fixed_batch(self.parent)
        names = {s.shape[0] for s in self.parent.inputs if s.shape}
        firsts = [s.shape[0] if s.shape else None for s in self.parent.outputs]
        return bool(firsts) and all(f in names or f == batch or isinstance(f, str) for f in firsts)

    @cached_property
    def _reference(self) -> Arrays:
        return self._outputs(self.parent)

    def _outputs(self, artifact: Artifact) -> Arrays:
        return predict(
            artifact, self.data, self.split, threads=self.threads, progress=self.progress
        )

    @cached_property
    def _reference_scores(self) -> "Floats | None":
        return self._scores(self._reference)

    def _scores(self, outputs: Arrays) -> "Floats | None":
        from edgekit.metrics import evaluate_predictions

        targets = targets_of(self.task, self.data, self.split, outputs)
        if targets is None:
            return None
        ids = [self.data.ids[i] for i in self.data.splits[self.split]]
        answer = answer_of(self.task, self.data, self.split, outputs)
        return evaluate_predictions(self.task, answer, targets, ids)[1]

    def accuracy(self, artifact: Artifact, calibrated_db: Mapping[str, float | None]) -> Accuracy:
        """Judge a model's answers.

        Args:
            artifact: the quantized ONNX artifact.
            calibrated_db: its outputs' SQNR on calibration samples: what is left to judge by where
                the outputs have no row for each sample.
        """
        if not self._by_rows:
            known = [db for db in calibrated_db.values() if db is not None]
            return self._by_noise(min(known, default=None), "on calibration samples")
        try:
            return self._by_answers(self._outputs(artifact))
        except UsageError as e:
            if "NaN" not in e.message:
                raise
            return Accuracy("sqnr", float("inf"), passed=False, said="an output is NaN or infinite")

    def _by_answers(self, outputs: Arrays) -> Accuracy:
        from edgekit.metrics import answers, paired_drop
        from edgekit.verify import compare

        parity = compare(self._reference, outputs)
        known = [
            p.sqnr_db for n, p in parity.items() if self._is_float(n) and p.sqnr_db is not None
        ]
        sqnr = min(known, default=None)
        before, after = (answers(self.task, o) for o in (self._reference, outputs))
        same = None if before is None or after is None else float((before == after).mean())
        first = self._reference_scores
        if first is not None:
            second = self._scores(outputs)
            if second is None:
                raise UsageError("The data has lost its targets.", "Report this as a bug.")
            drop = paired_drop(self.task, first, second)
            return self._by_metric(drop.value, (drop.low, drop.high), second, same, sqnr)
        if same is not None and self._has_classes:
            allowed = 1 - self.gate.accuracy_drop
            return Accuracy(
                "agreement", 1 - same, passed=same >= allowed, value=same, agreement=same,
                sqnr_db=sqnr, said=f"{same:.2%} of the answers agree (at least {allowed:.2%})",
            )  # fmt: skip
        return self._by_noise(sqnr, f"on the {self.split} split")

    def _by_metric(
        self,
        drop: float,
        interval: tuple[float, float],
        statistics: "Floats",
        same: float | None,
        sqnr: float | None,
    ) -> Accuracy:
        from edgekit.metrics.formulas import METRICS

        name = self.task.metric_name
        metric = METRICS[name]
        value, scale = float(metric.of(statistics)), 1.0
        if name in _IN_UNITS and self._reference_scores is not None:
            scale = abs(float(metric.of(self._reference_scores))) or 1.0
        loss, allowed = drop / scale, self.gate.accuracy_drop
        of = "" if scale == 1.0 else " of the parent's"
        return Accuracy(
            by="metric",
            loss=loss,
            passed=loss <= allowed + 1e-12,
            said=f"{name} {value:.4f}, drop {loss:+.4f}{of} (at most {allowed:g})",
            value=value,
            drop=loss,
            low=interval[0] / scale,
            high=interval[1] / scale,
            agreement=same,
            sqnr_db=sqnr,
        )

    def _by_noise(self, sqnr: float | None, where: str) -> Accuracy:
        least = self.gate.sqnr_db
        if sqnr is None:
            return Accuracy("sqnr", 0.0, passed=True, said=f"outputs are equal {where}")
        return Accuracy(
            by="sqnr",
            loss=float(10 ** (-sqnr / 20)),
            passed=sqnr >= least,
            said=f"SQNR {sqnr:.1f} dB {where} (at least {least:g} dB)",
            value=sqnr,
            sqnr_db=sqnr,
        )

    def _is_float(self, name: str) -> bool:
        return bool(np.issubdtype(self._reference[name].dtype, np.floating))

    @property
    def _has_classes(self) -> bool:
        judged = self._reference[self.task.output or next(iter(self._reference))]
        return judged.ndim == 2 and judged.shape[1] > 1

    # --- latency

    @cached_property
    def cannot_measure(self) -> str:
        """Why latency is not measured here; empty where it is."""
        place = self.place
        if place is None:
            return "no target says what runs the model"
        if place.runtime not in _PROFILED:
            return f"{place.runtime} runs engines: their latency is measured after the build"
        machine = platform.machine()
        if place.machine not in {None, machine}:
            return f"the target is {place.machine}, this machine is {machine}"
        from edgekit.bench.runtimes import runtime_class

        found = runtime_class(place.runtime).probe()
        return "" if found.ok else f"{found.reason} {found.fix}".strip()

    @cached_property
    def feeds(self) -> dict[str, NDArray[Any]]:
        """One calibration sample, in the batch that the model wants."""
        return self.samples(1)[0]

    def samples(self, count: int) -> list[dict[str, NDArray[Any]]]:
        """The first calibration samples, one a feed, in the batch that the model wants."""
        data = self.data.for_model(self.parent.inputs)
        rows = fixed_batch(self.parent)
        found: list[dict[str, NDArray[Any]]] = []
        for batch in data.batches("calibration", rows or 1):
            if len(found) == count:
                break
            found.append(padded(batch.inputs, rows) if rows else dict(batch.inputs))
        return found

    def layer_ms(
        self, path: Path, layers: Sequence[str], latency_ms: float | None
    ) -> dict[str, float]:
        """Milliseconds of each layer of a file on the target's runtime.

        Args:
            path: the ONNX file.
            layers: names of nodes.
            latency_ms: of the whole file, to scale the profile to.

        Raises:
            UnavailableError: it cannot be measured here.
            UsageError: the runtime does not tell.
        """
        from edgekit.quantize.costs import layer_ms

        if self.place is None or self.cannot_measure:
            raise UnavailableError(
                f"Latency is not measured: {self.cannot_measure}.", "Measure on the target."
            )
        place = self.place
        return layer_ms(
            path, layers, self.feeds, runtime=place.runtime, threads=place.threads,
            latency_ms=latency_ms,
        )  # fmt: skip

    def latency(self, path: Path) -> Latency:
        """Measure a model beside its parent; models of one structure are measured once.

        Args:
            path: the quantized ONNX file.
        """
        if self.cannot_measure:
            return Latency("unavailable", passed=True, said=f"not measured: {self.cannot_measure}")
        key = structure(path)
        if key not in self._known:
            self._known[key] = self._measured(path)
        return self._known[key]

    def _measured(self, path: Path) -> Latency:
        from edgekit.bench import Protocol, Subject

        place = self.place
        if place is None:
            return Latency("unavailable", passed=True, said="not measured")
        options = {"threads": place.threads}
        subjects = [
            Subject(name, place.runtime, file, self.feeds, options)
            for name, file in ((PARENT, self.parent.path), (CHILD, path))
        ]
        for protocol in (Protocol.quick(self.seed), Protocol.full(self.seed)):
            try:
                found = self._timed(subjects, protocol)
            except EdgekitError as e:
                return Latency("unavailable", passed=False, said=f"cannot run: {e.message}")
            comparison = found.comparisons[CHILD]
            if decided(comparison.speedup, comparison.verdict, self.gate.slowdown) != "undecided":
                break
        return held(
            comparison.speedup,
            comparison.verdict,
            self.gate.slowdown,
            {s.name: s.p50_ms.value for s in found.subjects},
        )

    def _timed(self, subjects: "Sequence[Subject]", protocol: "Protocol") -> "BenchResult":
        from edgekit.bench import bench

        with self.progress.task("measure latency beside the parent", 1.0) as task:
            shown = 0.0

            def say(fraction: float, text: str) -> None:
                nonlocal shown
                task.advance(max(0.0, fraction - shown), detail=text)
                shown = max(shown, fraction)

            found = bench(subjects, protocol, baseline=PARENT, say=say)
        if not found.complete:
            raise KeyboardInterrupt
        return found
