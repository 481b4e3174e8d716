"""The multiple-choice knapsack: one option for each layer, least loss, total cost within a budget.

Solved exactly over the frontier of (cost, loss) pairs, layer by layer: a partial choice that costs
no less and loses no less than another is dropped. Where a frontier grows beyond `STATES`, only
the least loss of each cell of a grid over the costs is kept: the budget still holds, and the best
choice may be missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

STATES = 20_000


@dataclass(frozen=True)
class Option:
    """One way to compute a layer.

    Attributes:
        name: such as `int8`.
        cost: in the budget's unit; may be any finite number.
        loss: what it does to the network's outputs, not negative; losses add up.
    """

    name: str
    cost: float
    loss: float


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        options: the index of each layer's option.
        cost: of all.
        loss: of all.
    """

    options: tuple[int, ...]
    cost: float
    loss: float


_State = tuple[float, float, "tuple[int, object] | None"]  # cost, loss, (option, the one before)


def solve(layers: Sequence[Sequence[Option]], budget: float) -> Choice | None:
    """Choose one option for each layer.

    Args:
        layers: each layer's options, at least one.
        budget: most that all may cost together.

    Returns:
        The choice with the least loss, of equals the cheapest; None where even the cheapest options
        cost more than the budget.
    """
    least = [min(o.cost for o in options) for options in layers]
    rest = sum(least)
    if rest > budget:
        return None
    grid = 0.0
    states: list[_State] = [(0.0, 0.0, None)]
    for options, cheapest in zip(layers, least, strict=True):
        rest -= cheapest
        grown: list[_State] = [
            (cost + o.cost, loss + o.loss, (index, before))
            for cost, loss, before in states
            for index, o in enumerate(options)
            if cost + o.cost + rest <= budget + 1e-12 * (1 + abs(budget))
        ]
        states = _frontier(grown)
        if len(states) > STATES:
            grid = grid or max(budget, 0.0) / STATES
            states = _thinned(states, grid)
    cost, loss, link = min(states, key=lambda s: (s[1], s[0]))
    return Choice(_unwound(link), cost, loss)


def _frontier(states: list[_State]) -> list[_State]:
    states.sort(key=lambda s: (s[0], s[1]))
    kept: list[_State] = []
    for state in states:
        if not kept or state[1] < kept[-1][1]:
            kept.append(state)
    return kept


def _thinned(states: list[_State], grid: float) -> list[_State]:
    """Of states in one cell of the grid, the one with the least loss: the last of a frontier."""
    if grid <= 0:
        return states
    last = {int(cost / grid): (cost, loss, link) for cost, loss, link in states}
    return list(last.values())


def _unwound(link: object) -> tuple[int, ...]:
    found: list[int] = []
    while isinstance(link, tuple):
        found.append(link[0])
        link = link[1]
    return tuple(reversed(found))
