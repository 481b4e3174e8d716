"""Preflight of a model: the parser's answer, and the integer scheme's linter where it counts."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import manifest
from edgekit import target as targets
from edgekit.errors import GateError, UsageError

if TYPE_CHECKING:
    from edgekit.lower.preflight import Preflight, Shapes
    from edgekit.target import Target


def preflight_model(
    model: Path, target: str, *, dla: int | None = None, shapes: "Shapes | None" = None
) -> "Preflight":
    """Ask whether a target will take an ONNX file.

    Args:
        model: an `.onnx` file, or the folder of an artifact of that format.
        target: a target's name, or the path of a YAML file.
        dla: the DLA core to place layers on.
        shapes: smallest, usual and largest shape of dynamic inputs.

    Raises:
        UsageError: the file or the target is not one, or the target has no such DLA core.
    """
    from edgekit.lower.preflight import preflight

    chosen = targets.load(target)
    path, names = onnx_file(model)
    found = preflight(path, chosen, dla_core=dla, shapes=shapes, names=names)
    return _linted(found, path, chosen)


def raise_unless_fit(found: "Preflight") -> None:
    """Turn a bad verdict into exit code 5.

    Raises:
        GateError: the file does not fit; names the first node and its mend.
    """
    errors = [f for f in found.findings if f.severity == "error"]
    if not errors:
        return
    first = errors[0]
    said = first.message.rstrip(".")
    place = f"{first.node}: " if first.node else ""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    raise GateError(
        f"{Path(found.model).name} does not fit {found.target}: {place}{said}{more}.",
        first.mend,
    )


def onnx_file(model: Path) -> tuple[Path, Mapping[str, str]]:
    """The ONNX file of an argument, and the user's layers by node name where they are known.

    Raises:
        UsageError: it is no ONNX file.
    """
    if model.is_dir():
        known = manifest.read(model)
        path, names = known.artifact.path, known.notes.get("names") or {}
    else:
        path, names = model, {}
    if path.suffix != ".onnx":
        raise UsageError(f"{path.name} is no ONNX file.", "Export it: `edgekit export`.")
    return path, names


def _linted(found: "Preflight", path: Path, target: "Target") -> "Preflight":
    """Add what the integer scheme does not allow, for files that hold quantized tensors."""
    from edgekit.graph.onnx_model import read_onnx
    from edgekit.lower.preflight import Finding
    from edgekit.quantize.detect import quantized
    from edgekit.quantize.lint import lint

    model = read_onnx(path, data=False)
    if target.int8 is None or not quantized(model):
        return found
    places = {p.node: p for p in found.placements}
    added: list[Finding] = []
    notes = [f"Dialect {target.int8.name}: {target.int8.unverified}"]
    for each in lint(model, target.int8, path.parent):
        place = places.get(each.node)
        if each.severity == "note":
            notes.append(f"{each.message} {each.mend} [{each.rule}]")
            continue
        operator, layer = (place.operator, place.layer) if place is not None else ("", "")
        added.append(
            Finding(each.severity, each.rule, each.node, operator, layer, each.message, each.mend)
        )
    return replace(
        found,
        findings=(*found.findings, *added),
        fit=found.fit and not any(f.severity == "error" for f in added),
        notes=(*found.notes, *(notes if target.int8.unverified else notes[1:])),
    )
