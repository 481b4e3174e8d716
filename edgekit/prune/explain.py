"""Says of one layer with what it is coupled, and what keeps it from being pruned."""

import difflib
from typing import Any

from edgekit.errors import UsageError
from edgekit.prune.atoms import STRUCTURAL, Fixed
from edgekit.prune.coupling import attribute
from edgekit.prune.families import layer_of, weighted_nodes
from edgekit.prune.plan import Decision


def explain_layer(decision: Decision, layer: str) -> dict[str, Any]:
    """Explain one layer.

    Args:
        decision: of the network.
        layer: the user's module path.

    Returns:
        `layer`; `tensors` as name to shape and, by dimension, how many indices may go and what
        keeps the others; `groups` that hold a width of this layer: all coupled layers, the width
        before and after.

    Raises:
        UsageError: there is no such layer with weights; the hint names the nearest.
    """
    names, coupling = decision.program.name_map(), decision.coupling
    known: dict[str, set[str]] = {}
    by_alias = {a: name for name, aliases in coupling.aliases.items() for a in aliases}
    for node, weight, _ in weighted_nodes(coupling):
        known.setdefault(layer_of(node, weight, names), set()).add(by_alias[weight])
    if layer not in known:
        near = difflib.get_close_matches(layer, known, n=1, cutoff=0.0)
        raise UsageError(
            f"There is no layer {layer!r} with weights.",
            f"Did you mean {near[0]!r}?" if near else "This network has no layers.",
        )
    report = decision.report()
    groups = [
        {"layers": list(change.layers), "before": change.before, "after": change.after}
        for family, change in zip(decision.families.families, report.groups, strict=True)
        if layer in family.modules
    ]
    tensors = {name: _dimensions(decision, name) for name in sorted(known[layer])}
    return {"layer": layer, "tensors": tensors, "groups": groups}


def _dimensions(decision: Decision, name: str) -> list[dict[str, Any]]:
    """Each dimension of a tensor: its size, how many indices may go, and what keeps the others."""
    coupling = decision.coupling
    free = {int(root) for family in decision.families.families for root in family.groups}
    found = []
    for dim, size in zip(coupling.tensors[name], _shape(decision, name), strict=True):
        if isinstance(dim, Fixed):
            found.append({"size": size, "free": 0, "kept_by": [dim.cause]})
            continue
        loose = sum(int(root) in free for root in coupling.solution.roots[dim])
        causes = sorted(coupling.solution.causes_of(dim))
        spelt = [c for c in causes if c not in STRUCTURAL] or causes
        found.append({"size": size, "free": loose, "kept_by": spelt if loose < size else []})
    return found


def _shape(decision: Decision, name: str) -> tuple[int, ...]:
    return tuple(attribute(decision.coupling.module, name).shape)
