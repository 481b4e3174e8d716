"""The recipe: what to do to a network, as data. It is checked whole before torch is imported."""

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema

from edgekit import target as targets
from edgekit.data import DataConfig
from edgekit.errors import RecipeError
from edgekit.metrics import Task
from edgekit.passes.base import Pass
from edgekit.passes.build_tensorrt import BuildTensorrt
from edgekit.passes.capture import ModelConfig
from edgekit.passes.distill import Distill
from edgekit.passes.export_onnx import ExportOnnx
from edgekit.passes.fine_tune import FineTune
from edgekit.passes.prune import Prune
from edgekit.passes.quantize import Quantize
from edgekit.target import Target

SCHEMA_VERSION: Literal[1] = 1
BASELINES = "baselines"
_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_RESOLVED_HERE = frozenset({_BOOL, _FLOAT})

_NEED_BENCH = frozenset({"speedup", "p50_ms", "p90_ms", "p99_ms", "energy_j"})
_NEED_DATA = frozenset({"accuracy_drop", "agreement"})

# A new pass is one line here.
AnyPass = Annotated[
    Prune | FineTune | Distill | ExportOnnx | Quantize | BuildTensorrt,
    Field(discriminator="kind"),
]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `on`, `off`, `yes` and `no` are words, and `1e-3` is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _RESOLVED_HERE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+.0123456789"),
)


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
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return {"budget": value} if number else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Tell editors that a bare number does."""
        return {"anyOf": [{"type": "number"}, handler(schema)]}


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
        threads: CPU threads of the runtime; the target's unless given.
        optional: skip the branch, and say why, where something it needs is missing here.
        gates: budgets for its last artifact.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    target: str
    passes: tuple[AnyPass, ...] = ()
    bench: Literal["off", "quick", "full"] = "full"
    threads: int | None = Field(default=None, ge=1)
    optional: bool = False
    gates: Gates = Gates()


class Recipe(BaseModel):
    """A shared chain of passes, then one branch for each target.

    Attributes:
        schema_version: 1.
        name: what the run is called.
        seed: every random choice of the run comes from it.
        model: where the network comes from.
        data: calibration, training and evaluation data.
        task: what the network is for, and so how it is judged.
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
    passes: tuple[AnyPass, ...] = ()
    branches: tuple[Branch, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _coherent(self) -> "Recipe":
        names = [b.name for b in self.branches]
        if len(set(names)) < len(names):
            raise ValueError("two branches have the same name; give each its own")
        for name in names:
            if name == BASELINES or re.match(r"\d\d-|report\.(json|md|html)$", name):
                raise ValueError(f"a branch cannot be called {name!r}: a run uses that name itself")
        for where, chain in self.chains():
            titles = [p.title for p in chain]
            for title in titles:
                if titles.count(title) > 1:
                    raise ValueError(f"{where}: two steps are called {title!r}; give one a `name:`")
            for step in chain:
                if step.needs_data and self.data is None:
                    raise ValueError(f"{where}: `{step.kind}` needs a `data:` section")
        return self

    @model_validator(mode="after")
    def _gates_can_be_held(self) -> "Recipe":
        for i, branch in enumerate(self.branches):
            given = set(branch.gates.given())
            where = f"branches[{i}].gates"
            if branch.bench == "off" and (needs := sorted(given & _NEED_BENCH)):
                raise ValueError(f"{where}: {needs[0]!r} needs a measurement, and `bench` is off")
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


def load(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: it is missing, is not YAML, or says something that no key means. The message
            has the key's path and line, the hint the nearest valid name.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise RecipeError(f"The recipe {path} does not exist.", "Check the path.") from e
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"The recipe {path} cannot be read: {e}", "Give a YAML file.") from e
    try:
        node = yaml.compose(text, Loader=_Loader)
        _refuse_duplicates(node)
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as e:
        raise RecipeError(f"{path} is not valid YAML: {e}", "Check the indentation there.") from e
    return parse(data, node=node, source=str(path), base=path.parent)


def parse(
    data: object,
    *,
    node: yaml.Node | None = None,
    source: str = "recipe",
    base: Path | None = None,
) -> Recipe:
    """Check a recipe that is already data.

    Args:
        data: what the YAML says.
        node: the YAML's own tree, for line numbers.
        source: what messages call it.
        base: the folder that a target's file is relative to; the working folder unless given.

    Raises:
        RecipeError: as `load`.
    """
    if not isinstance(data, dict):
        raise RecipeError(f"{source} is not a mapping of keys.", "See docs/concepts.md.")
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as e:
        problems = [_explain(error, node, data) for error in _causes(e)]
        message = "\n".join(f"  {m}" for m in dict.fromkeys(m for m, _ in problems))
        hints = " ".join(dict.fromkeys(h for _, h in problems if h))
        raise RecipeError(
            f"{source} is not a valid recipe:\n{message}",
            hints or "`edgekit recipe schema` prints every key.",
        ) from e
    recipe = recipe.model_copy(
        update={"branches": tuple(_placed(b, base or Path()) for b in recipe.branches)}
    )
    for i, branch in enumerate(recipe.branches):
        try:
            targets.load(branch.target)
        except RecipeError as e:
            raise RecipeError(f"{source}: branches[{i}].target: {e.message}", e.hint) from e
    return recipe


def _placed(branch: Branch, base: Path) -> Branch:
    """The branch with a target file's path as seen from the working folder."""
    if not branch.target.endswith(targets.SUFFIXES):
        return branch
    return branch.model_copy(update={"target": str(base / branch.target)})


def _causes(error: ValidationError) -> list[Any]:
    """Leave out what only follows from an error deeper down (a list that lost its items)."""
    errors = error.errors()
    locations = [e["loc"] for e in errors]
    return [
        e
        for e in errors
        if not any(len(o) > len(e["loc"]) and o[: len(e["loc"])] == e["loc"] for o in locations)
    ]


def _refuse_duplicates(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise RecipeError(
                    f"The key {key.value!r} stands twice (line {key.start_mark.line + 1}).",
                    "Keep one.",
                )
            seen.add(key.value)
            _refuse_duplicates(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicates(value)


def _explain(error: Mapping[str, Any], node: yaml.Node | None, data: object) -> tuple[str, str]:
    """One problem of pydantic's as (message with path and line, hint)."""
    where = _without_tags(error["loc"], data, missing=error["type"] == "missing")
    path = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in where).lstrip(".")
    line = _line(node, where)
    at = f"{path or 'recipe'}{f' (line {line})' if line else ''}"
    kind = error["type"]
    if kind == "extra_forbidden":
        valid = _valid_keys(where[:-1], error["loc"])
        return f"{at}: no such key.", nearest_hint(str(where[-1]), valid)
    if kind == "union_tag_invalid":
        tag = str(error["ctx"]["tag"])
        return f"{at}: there is no pass of kind {tag!r}.", nearest_hint(tag, list(_passes()))
    if kind == "union_tag_not_found":
        return f"{at}: a pass needs a `kind:`.", f"Kinds are {', '.join(_passes())}."
    if kind == "literal_error":
        valid = re.findall(r"'([^']+)'", str(error["ctx"]["expected"]))
        return f"{at}: there is no {error['input']!r} here.", nearest_hint(
            str(error["input"]), valid
        )
    if kind == "model_attributes_type" and error["input"] in _passes():
        return f"{at}: a pass is a mapping.", f"Write `kind: {error['input']}`."
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message.replace("valid dictionary or instance of", "mapping with the keys of a")
    return f"{at}: {message[0].lower() + message[1:]}.", ""


def nearest_hint(name: str, valid: list[str]) -> str:
    """Say which valid name a misspelt one probably means."""
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Valid here: {', '.join(sorted(valid))}." if valid else ""


def _passes() -> dict[str, type[Pass]]:
    union = get_args(AnyPass)[0]
    return {cls.model_fields["kind"].default: cls for cls in get_args(union)}


def _without_tags(loc: tuple[Any, ...], data: object, *, missing: bool) -> tuple[Any, ...]:
    """Keep of pydantic's path what stands in the recipe.

    It also names the member of a union that it tried (`prune`, `constrained-int`).
    """
    found = []
    for i, key in enumerate(loc):
        if isinstance(data, dict) and (key in data or (missing and i == len(loc) - 1)):
            data = data.get(key)
        elif isinstance(data, list) and isinstance(key, int):
            data = data[key] if key < len(data) else None
        else:
            continue
        found.append(key)
    return tuple(found)


def _valid_keys(where: tuple[Any, ...], loc: tuple[Any, ...]) -> list[str]:
    """The keys that are valid at a path: those of the model that stands there."""
    kinds = _passes()
    tags = [k for i, k in enumerate(loc) if i and isinstance(loc[i - 1], int) and k in kinds]
    model: type[BaseModel] = Recipe
    for key in where:
        if isinstance(key, int):
            continue
        if key == "passes" and tags:
            model = kinds[tags[0]]
            continue
        found = _model_in(model.model_fields[key].annotation) if key in model.model_fields else None
        if found is None:
            return []
        model = found
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        found = _model_in(part)
        if found is not None:
            return found
    return None


def _line(node: yaml.Node | None, where: tuple[Any, ...]) -> int | None:
    """The line in the file where a path stands, counted from 1."""
    line = None
    for key in where:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if pair is None:
                return line
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            if key >= len(node.value):
                return line
            node = node.value[key]
            line = node.start_mark.line + 1
    return line
