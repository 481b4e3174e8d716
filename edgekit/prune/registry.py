"""How an operator says what it does to dimensions: one small function, and a decorator.

A rule reads the dimensions of its inputs, unites what must be removed together, and returns the
dimensions of its output. A rewrite changes the operator's constant arguments (sizes, groups,
bounds) once it is known which indices stay.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch.fx import Node

from edgekit.prune.atoms import SINGLE, SYMBOLIC, Atoms, Dim, Dims, Fixed, Ids

Value = Dims | list[Dims] | None
Size = Any  # int or torch.SymInt


class Decline(Exception):  # noqa: N818 - not an error: the rule passes, and its operator freezes
    """Raised by a rule that cannot tell; its operator then freezes what it touches."""


class Kept(Protocol):
    """Which indices stay."""

    def mask(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """True where an atom is kept, shape like `ids`."""
        ...


@dataclass
class Choices:
    """Decisions between ways to factor a dimension (heads by head size, groups by channels).

    Attributes:
        taken: decision to the number of the candidate to take; the first where absent.
        probes: decision to its number of candidates and the atoms that it leaves free to remove.
    """

    taken: dict[str, int] = field(default_factory=dict)
    probes: dict[str, tuple[int, Ids]] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """What the user decides about coupling.

    Attributes:
        normalization: `prune` lets channels go that a layer norm, an RMS norm, or a mean runs over:
            what stays is normalised by its own statistics. `keep` freezes them.
        attention: node to `heads` or `head-dim`: which factor of an attention's view loses indices;
            None leaves it to the larger.
    """

    normalization: Literal["prune", "keep"] = "prune"
    attention: Callable[[Node], Literal["heads", "head-dim"] | None] = lambda _: None


@dataclass
class Op:
    """One call of an operator, seen by its rule.

    Attributes:
        node: the graph node.
        cause: what the report calls the operator, such as `aten.conv2d`.
        arguments: by the schema's names, defaults filled in.
        values: dimensions of every node so far.
        atoms: where atoms are made, united and frozen.
        choices: see `Choices`.
        policy: see `Policy`.
        scope: the sub-graph that the node is in, empty for the outermost graph.
    """

    node: Node
    cause: str
    arguments: dict[str, Any]
    values: dict[Node, Value]
    atoms: Atoms
    choices: Choices
    policy: Policy = Policy()
    scope: str = ""

    def dims(self, argument: str | Node) -> Dims:
        """Dimensions of a tensor argument."""
        node = self.arguments[argument] if isinstance(argument, str) else argument
        value = self.values.get(node) if isinstance(node, Node) else None
        if not isinstance(value, tuple):
            raise Decline
        return value

    def optional(self, argument: str) -> Dims | None:
        """Dimensions of a tensor argument that may be None."""
        return None if self.arguments.get(argument) is None else self.dims(argument)

    def shape(self, argument: str | Node) -> tuple[Size, ...]:
        """Sizes (int or SymInt) of a tensor argument."""
        node = self.arguments[argument] if isinstance(argument, str) else argument
        return tuple(node.meta["val"].shape)

    @property
    def out_shape(self) -> tuple[Size, ...]:
        """Sizes of the output, for operators with one output tensor."""
        return tuple(self.node.meta["val"].shape)

    def axis(self, argument: str, rank: int) -> int:
        """A dimension argument, counted from the front."""
        return int(self.arguments[argument]) % max(rank, 1)

    def freeze(self, dim: Dim | Iterable[Dim]) -> None:
        """Freeze a dimension, or several, on this operator's account."""
        for one in (dim,) if isinstance(dim, np.ndarray | Fixed) else dim:
            self.atoms.freeze(one, self.cause)

    def unite(self, *dims: Dim) -> Dim:
        """Couple dimensions index by index; returns what stands for all of them."""
        first = dims[0]
        for other in dims[1:]:
            first = self.atoms.unite(first, other)
        return first

    def fresh(self, size: Size) -> Dim:
        """A new dimension of the given size."""
        if not isinstance(size, int):
            return Fixed(SYMBOLIC)
        return Fixed(SINGLE) if size <= 1 else self.atoms.fresh(size)

    def ids(self, dim: Dim, size: int) -> Ids:
        """Atoms of a dimension; new frozen ones where it is fixed."""
        if isinstance(dim, Fixed):
            made = self.atoms.fresh(size)
            self.atoms.freeze(made, dim.cause)
            return made
        return dim

    def choose(self, key: str, candidates: int) -> int:
        """Which of several ways to take; `probe` then says what that leaves to remove."""
        return self.choices.taken.get(f"{self.scope}/{self.node.name}/{key}", 0) % candidates

    def probe(self, key: str, candidates: int, free: Ids) -> None:
        """Say which atoms a choice wants to keep removable, so that a dead end is seen."""
        self.choices.probes[f"{self.scope}/{self.node.name}/{key}"] = (candidates, free)

    def broadcast(self, operands: Sequence[tuple[Dims, Sequence[Size]]]) -> Dims:
        """Couple operands by NumPy's broadcasting.

        Args:
            operands: dimensions and sizes of each.

        Returns:
            the dimensions of the result.
        """
        rank = max(len(shape) for _, shape in operands)
        result: list[Dim] = []
        for back in range(rank, 0, -1):
            there = [
                dims[len(shape) - back]
                for dims, shape in operands
                if len(shape) >= back and not is_one(shape[len(shape) - back])
            ]
            result.append(self.unite(*there) if there else Fixed(SINGLE))
        return tuple(result)

    def set(self, argument: str, value: Any) -> None:
        """Replace an argument in the node, by the schema's name."""
        schema = self.node.target._schema  # type: ignore[union-attr]
        position = [a.name for a in schema.arguments].index(argument)
        if position < len(self.node.args):
            self.node.update_arg(position, value)
        else:
            self.node.update_kwarg(argument, value)
        self.arguments[argument] = value


def is_one(size: Size) -> bool:
    """Whether a size is the number 1 (a dynamic size never is)."""
    return isinstance(size, int) and size == 1


def count(kept: Kept, dim: Dim, size: Size) -> Any:
    """How many indices of a dimension stay; `size` where it is fixed."""
    return size if isinstance(dim, Fixed) else int(kept.mask(dim).sum())


Rule = Callable[[Op], Value]
Rewrite = Callable[[Op, Kept], None]


class Entry(NamedTuple):
    """A rule and its rewrite."""

    rule: Rule
    rewrite: Rewrite | None


RULES: dict[str, Entry] = {}


def rule(*operators: str, rewrite: Rewrite | None = None) -> Callable[[Rule], Rule]:
    """Register a rule.

    Args:
        operators: names in ATen, such as `conv2d`; all overloads.
        rewrite: how constant arguments change when indices are removed.
    """

    def register(function: Rule) -> Rule:
        for name in operators:
            RULES[f"aten::{name}"] = Entry(function, rewrite)
        return function

    return register
