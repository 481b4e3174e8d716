"""Read a recipe; say where a mistake stands, and what was probably meant."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from edgekit import target as targets
from edgekit.errors import RecipeError
from edgekit.recipe.schema import Branch, Recipe, pass_kinds

_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_RESOLVED_HERE = frozenset({_BOOL, _FLOAT})


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
        found = [_explain(error, node, data) for error in _causes(e)]
        raise _refusal([*found, *_unknown_targets(data, node, base or Path())], source) from e
    if found := _unknown_targets(data, node, base or Path()):
        raise _refusal(found, source)
    return recipe.model_copy(
        update={"branches": tuple(_placed(b, base or Path()) for b in recipe.branches)}
    )


def _refusal(found: list[tuple[str, str]], source: str) -> RecipeError:
    """All that is wrong with a recipe; of several problems each has its hint beside it."""
    problems = list(dict.fromkeys(found))
    several = len(problems) > 1
    lines = [f"  {m} {h}".rstrip() if several else f"  {m}" for m, h in problems]
    hint = "" if several else problems[0][1]
    return RecipeError(
        "\n".join([f"{source} is not a valid recipe:", *lines]),
        hint or "`edgekit recipe schema` prints every key.",
    )


def _unknown_targets(
    data: Mapping[Any, Any], node: yaml.Node | None, base: Path
) -> list[tuple[str, str]]:
    """Targets that cannot be loaded, as (message with path and line, hint)."""
    branches = data.get("branches")
    found = []
    for i, branch in enumerate(branches if isinstance(branches, list) else ()):
        name = branch.get("target") if isinstance(branch, dict) else None
        if not isinstance(name, str):
            continue
        try:
            targets.load(_target_from(name, base))
        except RecipeError as e:
            at = _at(node, ("branches", i, "target"))
            found.append((f"{at}: {e.message}", e.hint))
    return found


def _placed(branch: Branch, base: Path) -> Branch:
    """The branch with a target file's path as seen from the working folder."""
    return branch.model_copy(update={"target": _target_from(branch.target, base)})


def _target_from(name: str, base: Path) -> str:
    return str(base / name) if name.endswith(targets.SUFFIXES) else name


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
    at = _at(node, where)
    kind = error["type"]
    if kind == "extra_forbidden":
        valid, key = _valid_keys(where[:-1], error["loc"]), str(where[-1])
        owner = _owner(key, where[:-1])
        return f"{at}: no such key.", owner or nearest_hint(key, valid)
    if kind == "union_tag_invalid":
        tag = str(error["ctx"]["tag"])
        return f"{at}: there is no pass of kind {tag!r}.", nearest_hint(tag, list(pass_kinds()))
    if kind == "union_tag_not_found":
        return f"{at}: a pass needs a `kind:`.", f"Kinds are {', '.join(pass_kinds())}."
    if kind == "literal_error":
        valid = re.findall(r"'([^']+)'", str(error["ctx"]["expected"]))
        return f"{at}: there is no {error['input']!r} here.", nearest_hint(
            str(error["input"]), valid
        )
    if kind == "model_attributes_type" and error["input"] in pass_kinds():
        return f"{at}: a pass is a mapping.", f"Write `kind: {error['input']}`."
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message.replace("valid dictionary or instance of", "mapping with the keys of a")
    return f"{at}: {message[0].lower() + message[1:]}.", ""


def _at(node: yaml.Node | None, where: tuple[Any, ...]) -> str:
    """A path of the recipe as a person reads it, with its line."""
    path = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in where).lstrip(".")
    line = _line(node, where)
    return f"{path or 'recipe'}{f' (line {line})' if line else ''}"


def _owner(key: str, where: tuple[Any, ...]) -> str:
    """Whose key it is that stands too deep; empty where it is nobody's."""
    if key in Branch.model_fields and "passes" in where:
        return f"{key!r} is a key of a branch, not of a pass."
    if key in Recipe.model_fields and where:
        return f"{key!r} is a key of the recipe itself."
    return ""


def nearest_hint(name: str, valid: list[str]) -> str:
    """Say which valid name a misspelt one probably means."""
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Valid here: {', '.join(sorted(valid))}." if valid else ""


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
    """The keys that are valid at a path of a recipe."""
    kinds = pass_kinds()
    tags = [k for i, k in enumerate(loc) if i and isinstance(loc[i - 1], int) and k in kinds]
    if "passes" in where and tags:
        return keys_at(kinds[tags[0]], where[where.index("passes") + 1 :])
    return keys_at(Recipe, where)


def keys_at(model: type[BaseModel], where: Iterable[Any]) -> list[str]:
    """The keys that are valid at a path: those of the model that stands there, in it."""
    for key in where:
        if isinstance(key, int):
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
