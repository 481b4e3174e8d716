"""What a recipe can say."""

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from edgekit import target as targets
from edgekit.data import DataConfig
from edgekit.errors import RecipeError, UsageError
from edgekit.metrics import FRACTIONS, Task
from edgekit.passes.base import Pass
from edgekit.passes.build_tensorrt import BuildTensorrt
from edgekit.passes.capture import ModelConfig
from edgekit.passes.cast_half import CastHalf
from edgekit.passes.distill import Distill
from edgekit.passes.export_onnx import ExportOnnx
from edgekit.passes.fine_tune import FineTune
from edgekit.passes.prune import Prune
from edgekit.passes.quantize import Quantize
from edgekit.passes.shrink import Shrink
from edgekit.target import Target

SCHEMA_VERSION: Literal[1] = 1
BASELINES = "baselines"
_NEED_BENCH = frozenset({"speedup", "p50_ms", "p90_ms", "p99_ms", "energy_j"})
_NEED_DATA = frozenset({"accuracy_drop", "agreement"})

# A new pass is one line here.
AnyPass = Annotated[
    Prune | Shrink | FineTune | Distill | ExportOnnx | Quantize | CastHalf | BuildTensorrt,
    Field(discriminator="kind"),
]


def pass_kinds() -> dict[str, type[Pass]]:
    """The passes that a recipe can name, by kind."""
    union = get_args(AnyPass)[0]
    return {cls.model_fields["kind"].default: cls for cls in get_args(union)}


class Gate(BaseModel):
    """A budget, and what is held against it.

    Attributes:
        budget: the largest value allowed, or the smallest for `speedup` and `agreement`.
        on: `bound` holds the unfavourable end of the 95 % interval against the budget, `value`
            the figure itself.
        allow: `estimated` accepts a figure that was not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: float = Field(allow_inf_nan=False)
    on: Literal["bound", "value"] = "bound"
    allow: Literal["measured", "estimated"] = "measured"

    @model_validator(mode="before")
    @classmethod
    def _from_a_number(cls, value: Any) -> Any:
        budget = value.get("budget") if isinstance(value, dict) else value
        number = isinstance(budget, int | float) and not isinstance(budget, bool)
        if budget is not None and not number:
            raise ValueError(f"{budget!r} is not a number{_meant(budget)}")
        return value if isinstance(value, dict) else {"budget": value}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Tell editors that a bare number does."""
        return {"anyOf": [{"type": "number"}, handler(schema)]}


def _meant(budget: object) -> str:
    """How a budget that is no number is probably to be written."""
    number, percent, _ = str(budget).partition("%")
    try:
        share = float(number) / 100
    except ValueError:
        share = math.nan
    if percent and math.isfinite(share):
        return f"; {number.strip()} % is {share:.10g}"
    return "; a gate is a number such as 0.01, or {budget: 0.01, on: value}"


class Gates(BaseModel):
    """Budgets for a branch's last artifact; one that is not held ends the run with exit code 5.

    Attributes:
        accuracy_drop: loss of the task's metric against the original, in the metric's own unit.
        agreement: smallest share of examples on which original and result give the same answer.
        speedup: smallest ratio of the original's median latency to the result's.
        p50_ms: median latency, milliseconds.
        p90_ms: 90th percentile of latency, milliseconds.
        p99_ms: 99th percentile of latency, milliseconds.
        size_mb: what must be shipped, in 10⁶ bytes.
        size_ratio: smallest ratio of the original's ONNX file to the result.
        macs_ratio: smallest ratio of the original's MACs to the result's.
        energy_j: joules per inference.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy_drop: Gate | None = None
    agreement: Gate | None = None
    speedup: Gate | None = None
    p50_ms: Gate | None = None
    p90_ms: Gate | None = None
    p99_ms: Gate | None = None
    size_mb: Gate | None = None
    size_ratio: Gate | None = None
    macs_ratio: Gate | None = None
    energy_j: Gate | None = None

    @field_validator("agreement")
    @classmethod
    def _a_share(cls, value: Gate | None) -> Gate | None:
        if value is not None and not 0 < value.budget <= 1:
            never = "fail" if value.budget <= 0 else "be held"
            raise ValueError(
                f"{value.budget:g} can never {never}: it is a share, above 0 and at most 1"
                f"{_percent(value.budget)}"
            )
        return value

    @field_validator(
        "speedup", "p50_ms", "p90_ms", "p99_ms", "size_mb", "size_ratio", "macs_ratio", "energy_j"
    )
    @classmethod
    def _above_zero(cls, value: Gate | None, info: ValidationInfo) -> Gate | None:
        if value is not None and value.budget <= 0:
            at_least = info.field_name in {"speedup", "size_ratio", "macs_ratio"}
            never = "fail" if at_least else "be held"
            raise ValueError(f"{value.budget:g} can never {never}: the budget must be above 0")
        return value

    def given(self) -> dict[str, Gate]:
        """The gates that the recipe sets, by name."""
        return {name: gate for name, gate in self if gate is not None}


class Branch(BaseModel):
    """What happens for one target, after the shared passes.

    Attributes:
        name: the branch's name and folder.
        target: a target's name, or a YAML file.
        passes: run in order on the shared chain's result.
        bench: how long to measure latency; `off` measures none.
        device: where to measure it: a name from `edgekit device list`; this machine unless given.
        threads: CPU threads of the runtime; the target's unless given.
        meters: energy meters to try, best first: names from `edgekit meters`, `auto`, or
            `estimate`; the device's unless given, or the target's.
        optional: skip the branch, and say why, where something it needs is missing here.
        gates: budgets for its last artifact.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    target: str
    passes: tuple[AnyPass, ...] = ()
    bench: Literal["off", "quick", "full"] = "full"
    device: str | None = Field(default=None, min_length=1)
    threads: int | None = Field(default=None, ge=1)
    meters: tuple[str, ...] | None = None
    optional: bool = False
    gates: Gates = Gates()

    @field_validator("meters")
    @classmethod
    def _known_meters(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            _check_meter(name)
        return value


class Recipe(BaseModel):
    """A shared chain of passes, then one branch for each target.

    Attributes:
        schema_version: 1.
        name: what the run is called.
        seed: every random choice of the run comes from it.
        model: where the network comes from.
        data: calibration, training and evaluation data.
        task: what the network is for, and so how it is judged.
        meter: energy meter of the machine that runs the recipe, for what its own steps cost: `auto`
            takes those that it has, `off` none.
        passes: the shared chain.
        branches: one for each target.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    seed: int = Field(default=0, ge=0, lt=2**32)
    model: ModelConfig
    data: DataConfig | None = None
    task: Task = Task()
    meter: str = "auto"
    passes: tuple[AnyPass, ...] = ()
    branches: tuple[Branch, ...] = Field(min_length=1)

    @field_validator("meter")
    @classmethod
    def _known_meter(cls, value: str) -> str:
        if value == "estimate":
            raise ValueError("`estimate` reckons inferences, and no steps; give `auto` or `off`")
        if value.startswith("csv"):
            raise ValueError("a recording cannot be aligned with steps; give `auto` or `off`")
        if value != "off":
            _check_meter(value)
        return value

    @model_validator(mode="after")
    def _coherent(self) -> "Recipe":
        names = [b.name for b in self.branches]
        if len(set(names)) < len(names):
            raise ValueError("two branches have the same name; give each its own")
        for name in names:
            if name == BASELINES or re.match(r"\d\d-|report\.(json|md|html|junit\.xml)$", name):
                raise ValueError(f"a branch cannot be called {name!r}: a run uses that name itself")
        for where, chain in self.chains():
            titles = [p.title for p in chain]
            for title in titles:
                if titles.count(title) > 1:
                    raise ValueError(f"{where}: two steps are called {title!r}; give one a `name:`")
            for step in chain:
                if step.reads_data and self.data is None:
                    raise ValueError(f"{where}: `{step.kind}` needs a `data:` section")
        return self

    @model_validator(mode="after")
    def _gates_can_be_held(self) -> "Recipe":
        for i, branch in enumerate(self.branches):
            given = set(branch.gates.given())
            where = f"branches[{i}].gates"
            if branch.bench == "off" and (needs := sorted(given & _NEED_BENCH)):
                raise ValueError(f"{where}: {needs[0]!r} needs a measurement, and `bench` is off")
            drop = branch.gates.accuracy_drop
            fraction = self.task.kind != "none" and self.task.metric_name in FRACTIONS
            if drop is not None and fraction and not -1 < drop.budget < 1:
                never = "fail" if drop.budget >= 1 else "be held"
                raise ValueError(
                    f"{where}.accuracy_drop: {drop.budget:g} can never {never}:"
                    f" {self.task.metric_name} lies between 0 and 1, and so does a drop of it"
                    f"{_percent(drop.budget)}"
                )
            if self.data is None and (needs := sorted(given & _NEED_DATA)):
                raise ValueError(f"{where}: {needs[0]!r} needs a `data:` section")
        return self

    def chains(self) -> Iterator[tuple[str, tuple[Pass, ...]]]:
        """The shared chain and the branches' chains, each with its path in the recipe."""
        yield "passes", self.passes
        for i, branch in enumerate(self.branches):
            yield f"branches[{i}].passes", branch.passes

    def check_formats(self, start: str) -> None:
        """Check that each pass accepts what the one before it produces.

        Args:
            start: format of the original artifact, `pt2` or `onnx`.

        Raises:
            RecipeError: it does not; names the key.
        """
        shared = _flow("passes", self.passes, start)
        for i, branch in enumerate(self.branches):
            _flow(f"branches[{i}].passes", branch.passes, shared)

    def targets(self) -> tuple[Target, ...]:
        """The branches' targets, in order."""
        return tuple(targets.load(b.target) for b in self.branches)


def _percent(budget: float) -> str:
    """What a number from 1 to 100 in the place of a share was probably meant to be."""
    return f"; {budget:g} % is {budget / 100:.10g}" if 1 <= budget <= 100 else ""


def _check_meter(name: str) -> None:
    from edgekit.bench.meters import check_meter

    try:
        check_meter(name)
    except UsageError as e:
        raise ValueError(f"{e.message} {e.hint}") from e


def _flow(where: str, chain: tuple[Pass, ...], fmt: str) -> str:
    for i, step in enumerate(chain):
        if fmt not in step.accepts:
            wanted = " or ".join(sorted(step.accepts))
            raise RecipeError(
                f"{where}[{i}]: `{step.kind}` takes {wanted}, and gets {fmt} here.",
                "Move the step, or put `export-onnx` before it.",
            )
        fmt = step.produces or "engine"
    return fmt
