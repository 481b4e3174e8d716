"""Judge what a run made: accuracy against the original, cost, latency. Each result is kept.

A measurement lies beside its artifact under the hash of all that decided it, so that a second run
measures nothing again.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgekit import manifest
from edgekit.artifact import Artifact
from edgekit.errors import EdgekitError, UnavailableError
from edgekit.evaluate import Arrays, answer_of, captured_sizes, cost_of, predict, targets_of
from edgekit.metrics import Task
from edgekit.passes.base import Context
from edgekit.passes.export_onnx import DEFAULT_OPSET, ExportOnnx
from edgekit.pipeline.branch_bench import BranchBench, Place, Places
from edgekit.pipeline.cost import cost_figure
from edgekit.pipeline.figures import (
    changes_of,
    derived,
    interval_figure,
    latency_fields,
    unmeasured,
)
from edgekit.pipeline.scores import Judged, read_judged, write_judged
from edgekit.pipeline.step import Made, Store, cache_key, guarded, make, step_key
from edgekit.progress import Progress
from edgekit.recipe import BASELINES, Branch
from edgekit.report.schema import BranchReport, Figure, LayerTime, StepReport
from edgekit.target import Target
from edgekit.verify import compare

if TYPE_CHECKING:
    from edgekit.data import Dataset

_SLOWEST = 12


def cpu_threads() -> int:
    """CPU threads that this process may use; processes of one launch share those of the machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@dataclass
class Judge:
    """Measures a run's artifacts and writes what the report says of them.

    Attributes:
        store: the run's folder.
        original: what the recipe started from.
        data: the data set, None without one.
        task: what the network is for.
        seed: the run's seed.
        threads: CPU threads for evaluation.
        progress: where to show the progress.
        imports: modules of the user's that register custom operators.
        places: where each branch is measured.
        measured_now: how many measurements this run had to make.
        warnings: what concerns the whole run.
    """

    store: Store
    original: Made
    data: "Dataset | None"
    task: Task
    seed: int
    threads: int
    progress: Progress
    imports: tuple[str, ...] = ()
    places: Places = field(default_factory=Places)
    measured_now: int = 0
    warnings: list[str] = field(default_factory=list)
    _judged: dict[str, Judged] = field(default_factory=dict)
    _outputs: dict[str, Arrays] = field(default_factory=dict)
    _onnx_forms: dict[str, Artifact | None] = field(default_factory=dict)

    def judge(self, made: Made, parent: Made | None) -> Judged:
        """Evaluate an artifact, or read what an earlier run said of it."""
        artifact = made.artifact
        key = cache_key(
            artifact=artifact.content_hash,
            parent=parent.artifact.content_hash if parent else None,
            sizes_of=self._sizes_of,
            data=self.data.summary() if self.data else None,
            task=self.task.model_dump(),
            versions=manifest.versions(),
        )
        if key not in self._judged:
            found = read_judged(artifact.root, key)
            if found is None:
                with guarded(f"Evaluating {made.manifest.step!r}"):
                    found = self._evaluate(artifact, parent.artifact if parent else None)
                    write_judged(artifact.root, key, found)
                self.measured_now += 1
            self._judged[key] = found
        return self._judged[key]

    def _evaluate(self, artifact: Artifact, parent: Artifact | None) -> Judged:
        from edgekit.metrics import answers, evaluate_predictions

        cost = cost_of(artifact, self._sizes, self.imports)
        macs, parameters = (cost.macs, cost.parameters) if cost else (None, None)
        if self.data is None:
            return Judged(None, None, None, None, macs, parameters, "The recipe has no data.")
        try:
            outputs = self._predict(artifact)
        except UnavailableError as e:
            return Judged(None, None, None, None, macs, parameters, str(e))
        parity = None
        if parent is not None:
            compared = compare(self._predict(parent), outputs)
            parity = {name: p.model_dump() for name, p in compared.items()}
        labels = answers(self.task, outputs)
        targets = targets_of(self.task, self.data, "evaluation", outputs)
        if targets is None:
            reason = "The data has no targets."
            return Judged(None, None, labels, parity, macs, parameters, reason)
        ids = [self.data.ids[i] for i in self.data.splits["evaluation"]]
        outputs = answer_of(self.task, self.data, "evaluation", outputs)
        evaluation, scores = evaluate_predictions(self.task, outputs, targets, ids)
        return Judged(evaluation.model_dump(mode="json"), scores, labels, parity, macs, parameters)

    def _predict(self, artifact: Artifact) -> Arrays:
        key = artifact.content_hash
        if key not in self._outputs and self.data is not None:
            self._outputs[key] = predict(
                artifact,
                self.data,
                "evaluation",
                threads=self.threads,
                imports=self.imports,
                progress=self.progress,
            )
        return self._outputs[key]

    @property
    def metric_name(self) -> str:
        """The task's metric, empty where nothing is evaluated."""
        found = self.judge(self.original, None).evaluation
        return str(found["metric"]) if found else ""

    @property
    def higher_is_better(self) -> bool:
        """Which way the metric is good."""
        found = self.judge(self.original, None).evaluation
        return bool(found["higher_is_better"]) if found else True

    # --- what the report says

    def original_report(self) -> StepReport:
        """The original as the report shows it, without latency."""
        return self._step_report(self.original, None, {})

    def reports(self, chain: Sequence[Made]) -> tuple[StepReport, ...]:
        """A chain as the report shows it, without latency."""
        return self._chain(self.original, chain, {})

    def _chain(
        self, before: Made, chain: Sequence[Made], latency: dict[str, dict[str, Any]]
    ) -> tuple[StepReport, ...]:
        parents = [before, *chain][: len(chain)]
        return tuple(
            self._step_report(made, parent, latency)
            for made, parent in zip(chain, parents, strict=True)
        )

    def _step_report(
        self, made: Made, parent: Made | None, latency: dict[str, dict[str, Any]]
    ) -> StepReport:
        known, artifact = made.manifest, made.artifact
        judged = self.judge(made, parent)
        base = self.judge(self.original, None)
        shipped = self._shipped(made)
        drop = Figure.unavailable("fraction", judged.reason)
        changes = None
        if parent is not None:
            drop, changes = changes_of(self.task, self.data, base, judged)
        lowered = shipped if shipped is not None else artifact
        return StepReport(
            name=known.step,
            kind=str(known.pass_config.get("kind", "")),
            artifact_hash=artifact.content_hash,
            path=str(artifact.root.relative_to(self.store.out)),
            cached=made.cached,
            seconds=known.seconds,
            cost_j=cost_figure(known),
            size_bytes=lowered.size_bytes,
            macs=judged.macs,
            parameters=judged.parameters,
            metric=interval_figure(judged.evaluation, judged.reason),
            metric_drop=drop,
            parity=judged.parity,
            changes=changes,
            notes=known.notes,
            warnings=known.warnings,
            status="cached" if made.cached else "done",
            **latency.get(lowered.content_hash, {}),
        )

    def _shipped(self, made: Made) -> Artifact | None:
        """The float32 ONNX form of a `.pt2`: what it would be shipped as, and is measured as."""
        if made.artifact.format != "pt2":
            return None
        key = made.artifact.content_hash
        if key not in self._onnx_forms:
            try:
                self._onnx_forms[key] = self._baseline(made)
            except EdgekitError as e:
                self.warnings.append(f"{made.manifest.step} has no ONNX form: {e}")
                self._onnx_forms[key] = None
        return self._onnx_forms[key]

    def _baseline(self, made: Made) -> Artifact:
        step = ExportOnnx(opset=DEFAULT_OPSET)
        context = Context(
            out=self.store.out,
            seed=self.seed,
            task=self.task,
            threads=self.threads,
            imports=self.imports,
            progress=self.progress,
        )
        exported = make(
            self.store,
            self.store.out / BASELINES / made.artifact.root.relative_to(self.store.out),
            step=f"{made.manifest.step} as ONNX",
            config=step.model_dump(mode="json"),
            key=step_key(step, made, context),
            context=context,
            run=lambda c: step.run(made.artifact, c),
        )
        self.measured_now += not exported.cached
        return exported.artifact

    def branch(
        self,
        branch: Branch,
        target: Target,
        shared: Sequence[Made],
        chain: Sequence[Made],
        *,
        lost: str = "",
    ) -> BranchReport:
        """Measure a branch's artifacts beside the original, and report them.

        Args:
            branch: the branch.
            target: its target.
            shared: what the shared chain made.
            chain: what the branch's own passes made.
            lost: why their latency cannot be measured; empty to measure it.
        """
        latency: dict[str, dict[str, Any]] = {}
        result: dict[str, Any] = {}
        layers: tuple[LayerTime, ...] = ()
        reason = lost or ("The recipe says `bench: off`." if branch.bench == "off" else "")
        place = Place() if reason else self.places.of(branch)
        reason = reason or place.cannot_measure(target)
        subjects: dict[str, Artifact] = {}
        if not reason:
            subjects = self._subjects(target, shared, chain)
            reason = "" if subjects else "No artifact here is of the runtime's format."
        if not reason:
            bench = BranchBench(
                store=self.store,
                branch=branch,
                target=target,
                place=place,
                sizes=self._sizes,
                sizes_of=self._sizes_of,
                seed=self.seed,
                progress=self.progress,
            )
            result, made = bench.latency(subjects)
            self.measured_now += made
            layers = self._layers(bench, chain, subjects, result)
            latency = {
                subjects[name].content_hash: fields
                for name, fields in latency_fields(result).items()
            }
        missing = unmeasured(reason or "Not of the format that the target's runtime runs.")
        hashes = {a.artifact.content_hash for a in (self.original, *shared, *chain)}
        lowered = {s.content_hash for s in map(self._shipped, (self.original, *shared)) if s}
        for content_hash in hashes | lowered:
            latency.setdefault(content_hash, missing)
        before = shared[-1] if shared else self.original
        return BranchReport(
            name=branch.name,
            target=branch.target,
            original=self._step_report(self.original, None, latency),
            shared=self._chain(self.original, shared, latency),
            steps=derived(self._chain(before, chain, latency)),
            bench=result,
            profile=layers,
        )

    def _subjects(
        self, target: Target, shared: Sequence[Made], chain: Sequence[Made]
    ) -> dict[str, Artifact]:
        """What is measured: the original first, then every artifact of the runtime's format."""
        on_onnx = target.runtime in {"onnxruntime", "openvino"}
        runs = "onnx" if on_onnx else target.runtime
        found: dict[str, Artifact] = {}
        seen: set[str] = set()
        for made in (self.original, *shared, *chain):
            artifact = self._shipped(made) or made.artifact
            if artifact.format == runs and artifact.content_hash not in seen:
                seen.add(artifact.content_hash)
                name = made.manifest.step
                where = made.artifact.root.relative_to(self.store.out)
                found[name if name not in found else str(where)] = artifact
        return found

    def _layers(
        self,
        bench: BranchBench,
        chain: Sequence[Made],
        subjects: Mapping[str, Artifact],
        result: Mapping[str, Any],
    ) -> tuple[LayerTime, ...]:
        """The slowest layers of the branch's last ONNX file."""
        if not chain or chain[-1].artifact.format != "onnx":
            return ()
        artifact = chain[-1].artifact
        names = [n for n, a in subjects.items() if a.content_hash == artifact.content_hash]
        rows, made = bench.layers(artifact, names[0] if names else "", result)
        self.measured_now += made
        return tuple(
            LayerTime(layer=row["layer"], op=row["op"], ms=row["ms"], share=row.get("share"))
            for row in rows[:_SLOWEST]
        )

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Sizes of the dynamic dimensions that latency and MACs are stated for.

        A `.pt2` knows those it was captured with; an ONNX file takes those of the data.
        """
        artifact = self.original.artifact
        sizes = captured_sizes(artifact, self.imports)
        if self.data is not None and artifact.format == "onnx":
            fed = self.data.for_model(artifact.inputs).inputs
            pairs = ((s, f) for s, f in zip(artifact.inputs, fed, strict=True))
            sizes = {
                dim: size
                for wanted, given in pairs
                for dim, size in zip(wanted.shape, given.shape, strict=True)
                if isinstance(dim, str) and isinstance(size, int)
            }
        return {**sizes, "batch": 1}

    @property
    def _sizes_of(self) -> dict[str, Any]:
        """What decides `_sizes`, for cache keys: known without loading the original."""
        return {
            "original": self.original.artifact.content_hash,
            "inputs": [s.model_dump() for s in self.data.inputs] if self.data else None,
        }

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        return Place().fingerprint()

    def device(self) -> dict[str, Any]:
        """The fingerprint of this machine."""
        return self._fingerprint
