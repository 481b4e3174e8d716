"""How much each group of channels matters.

The default is the mean over a group's members (one for each weight and dimension that it touches)
of Σw², divided by the mean over the layer, so that layers can be compared: the group magnitude of
DepGraph (Fang et al., 2023, https://arxiv.org/abs/2301.12900).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekit.errors import UsageError
from edgekit.prune.atoms import Dims, Fixed
from edgekit.prune.coupling import Coupling, attribute
from edgekit.prune.families import Families
from edgekit.prune.reconstruction import elimination_scores
from edgekit.prune.sensitivity import (
    CONTRACTIONS,
    TRANSPOSED,
    by_input_channel,
    distances,
    kind_of,
)

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Looked:
    """What the data said (`edgekit.prune.sensitivity`).

    Attributes:
        gradients: for `taylor` and `fisher`: parameter name to its mean squared gradients.
        moments: for `activation`: node name to the mean square of the channels that it reads.
        grams: for `reconstruction`: node name to the covariance of what it reads.
    """

    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    grams: Mapping[str, Tensor] = field(default_factory=dict)


def score_groups(
    families: Families, importance: str, *, seed: int, looked: Looked | None = None
) -> list[Scores]:
    """Score every removable group.

    Args:
        families: of the graph.
        importance: see `PruneConfig.importance`.
        seed: for `random`.
        looked: for `taylor`, `fisher` and `activation`.

    Returns:
        for each family the scores of its groups, shape (n,), mean 1 (0 where all are 0); for
        `reconstruction` 1 for each layer that reads them.

    Raises:
        UsageError: `taylor`, `fisher` or `activation` without data.
    """
    if importance == "random":
        generator = np.random.default_rng(seed)
        return [generator.random(f.groups.size) for f in families.families]
    looked = looked or Looked()
    given = {
        "taylor": looked.gradients,
        "fisher": looked.gradients,
        "activation": looked.moments,
        "reconstruction": looked.grams,
    }
    if importance in given and not given[importance]:
        raise UsageError(
            f"Importance {importance!r} needs data.", "Give data, or use importance 'l2'."
        )
    if importance == "reconstruction":
        weighed = score_groups(families, "l2", seed=seed)
        found = elimination_scores(families, looked.grams)
        return [w if s is None else s for s, w in zip(found, weighed, strict=True)]
    total = _totals(families.coupling, importance, looked)
    # A layer without a batch norm, or that only a recurrent one reads, goes by its weights.
    plain = _totals(families.coupling, "l2", looked) if np.isnan(total).any() else total
    scores = []
    for family in families.families:
        raw = total[family.groups]
        if np.isnan(raw).any():
            raw = plain[family.groups]
        raw = np.nan_to_num(raw)
        mean = raw.mean() if raw.size else 0.0
        scores.append(raw / mean if mean > 0 else raw)
    return scores


def _totals(coupling: Coupling, importance: str, looked: Looked) -> Scores:
    """Mean over members for each root, NaN where a group has none; shape (atoms,)."""
    size = coupling.solution.roots.size
    total, members = np.zeros(size), np.zeros(size)

    def add(dims: Dims, axis: int, slices: Tensor) -> None:
        dim = dims[axis]
        if not isinstance(dim, Fixed):
            roots = coupling.solution.roots[dim]
            np.add.at(total, roots, slices.numpy())
            members[np.unique(roots)] += 1

    if importance == "activation":
        _add_readers(coupling, looked.moments, add)
    else:
        for name, dims in _members(coupling, importance).items():
            for axis in range(len(dims)):
                slices = _slices(coupling, name, axis, importance, looked)
                if slices is not None:
                    add(dims, axis, slices)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(members > 0, total / members, np.nan)


def _add_readers(
    coupling: Coupling, moments: Mapping[str, Tensor], add: Callable[[Dims, int, Tensor], None]
) -> None:
    """Each layer that reads channels says what it would miss."""
    for op, _ in coupling.ops:
        kind = kind_of(op.node)
        if kind not in CONTRACTIONS | TRANSPOSED or op.node.name not in moments:
            continue
        weight = op.arguments["weight"]
        if getattr(weight, "op", "") != "get_attr":
            continue
        groups = int(op.arguments.get("groups", 1))
        tensor = attribute(coupling.module, str(weight.target))
        slices = by_input_channel(tensor, kind, groups, moments[op.node.name])
        add(op.dims("weight"), 0 if kind in TRANSPOSED else 1, slices)


def _members(coupling: Coupling, importance: str) -> dict[str, Dims]:
    """Tensors that count: the scales of batch norms, or all weights with two or more dimensions."""
    if importance == "bn-scale":
        scales = batch_norm_scales(coupling)
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


def batch_norm_scales(coupling: Coupling) -> set[str]:
    """Names of the scales of batch norms."""
    return {
        str(op.arguments["weight"].target)
        for op, _ in coupling.ops
        if op.cause == "aten.batch_norm" and op.arguments["weight"] is not None
    }


def _slices(
    coupling: Coupling, name: str, axis: int, importance: str, looked: Looked
) -> Tensor | None:
    """The score of each index of a tensor's dimension, shape (size,), float64."""
    weight: Tensor = attribute(coupling.module, name).detach().to("cpu")
    if importance == "geometric-median":
        return distances(weight, axis)
    if importance in ("l1", "bn-scale"):
        score = weight.abs()
    elif importance == "l2":
        score = weight.square()
    else:
        aliases = coupling.aliases[name]
        gradient = next((looked.gradients[a] for a in aliases if a in looked.gradients), None)
        if gradient is None:
            return None
        score = weight.square() * gradient.to("cpu")
    others = [a for a in range(weight.dim()) if a != axis]
    return score.sum(dim=others, dtype=torch.float64) if others else score.double()
