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

_QUANTIZED = {"QuantizeLinear", "DequantizeLinear"}


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
    path, names = _file(model)
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
    place = f"{first.node}: " if first.node else ""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    raise GateError(
        f"{Path(found.model).name} does not fit {found.target}: {place}{first.message}{more}.",
        first.mend,
    )


def _file(model: Path) -> tuple[Path, Mapping[str, str]]:
    if model.is_dir():
        known = manifest.read(model)
        path, names = known.artifact.path, known.notes.get("names") or {}
    else:
        path, names = model, {}
    if path.suffix != ".onnx":
        raise UsageError(
            f"Preflight reads ONNX files, and {path.name} is none.", "Export it: `edgekit export`."
        )
    return path, names


def _linted(found: "Preflight", path: Path, target: "Target") -> "Preflight":
    """Add what the integer scheme does not allow, for files that hold quantized tensors."""
    if target.int8 is None or not any(p.operator in _QUANTIZED for p in found.placements):
        return found
    from edgekit.graph.onnx_model import read_onnx
    from edgekit.lower.preflight import Finding
    from edgekit.quantize.lint import lint

    places = {p.node: p for p in found.placements}
    added = tuple(
        Finding(
            each.severity,
            each.rule,
            each.node,
            places[each.node].operator if each.node in places else "",
            places[each.node].layer if each.node in places else "",
            each.message,
            each.mend,
        )
        for each in lint(read_onnx(path), target.int8)
    )
    fit = found.fit and not any(f.severity == "error" for f in added)
    return replace(found, findings=found.findings + added, fit=fit)
