"""What pruning did, and what kept it from doing more."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from edgekit.prune.atoms import STRUCTURAL, SYMBOLIC, UNITED, WINDOW, Fixed
from edgekit.prune.coupling import attribute
from edgekit.prune.families import Counts, Families, layer_of, weighted_nodes
from edgekit.prune.recover import Fitted


@dataclass(frozen=True)
class Frozen:
    """What one operator kept from being pruned.

    Attributes:
        parameters: elements of tensors that it froze (several operators may freeze the same).
        layers: the user's modules that these tensors belong to.
    """

    parameters: int
    layers: tuple[str, ...]


@dataclass(frozen=True)
class GroupChange:
    """The width of coupled layers before and after.

    Attributes:
        layers: the user's modules whose output width this is, one width for all of them.
        before: channels.
        after: channels.
    """

    layers: tuple[str, ...]
    before: int
    after: int


@dataclass(frozen=True)
class PruneReport:
    """What pruning did.

    Attributes:
        groups: each set of coupled layers, in the order of the graph.
        frozen: operator, `(output)` or `(input)` to what it froze.
        frozen_parameters: elements that could not be removed, each counted once.
        macs_before: multiply-accumulates of one sample.
        macs_after: the same, pruned.
        parameters_before: elements of the trained tensors.
        parameters_after: the same, pruned.
        weight_bytes_before: bytes of the trained tensors and floating-point buffers.
        weight_bytes_after: the same, pruned.
        zero_mask_max_error: of the zero-mask oracle, relative to the largest output; None where
            nothing was shrunk yet.
        zero_mask_dtype: what the oracle computed in.
        fitted: layers that least squares fitted to the original's answers.
        warnings: one sentence each.
    """

    groups: tuple[GroupChange, ...]
    frozen: dict[str, Frozen]
    frozen_parameters: int
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    weight_bytes_before: int
    weight_bytes_after: int
    zero_mask_max_error: float | None
    zero_mask_dtype: str
    fitted: tuple[Fitted, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return dataclasses.asdict(self)


def group_changes(families: Families, kept: Counts) -> tuple[GroupChange, ...]:
    """Widths of every family before and after."""
    return tuple(
        GroupChange(f.layers, int(f.groups.size) * f.channels, int(k) * f.channels)
        for f, k in zip(families.families, kept, strict=True)
    )


def frozen_by(families: Families, names: dict[str, str]) -> tuple[dict[str, Frozen], int]:
    """Which operators froze which parameters.

    An element is frozen when no dimension of its tensor can lose the element's index.

    Args:
        families: of the graph.
        names: graph node name to the user's module path.

    Returns:
        cause to what it froze, the largest first, and the number of frozen elements.
    """
    coupling = families.coupling
    free = np.zeros(coupling.solution.roots.size, dtype=np.bool_)
    for family in families.families:
        free[family.groups] = True
    owners: dict[str, list[str]] = {}
    by_alias = {a: name for name, aliases in coupling.aliases.items() for a in aliases}
    for node, weight, _ in weighted_nodes(coupling):
        owners.setdefault(by_alias[weight], []).append(layer_of(node, weight, names))
    elements: dict[str, int] = {}
    layers: dict[str, list[str]] = {}
    total = 0
    for name, dims in coupling.tensors.items():
        tensor = attribute(coupling.module, name)
        if not isinstance(tensor, nn.Parameter):
            continue
        frozen, causes = 1, set()
        for dim, size in zip(dims, tensor.shape, strict=True):
            stuck = (
                size if isinstance(dim, Fixed) else int((~free[coupling.solution.roots[dim]]).sum())
            )
            frozen *= stuck
            causes |= coupling.solution.causes_of(dim) or ({UNITED} if stuck else set())
        total += frozen
        # Kernels and pixels are fixed nearly everywhere: named only where nothing else is to blame.
        named = causes - STRUCTURAL or causes & {WINDOW, SYMBOLIC}
        for cause in sorted(named) if frozen else ():
            elements[cause] = elements.get(cause, 0) + frozen
            layers.setdefault(cause, []).extend(owners.get(name, [name]))
    order = sorted(elements, key=lambda cause: (-elements[cause], cause))
    return {c: Frozen(elements[c], tuple(dict.fromkeys(layers[c]))) for c in order}, total
