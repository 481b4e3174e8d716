"""Groups that touch the same dimensions equally often form a family: the width of a layer.

A stage of a residual network is one family of as many groups as it has channels. All that a budget
can decide is how many groups of each family stay; sizes, MACs and parameters follow from these
counts, because the size of every dimension is its fixed part plus a sum over families.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.fx import Node

from edgekit.prune.atoms import Dim, Fixed, Ids
from edgekit.prune.coupling import Coupling, attribute

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Family:
    """Interchangeable groups.

    Attributes:
        groups: roots of the groups, sorted, shape (n,).
        channels: channels that one group is, in the layer where it is fewest.
        layers: the user's modules whose output width this is: those with a weight matrix, if any.
        modules: as `layers`, with normalisations and the like.
    """

    groups: Ids
    channels: int
    layers: tuple[str, ...]
    modules: tuple[str, ...]

    @property
    def name(self) -> str:
        """The layers, for people."""
        return " + ".join(self.layers) or "(no layer)"


@dataclass(frozen=True)
class Families:
    """All families, and what dimensions they make up.

    Attributes:
        families: in the order of the graph.
        base: shape (dimensions,): indices of each distinct dimension that always stay.
        share: shape (dimensions, families): indices that one group of the family adds.
        index: where to find a dimension: the bytes of its roots to its row.
        coupling: what was analysed.
    """

    families: tuple[Family, ...]
    base: Counts
    share: Counts
    index: dict[bytes, int]
    coupling: Coupling

    def row(self, dim: Dim) -> int | None:
        """The row of a dimension in `base` and `share`; None for one that is fixed."""
        if isinstance(dim, Fixed):
            return None
        return self.index[self.coupling.solution.roots[dim].tobytes()]

    def full(self) -> Counts:
        """Number of groups of each family, shape (families,)."""
        return np.array([f.groups.size for f in self.families], dtype=np.int64)


def find_families(coupling: Coupling, names: dict[str, str]) -> Families:
    """Sort the removable groups into families.

    Args:
        coupling: of the graph.
        names: graph node name to the user's module path.
    """
    solution = coupling.solution
    distinct: dict[bytes, Ids] = {}
    for dim in coupling.all_dims():
        if not isinstance(dim, Fixed):
            roots = solution.roots[dim]
            distinct.setdefault(roots.tobytes(), roots)
    index = {key: row for row, key in enumerate(distinct)}
    entries = [_entries(roots, solution.frozen) for roots in distinct.values()]
    groups = _groups_with_parameters(coupling)
    parts = _partition(groups, entries, solution.roots.size)
    # A lone group is a whole width: it cannot go.
    parts = [part for part in parts if part.size > 1]
    base = np.array([r.size for r in distinct.values()], dtype=np.int64)
    share = np.zeros((len(distinct), len(parts)), dtype=np.int64)
    owner = np.full(solution.roots.size, -1, dtype=np.int64)
    for number, part in enumerate(parts):
        owner[part] = number
    for row, (roots, counts) in enumerate(entries):
        mine = owner[roots] >= 0
        share[row, owner[roots[mine]]] = counts[mine]
        base[row] -= counts[mine].sum()
    families = Families((), base, share, index, coupling)
    made = tuple(
        Family(part, _channels(families, number), *_layers(families, number, names))
        for number, part in enumerate(parts)
    )
    return Families(made, base, share, index, coupling)


def _entries(roots: Ids, frozen: npt.NDArray[np.bool_]) -> tuple[Ids, Counts]:
    found, counts = np.unique(roots, return_counts=True)
    free = ~frozen[found]
    return found[free], counts[free].astype(np.int64)


def _groups_with_parameters(coupling: Coupling) -> Ids:
    """Removable groups that some trained tensor has a part in, sorted."""
    arrays = [
        dim
        for name, dims in coupling.tensors.items()
        if isinstance(attribute(coupling.module, name), nn.Parameter)
        for dim in dims
        if not isinstance(dim, Fixed)
    ]
    if not arrays:
        return np.empty(0, dtype=np.int64)
    return coupling.solution.free(np.concatenate(arrays))


def _partition(groups: Ids, entries: list[tuple[Ids, Counts]], size: int) -> list[Ids]:
    """Groups with equal entries, by a 64-bit sum of random numbers for each dimension."""
    draw = np.random.default_rng(0).integers(1, 2**63, size=len(entries), dtype=np.uint64)
    signature = np.zeros(size, dtype=np.uint64)
    for number, (roots, counts) in zip(draw, entries, strict=True):
        signature[roots] += number * counts.astype(np.uint64)
    _, first, inverse = np.unique(signature[groups], return_index=True, return_inverse=True)
    order = np.argsort(first)
    by_rank = np.argsort(order)[inverse]
    return [groups[by_rank == rank] for rank in range(len(first))]


def _channels(families: Families, number: int) -> int:
    rows = {
        row
        for name, dims in families.coupling.tensors.items()
        if isinstance(attribute(families.coupling.module, name), nn.Parameter)
        for dim in dims
        if (row := families.row(dim)) is not None
    }
    shares = families.share[sorted(rows), number]
    return int(shares[shares > 0].min())


def _layers(
    families: Families, number: int, names: dict[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Modules whose output this family is part of: with a weight matrix, and all with a weight."""
    strong: list[str] = []
    weak: list[str] = []
    for node, weight, dims in weighted_nodes(families.coupling):
        value = families.coupling.values[node]
        made = [dim for dims_ in value or () for dim in dims_] if isinstance(value, list) else value
        out = {row for dim in made or () if (row := families.row(dim)) is not None}
        mine = {row for dim in dims if (row := families.row(dim)) is not None}
        if any(families.share[row, number] for row in out) and any(
            families.share[row, number] for row in mine
        ):
            path = layer_of(node, weight, names)
            (strong if len(dims) > 1 else weak).append(path)
    return tuple(dict.fromkeys(strong or weak)), tuple(dict.fromkeys([*strong, *weak]))


def weighted_nodes(coupling: Coupling) -> list[tuple[Node, str, tuple[Dim, ...]]]:
    """Operator calls with a parameter among their inputs: node, parameter's name, its dimensions.

    A node appears once for each of its parameters.
    """
    by_alias = {alias: name for name, all_ in coupling.aliases.items() for alias in all_}
    found = []
    for node in coupling.module.graph.nodes:
        if node.op != "call_function":
            continue
        for source in node.all_input_nodes:
            name = by_alias.get(str(source.target)) if source.op == "get_attr" else None
            if name and isinstance(attribute(coupling.module, name), nn.Parameter):
                found.append((node, str(source.target), coupling.tensors[name]))
    return found


def layer_of(node: Node, weight: str, names: dict[str, str]) -> str:
    """The user's module that a node with a parameter belongs to."""
    return names.get(node.name) or weight.rpartition(".")[0] or weight
