"""Atoms: the indices of tensor dimensions, and a union-find over all of them at once.

Every index of every prunable tensor dimension is one *atom*, an integer. A dimension is an array of
atoms, one for each index; the same atom may stand in a dimension several times (a channel that was
flattened with its pixels). Uniting two dimensions couples their atoms position by position.
Dimensions that never change (batch, pixels, kernels, inputs) carry no atoms: they are `Fixed`, and
uniting a dimension with a fixed one freezes its atoms.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

INPUT = "(input)"
OUTPUT = "(output)"
SYMBOLIC = "(dynamic size)"
WINDOW = "(spatial)"
SINGLE = "(size one)"
UNITED = "(all channels coupled)"
STRUCTURAL = frozenset({SYMBOLIC, WINDOW, SINGLE})


@dataclass(frozen=True)
class Fixed:
    """A dimension whose size never changes.

    Attributes:
        cause: why: an operator such as `aten.cumsum`, or one of this module's constants.
    """

    cause: str


Dim = Ids | Fixed
Dims = tuple[Dim, ...]


def components(count: int, left: Ids, right: Ids) -> Ids:
    """Connected components of a graph, labelled by their smallest node.

    Args:
        count: number of nodes.
        left: one end of each edge, shape (edges,).
        right: the other end, shape (edges,).

    Returns:
        shape (count,): the smallest node that each node is connected with.
    """
    parent: Ids = np.arange(count, dtype=np.int64)
    while True:
        a, b = parent[left], parent[right]
        open_ = a != b
        if not open_.any():
            return parent
        left, right, a, b = left[open_], right[open_], a[open_], b[open_]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while True:
            shorter = parent[parent]
            if np.array_equal(shorter, parent):
                break
            parent = shorter


@dataclass
class Atoms:
    """Makes atoms, and remembers which were united and which were frozen.

    Attributes:
        count: atoms made so far.
    """

    count: int = 0
    _edges: list[tuple[Ids, Ids]] = field(default_factory=list)
    _frozen: list[tuple[Ids, str]] = field(default_factory=list)

    def fresh(self, size: int) -> Ids:
        """Make `size` new atoms."""
        made: Ids = np.arange(self.count, self.count + size, dtype=np.int64)
        self.count += size
        return made

    def freeze(self, dim: Dim, cause: str) -> None:
        """Say that no index of `dim` may be removed."""
        if not isinstance(dim, Fixed) and dim.size:
            self._frozen.append((dim, cause))

    def unite(self, a: Dim, b: Dim) -> Dim:
        """Couple two dimensions index by index.

        Returns:
            what stands for both from here on: the fixed one, else `a`.
        """
        if isinstance(a, Fixed):
            self.freeze(b, a.cause)
            return a
        if isinstance(b, Fixed):
            self.freeze(a, b.cause)
            return b
        if a is not b:
            self._edges.append((a.reshape(-1), b.reshape(-1)))
        return a

    def solve(self) -> "Solution":
        """Find the groups of united atoms."""
        none: Ids = np.empty(0, dtype=np.int64)
        left = np.concatenate([none, *(a for a, _ in self._edges)])
        right = np.concatenate([none, *(b for _, b in self._edges)])
        roots = components(self.count, left, right)
        causes: dict[str, npt.NDArray[np.bool_]] = {}
        for ids, cause in self._frozen:
            marks = causes.setdefault(cause, np.zeros(self.count, dtype=np.bool_))
            marks[roots[ids]] = True
        frozen = np.zeros(self.count, dtype=np.bool_)
        for marks in causes.values():
            frozen |= marks
        return Solution(roots=roots, frozen=frozen, causes=causes)


@dataclass(frozen=True)
class Solution:
    """The groups of united atoms.

    Attributes:
        roots: shape (atoms,): each atom's group, named by its smallest atom.
        frozen: shape (atoms,), true at the roots of groups that must be kept.
        causes: why groups are frozen: cause to a mask like `frozen`.
    """

    roots: Ids
    frozen: npt.NDArray[np.bool_]
    causes: dict[str, npt.NDArray[np.bool_]]

    def free(self, dim: Ids) -> Ids:
        """The groups in a dimension that may be removed, each once, sorted."""
        roots = np.unique(self.roots[dim])
        return roots[~self.frozen[roots]]

    def causes_of(self, dim: Dim) -> set[str]:
        """Why a dimension, or some of its indices, cannot be removed."""
        if isinstance(dim, Fixed):
            return {dim.cause}
        roots = self.roots[dim]
        return {cause for cause, marks in self.causes.items() if marks[roots].any()}
