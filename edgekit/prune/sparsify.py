"""The groups that sparse training pulls on: those that pruning can remove."""

import numpy as np
import torch
from torch import nn

from edgekit.errors import PassError
from edgekit.graph.program import Program
from edgekit.prune.atoms import Fixed
from edgekit.prune.coupling import analyse, attribute
from edgekit.prune.families import Families, find_families
from edgekit.prune.importance import batch_norm_scales
from edgekit.prune.report import frozen_by
from edgekit.train.shrinkage import Member, Sparsify


def groups_of(program: Program, kind: Sparsify) -> list[Member]:
    """Which indices of which parameters belong to which removable group.

    Args:
        program: the network.
        kind: `bn-scale` takes the scales of batch norms alone.

    Raises:
        PassError: there is nothing to pull on.
    """
    coupling, names = analyse(program.module()), program.name_map()
    families = find_families(coupling, names)
    numbers = np.full(coupling.solution.roots.size, -1, dtype=np.int64)
    for number, root in enumerate(root for f in families.families for root in f.groups):
        numbers[root] = number
    scales = batch_norm_scales(coupling) if kind == "bn-scale" else None
    members = []
    for name, dims in coupling.tensors.items():
        if not isinstance(attribute(coupling.module, name), nn.Parameter):
            continue
        if scales is not None and not scales & set(coupling.aliases[name]):
            continue
        for axis, dim in enumerate(dims):
            if isinstance(dim, Fixed):
                continue
            groups = numbers[coupling.solution.roots[dim]]
            if (groups >= 0).any():
                members.append(Member(name, axis, torch.from_numpy(groups)))
    if not members:
        _refuse(families, kind, names)
    return members


def _refuse(families: Families, kind: Sparsify, names: dict[str, str]) -> None:
    if families.families:
        raise PassError(
            "This network has no batch norm whose channels can be pruned.",
            f"Use `sparsify: group-l2` instead of {kind}.",
        )
    causes = ", ".join(frozen_by(families, names)[0]) or "it has no weights"
    raise PassError(
        f"No channel of this network can be pruned; frozen by: {causes}.",
        "Leave `sparsify` out.",
    )
