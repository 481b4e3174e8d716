"""The report of a run, as data: what each step did to accuracy, latency, size and MACs.

The JSON that `--json` prints, the Markdown, HTML and JUnit reports, and the object that the API
returns are all this one model. Every figure carries its interval and a label that says where it
comes from; a figure that nobody measured is `unavailable`, never 0.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgekit.errors import UsageError
from edgekit.report.text import figure_text

SCHEMA_VERSION: Literal[1] = 1

Label = Literal["measured", "derived", "estimated", "emulated", "unavailable"]
StepStatus = Literal["done", "cached", "skipped", "failed"]
BranchStatus = Literal["passed", "failed", "skipped"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(_Frozen):
    """One number, its interval, its unit, and how it came to be known.

    A bound without a value is one-sided: only `high` set reads `≤ 0.31 ms`.

    Attributes:
        value: the figure, None where it is not known.
        low: lower end of the interval, in the same unit.
        high: upper end of the interval, in the same unit.
        unit: `ms`, `bytes`, `j` or `J`, `x` (a ratio), `fraction` (0 to 1, shown as per cent; a
            change of it is shown in points), `points`, the metric's own unit such as `dB`, or
            empty.
        label: `measured`, `derived`, `estimated`, `emulated` or `unavailable`.
        note: one sentence; a reader sees it beside or under the figure.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    label: Label = "measured"
    note: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = [v for v in (self.value, self.low, self.high) if v is not None]
        if (self.label == "unavailable") != (not known):
            raise ValueError("a figure is `unavailable` exactly when it has no number")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"the interval [{self.low}, {self.high}] is upside down")
        return self

    @classmethod
    def unavailable(cls, unit: str = "", note: str = "") -> Self:
        """A figure that nobody measured; `note` says why."""
        return cls(unit=unit, label="unavailable", note=note)

    def in_points(self) -> "Figure":
        """Turn a fraction into points (hundredths); any other unit stays as it is."""
        if self.unit != "fraction":
            return self
        scaled = {
            key: None if (v := getattr(self, key)) is None else v * 100
            for key in ("value", "low", "high")
        }
        return self.model_copy(update={**scaled, "unit": "points"})

    def format(self, *, signed: bool = False, interval: bool = True) -> str:
        """Write the figure for a person: `0.184 ms [0.181, 0.187]`, `≤ 0.31 ms`, `unavailable`.

        Args:
            signed: write a plus before positive numbers, for changes.
            interval: write the interval after the value.
        """
        return figure_text(
            self.value,
            self.low if interval or self.value is None else None,
            self.high if interval or self.value is None else None,
            self.unit,
            signed=signed,
        )

    def __str__(self) -> str:
        return self.format()


def _missing(unit: str) -> Any:
    return Field(default_factory=lambda: Figure.unavailable(unit))


class ClassChange(_Frozen):
    """What happened to one class, so that a loss hidden in the mean is seen.

    Attributes:
        name: the class.
        n: its examples in the evaluation split.
        original: share of them that the original gets right (0 to 1).
        now: share of them that this artifact gets right (0 to 1).
        drop: original minus now, positive is worse; unit `fraction`.
    """

    name: str
    n: int = Field(ge=0)
    original: float | None = None
    now: float | None = None
    drop: Figure = _missing("fraction")


class ChangedExample(_Frozen):
    """One example that the original got right and this artifact gets wrong.

    Attributes:
        id: the example's stable id.
        target: what it is.
        original: what the original said.
        now: what this artifact says.
    """

    id: str
    target: str = ""
    original: str = ""
    now: str = ""


class Changes(_Frozen):
    """How single examples changed against the original.

    Attributes:
        n: examples compared.
        right_to_wrong: the original was right, this artifact is wrong; None without a notion of
            right.
        wrong_to_right: the original was wrong, this artifact is right.
        agreement: share of examples on which the two agree, unit `fraction`.
        per_class: one entry a class, any order.
        examples: some of the examples that went from right to wrong.
    """

    n: int = Field(ge=0)
    right_to_wrong: int | None = None
    wrong_to_right: int | None = None
    agreement: Figure = _missing("fraction")
    per_class: tuple[ClassChange, ...] = ()
    examples: tuple[ChangedExample, ...] = ()


class StepReport(_Frozen):
    """One artifact: the original, or what a step made, with everything known about it.

    Attributes:
        name: the step's name in the recipe, `original` for the model as given.
        kind: the pass, such as `prune`.
        artifact_hash: content hash (hex) of the artifact.
        path: the artifact's folder, relative to the run's folder.
        cached: the artifact was made by an earlier run with the same cache key.
        seconds: wall time of the step when it was made; None for the original.
        cost_j: joules of the machine that made it while it did; the note says what they cover.
        size_bytes: what must be shipped.
        macs: multiply-accumulates for one sample.
        parameters: number of weights.
        metric: the task's metric on the evaluation split.
        metric_drop: change against the original in the metric's unit; positive is worse.
        latency_p50_ms: median latency.
        latency_p90_ms: 90th percentile.
        latency_p99_ms: 99th percentile; often an upper bound.
        speedup: original's latency divided by this one's, from an interleaved comparison.
        energy_j: joules for one inference.
        parity: largest differences from the parent artifact, as the check recorded them.
        changes: examples that changed against the original.
        notes: what the pass found worth telling; `frozen` maps an operator without a pruning rule
            to what it froze.
        warnings: one sentence each.
        status: `done`, `cached`, `skipped` or `failed`.
        reason: why it was skipped or failed, in a sentence or two.
        details: more of that, in lines: columns of a table are two or more spaces apart.
    """

    name: str
    kind: str = ""
    artifact_hash: str = ""
    path: str = ""
    cached: bool = False
    seconds: float | None = None
    cost_j: Figure = _missing("j")
    size_bytes: int | None = None
    macs: int | None = None
    parameters: int | None = None
    metric: Figure = _missing("")
    metric_drop: Figure = _missing("")
    latency_p50_ms: Figure = _missing("ms")
    latency_p90_ms: Figure = _missing("ms")
    latency_p99_ms: Figure = _missing("ms")
    speedup: Figure = _missing("x")
    energy_j: Figure = _missing("j")
    parity: dict[str, Any] | None = None
    changes: Changes | None = None
    notes: dict[str, Any] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    status: StepStatus = "done"
    reason: str = ""
    details: str = ""


Outcome = Literal["held", "beyond budget", "not measured", "only estimated", "not judged"]


class GateReport(_Frozen):
    """One gate: a budget and what was observed.

    Attributes:
        name: the gate, such as `accuracy-drop` or `latency-p99`.
        branch: the branch it belongs to, empty for the shared chain.
        budget: the limit, in `observed`'s unit (a `fraction` budget is a fraction).
        at_most: the observed figure may be at most the budget; False: at least.
        observed: what was observed.
        passed: the verdict.
        outcome: what the verdict rests on. A gate that is `beyond budget`, `not measured`,
            `only estimated` or `not judged` (its branch ended before) has not passed.
        message: one sentence that says what was compared with what.
    """

    name: str
    branch: str = ""
    budget: float
    at_most: bool = True
    observed: Figure
    passed: bool
    outcome: Outcome
    message: str = ""

    @model_validator(mode="before")
    @classmethod
    def _outcome_of_the_verdict(cls, data: Any) -> Any:
        """Work out the outcome of a plain verdict."""
        if not isinstance(data, dict) or "outcome" in data or "passed" not in data:
            return data
        seen = data.get("observed")
        label = seen.get("label") if isinstance(seen, dict) else getattr(seen, "label", "")
        missing = "not measured" if label == "unavailable" else "beyond budget"
        return {**data, "outcome": "held" if data["passed"] else missing}

    @model_validator(mode="after")
    def _outcome_fits(self) -> Self:
        if self.passed != (self.outcome == "held"):
            raise ValueError("a gate has passed exactly when it is held")
        return self


class LayerTime(_Frozen):
    """Time of one layer, from a separate profiling pass.

    Attributes:
        layer: the layer, by the user's own name where it is known.
        op: the operator.
        ms: time in one inference; runtimes count it in whole microseconds.
        share: of the sum of all layers of the profile, 0 to 1; None where it is not known.
    """

    layer: str
    op: str = ""
    ms: float
    share: float | None = None


class BranchReport(_Frozen):
    """One branch: the steps for one target, their gates and their benchmark.

    Attributes:
        name: the branch's name in the recipe.
        target: the target's name.
        original: the original as it runs on this target; None where it was not measured here.
        shared: the shared chain's steps as they run on this target; empty where they were not
            measured here.
        shared: the shared chain as it runs on this target; empty where it was not measured here.
        steps: the branch's own steps, in order.
        gates: its gates.
        status: `passed`, `failed` or `skipped`.
        reason: why it was skipped or failed.
        bench: the raw benchmark result, as the benchmark wrote it.
        profile: the slowest layers.
    """

    name: str
    target: str = ""
    original: StepReport | None = None
    shared: tuple[StepReport, ...] = ()
    steps: tuple[StepReport, ...] = ()
    gates: tuple[GateReport, ...] = ()
    status: BranchStatus = "passed"
    reason: str = ""
    bench: dict[str, Any] = Field(default_factory=dict)
    profile: tuple[LayerTime, ...] = ()


class RunReport(_Frozen):
    """A run of a recipe.

    Attributes:
        schema_version: 1.
        edgekit: edgekit's version.
        recipe: the recipe's name.
        seed: the seed of the run.
        started_utc: ISO 8601.
        seconds: wall time of the whole run.
        cost_seconds: wall time of its steps when they were made, cached ones included.
        cost_j: joules of the same: what compressing cost; the note says of which steps.
        metric: name of the task's metric, empty where there is no task.
        higher_is_better: which way the metric is good.
        quick: the benchmark ran its short protocol.
        versions: libraries that decide results.
        device: the fingerprint of the device that was measured.
        data: where the data came from, its splits and their hashes.
        original: the model as given.
        shared: the steps of the shared chain, in order.
        branches: one entry a target.
        gates: gates of the shared chain.
        warnings: what concerns the whole run.
        verdict: `passed` or `failed`.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    edgekit: str
    recipe: str
    seed: int
    started_utc: str
    seconds: float
    cost_seconds: float | None = None
    cost_j: Figure = _missing("j")
    metric: str = ""
    higher_is_better: bool = True
    quick: bool = False
    versions: dict[str, str] = Field(default_factory=dict)
    device: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    original: StepReport
    shared: tuple[StepReport, ...] = ()
    branches: tuple[BranchReport, ...] = ()
    gates: tuple[GateReport, ...] = ()
    warnings: tuple[str, ...] = ()
    verdict: Literal["passed", "failed"]

    def all_gates(self) -> Iterator[GateReport]:
        """Yield the gates of the shared chain, then of each branch."""
        yield from self.gates
        for branch in self.branches:
            yield from branch.gates


def json_schema() -> dict[str, Any]:
    """Describe the report as JSON Schema, draft 2020-12, with the meaning of each type."""
    schema = RunReport.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def read(path: Path) -> RunReport:
    """Read a report that edgekit wrote.

    Raises:
        UsageError: no such file, or not a report of this schema version.
    """
    try:
        return RunReport.model_validate_json(path.read_bytes())
    except OSError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}.", "Check the path.") from e
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "the file"
        raise UsageError(
            f"{path} is not a report of schema version {SCHEMA_VERSION}: {where}: {first['msg']}.",
            "Give the report.json that `edgekit run` wrote.",
        ) from e
