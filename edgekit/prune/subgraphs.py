"""Operators that call sub-graphs: branches, loops and scans. What they couple, and how they run.

A sub-graph's inputs are its operands: the same dimensions go through. What a branch gives is what
the other branch gives, and what a step of a loop gives is what the next step reads. Steps of a scan
lie along the first dimension, which stays.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edgekit.prune.atoms import WINDOW, Atoms, Fixed
from edgekit.prune.registry import Decline, Value

Inside = Callable[[Any, Sequence[Any]], Sequence[Any]]
"""Runs a sub-graph, named by an argument, on operands; over dimensions, or over tensors."""


class Ties:
    """What a rule does to the dimensions of whole tensors.

    Args:
        atoms: where dimensions are united and frozen.
        cause: what the report calls the operator.
    """

    def __init__(self, atoms: Atoms, cause: str) -> None:
        self.atoms, self.cause = atoms, cause

    def couple(self, first: Sequence[Value], second: Sequence[Value]) -> list[Value]:
        """Couple tensors pairwise."""
        return [self._pair(a, b) for a, b in zip(first, second, strict=True)]

    def _pair(self, a: Value, b: Value) -> Value:
        if not isinstance(a, tuple) or not isinstance(b, tuple):
            return a
        return tuple(self.atoms.unite(x, y) for x, y in zip(a, b, strict=True))

    def steps(self, values: Sequence[Value]) -> list[Value]:
        """One step of each tensor: without its first dimension, which is the steps'."""
        for value in values:
            if isinstance(value, tuple):
                self.atoms.freeze(value[0], self.cause)
        return [v[1:] if isinstance(v, tuple) else v for v in values]

    def stacked(self, values: Sequence[Value]) -> list[Value]:
        """What every step gives, one after the other."""
        return [(Fixed(WINDOW), *v) if isinstance(v, tuple) else v for v in values]


def couple(name: str, args: Sequence[Any], inside: Inside, ties: Ties) -> list[Value]:
    """The dimensions of what an operator gives.

    Args:
        name: of the operator, such as `cond`.
        args: its arguments, dimensions in the place of tensors.
        inside: walks a sub-graph.
        ties: couples and freezes.

    Raises:
        Decline: an operator that is not known.
    """
    if name == "cond":
        _, yes, no, operands = args
        return ties.couple(inside(yes, operands), inside(no, operands))
    if name == "while_loop":
        go_on, body, carried, others = args
        inside(go_on, (*carried, *others))
        return ties.couple(carried, inside(body, (*carried, *others)))
    if name == "scan":
        body, carried, rows, others = args
        given = inside(body, (*carried, *ties.steps(rows), *others))
        kept = ties.couple(carried, given[: len(carried)])
        return [*kept, *ties.stacked(given[len(carried) :])]
    if name == "map_impl":
        body, rows, others = args
        return ties.stacked(inside(body, (*ties.steps(rows), *others)))
    raise Decline


def run(name: str, args: Sequence[Any], inside: Inside) -> Sequence[Any] | None:
    """Compute what an operator gives, one sub-graph after the other.

    Args:
        name: as above.
        args: with the tensors themselves.
        inside: runs a sub-graph on tensors.

    Returns:
        the outputs; None for an operator that is not known.
    """
    if name == "cond":
        choice, yes, no, operands = args
        return inside(yes if choice else no, operands)
    if name == "while_loop":
        go_on, body, carried, others = args
        while inside(go_on, (*carried, *others)):
            carried = inside(body, (*carried, *others))
        return tuple(carried)
    if name in ("scan", "map_impl"):
        body, carried, rows, others = args if name == "scan" else (args[0], (), *args[1:])
        made: list[Sequence[Tensor]] = []
        for step in range(len(rows[0])):
            given = inside(body, (*carried, *(row[step] for row in rows), *others))
            carried = given[: len(carried)]
            made.append(given[len(carried) :])
        return (*carried, *(torch.stack(column) for column in zip(*made, strict=True)))
    return None
