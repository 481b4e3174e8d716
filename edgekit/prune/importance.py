"""How much each group of channels matters.

The default is the mean over a group's members (one for each weight and dimension that it touches)
of Σw², divided by the mean over the layer, so that layers can be compared: the group magnitude of
DepGraph (Fang et al., 2023, https://arxiv.org/abs/2301.12900).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekit.errors import UsageError
from edgekit.prune.atoms import Dims, Fixed
from edgekit.prune.coupling import Coupling, attribute
from edgekit.prune.families import Families

Scores = npt.NDArray[np.float64]


def score_groups(
    families: Families,
    importance: str,
    *,
    seed: int,
    gradients: Mapping[str, Tensor] | None = None,
) -> list[Scores]:
    """Score every removable group.

    Args:
        families: of the graph.
        importance: `l1`, `l2`, `bn-scale`, `taylor` or `random`.
        seed: for `random`.
        gradients: for `taylor`: parameter name to its gradient, shape like the parameter.

    Returns:
        for each family the scores of its groups, shape (n,), mean 1 (0 where all are 0).

    Raises:
        UsageError: `taylor` without gradients.
    """
    if importance == "random":
        generator = np.random.default_rng(seed)
        return [generator.random(f.groups.size) for f in families.families]
    if importance == "taylor" and not gradients:
        raise UsageError(
            "Importance 'taylor' needs gradients.", "Give gradients, or use importance 'l2'."
        )
    total = _totals(families.coupling, importance, gradients or {})
    plain = _totals(families.coupling, "l2", {}) if importance == "bn-scale" else total
    scores = []
    for family in families.families:
        raw = total[family.groups]
        if importance == "bn-scale" and np.isnan(raw).any():
            raw = plain[family.groups]
        raw = np.nan_to_num(raw)
        mean = raw.mean() if raw.size else 0.0
        scores.append(raw / mean if mean > 0 else raw)
    return scores


def _totals(coupling: Coupling, importance: str, gradients: Mapping[str, Tensor]) -> Scores:
    """Mean over members for each root, NaN where a group has none; shape (atoms,)."""
    size = coupling.solution.roots.size
    total, members = np.zeros(size), np.zeros(size)
    for name, dims in _members(coupling, importance).items():
        weight = _magnitude(coupling, name, importance, gradients)
        if weight is None:
            continue
        for axis, dim in enumerate(dims):
            if isinstance(dim, Fixed):
                continue
            others = [a for a in range(weight.dim()) if a != axis]
            slices = (weight.sum(dim=others, dtype=torch.float64) if others else weight).numpy()
            roots = coupling.solution.roots[dim]
            np.add.at(total, roots, slices)
            members[np.unique(roots)] += 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(members > 0, total / members, np.nan)


def _members(coupling: Coupling, importance: str) -> dict[str, Dims]:
    """Tensors that count: the scales of batch norms, or all weights with two or more dimensions."""
    if importance == "bn-scale":
        scales = {
            str(op.arguments["weight"].target)
            for op, _ in coupling.ops
            if op.cause == "aten.batch_norm" and op.arguments["weight"] is not None
        }
        return {
            name: dims
            for name, dims in coupling.tensors.items()
            if scales & set(coupling.aliases[name])
        }
    return {
        name: dims
        for name, dims in coupling.tensors.items()
        if len(dims) > 1 and isinstance(attribute(coupling.module, name), nn.Parameter)
    }


def _magnitude(
    coupling: Coupling, name: str, importance: str, gradients: Mapping[str, Tensor]
) -> Tensor | None:
    """The elements' own scores, shape like the tensor."""
    weight: Tensor = attribute(coupling.module, name).detach().to("cpu")
    if importance == "l1" or importance == "bn-scale":
        return weight.abs()
    if importance == "l2":
        return weight.square()
    gradient = next((gradients[a] for a in coupling.aliases[name] if a in gradients), None)
    if gradient is None:
        return None
    return (weight * gradient.detach().to("cpu")).square()
