"""How many groups of each family to keep, under a budget that is met exactly from below.

The counts that a family may keep (multiples of the target's channel count, not below the minimum)
are its *levels*. A plan starts below the budget and then gives back levels while they fit, so that
no single level more would fit in the end.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import Protocol

import numpy as np

from edgekit.prune.config import PruneConfig
from edgekit.prune.families import Counts, Families, Family
from edgekit.prune.importance import Scores


class Model(Protocol):
    """What a budget counts: MACs, weights, bytes, or what was measured on a device.

    It is asked for whole plans and need not be monotone, nor a sum over families: a plan that is
    found fits the budget by the model's own answer.
    """

    def __call__(self, kept: Counts) -> float:
        """What a plan costs.

        Args:
            kept: number of groups that stay of each family, shape (families,).
        """
        ...


_PRICES = (1e-6, 1e6)  # of all of a budget, in all that can be lost
_HALVINGS, _SWEEPS, _CANDIDATES = 30, 6, 33


@dataclass(frozen=True)
class Plan:
    """How many groups of each family stay.

    Attributes:
        kept: shape (families,).
        fits: whether the budget was met.
        value: what the budget's model says of the plan.
    """

    kept: Counts
    fits: bool
    value: float


def levels_of(family: Family, config: PruneConfig) -> list[int]:
    """The numbers of groups that a family may keep, rising; the last is all of them."""
    total = int(family.groups.size)
    unit = 1
    if config.multiple is not None:
        unit = config.multiple // gcd(config.multiple, family.channels)
    lowest = -(-config.minimum_channels // family.channels)
    first = max(-(-lowest // unit) * unit, unit)
    return [*range(first, total, unit), total]


def nearest_level(levels: list[int], target: float) -> int:
    """The level next to a wanted count; of two as near, the larger."""
    return min(levels, key=lambda level: (abs(level - target), -level))


def allocate(
    families: Families,
    config: PruneConfig,
    scores: list[Scores],
    model: Model,
    budget: float,
    fixed: dict[int, float],
) -> Plan:
    """Decide how many groups of each family to keep.

    Args:
        families: of the graph.
        config: allocation, minimum and multiple.
        scores: of each family's groups.
        model: what the budget counts.
        budget: most that `model` may say.
        fixed: family number to its own sparsity.

    Returns:
        the plan; where the budget cannot be met, the smallest there is.
    """
    levels = [levels_of(f, config) for f in families.families]
    for number, ratio in fixed.items():
        total = levels[number][-1]
        levels[number] = [nearest_level(levels[number], (1 - ratio) * total)]
    smallest = np.array([row[0] for row in levels], dtype=np.int64)
    least = model(smallest)
    if least > budget:
        return Plan(smallest, fits=False, value=least)
    if config.allocating == "global":
        kept = _global(levels, scores, model, budget)
    elif config.allocating == "sensitivity":
        kept = _cheapest(levels, [_losses(s) for s in scores], model, budget)
    else:
        kept = _uniform(levels, model, budget)
    return Plan(kept, fits=True, value=model(kept))


def same_ratio(families: Families, config: PruneConfig, fixed: dict[int, float]) -> Counts:
    """Keep the level nearest to the same fraction of every family; `fixed` have their own."""
    sparsity = config.sparsity or 0.0
    return np.array(
        [
            nearest_level(levels_of(f, config), (1 - fixed.get(i, sparsity)) * f.groups.size)
            for i, f in enumerate(families.families)
        ],
        dtype=np.int64,
    )


def _below(levels: list[int], target: float) -> int:
    """The largest level at or below a wanted count, the smallest where there is none."""
    fitting = [level for level in levels if level <= target]
    return fitting[-1] if fitting else levels[0]


def _uniform(levels: list[list[int]], model: Model, budget: float) -> Counts:
    def at(fraction: float) -> Counts:
        return np.array([_below(row, fraction * row[-1]) for row in levels], dtype=np.int64)

    low, high = 0.0, 1.0
    if model(at(1.0)) <= budget:
        return at(1.0)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if model(at(middle)) <= budget else (low, middle)
    kept = at(low)
    while True:
        order = sorted(range(len(levels)), key=lambda i: (kept[i] / levels[i][-1], i))
        if not any(_give_back(levels[i], kept, i, model, budget) for i in order):
            return kept


def _give_back(levels: list[int], kept: Counts, number: int, model: Model, budget: float) -> bool:
    """Raise one family by one level, in place, if the budget still holds."""
    position = levels.index(int(kept[number]))
    if position + 1 == len(levels):
        return False
    before = kept[number]
    kept[number] = levels[position + 1]
    if model(kept) <= budget:
        return True
    kept[number] = before
    return False


def _global(levels: list[list[int]], scores: list[Scores], model: Model, budget: float) -> Counts:
    """Take the least important chunks of all families until the budget holds."""
    steps: list[tuple[float, float, int, int]] = []  # score, -share, family, level
    for number, row in enumerate(levels):
        ranked = np.sort(scores[number])[::-1]
        worst = 0.0
        for low, high in reversed(list(pairwise(row))):
            worst = max(worst, float(ranked[low:high].mean()))
            steps.append((worst, -low / row[-1], number, low))
    steps.sort()

    def at(taken: int) -> Counts:
        kept = np.array([row[-1] for row in levels], dtype=np.int64)
        for _, _, number, low in steps[:taken]:
            kept[number] = low
        return kept

    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if model(at(middle)) <= budget else (middle + 1, high)
    kept = at(low)
    again = True
    while again:
        again = False
        for _, _, number, remains in reversed(steps[:low]):
            if kept[number] == remains:
                again |= _give_back(levels[number], kept, number, model, budget)
    return kept


def _losses(scores: Scores) -> Scores:
    """What is lost with k of n groups left, for k from 0 to n: shape (n + 1,), 0 at the end.

    With a share e of a layer's importance gone, -log(1 - e): what is left of one layer multiplies
    with what is left of the next, and no layer may lose all.
    """
    removed = np.concatenate([[0.0], np.cumsum(np.sort(scores))]) / max(scores.size, 1)
    whole = max(float(removed[-1]), 1e-30)
    lost: Scores = -whole * np.log1p(-removed / whole * (1 - 1e-9))
    return lost[::-1]


def _cheapest(levels: list[list[int]], losses: list[Scores], model: Model, budget: float) -> Counts:
    """Lose least in all for the budget: least loss + price x value, at the price that meets it."""
    low, high = _PRICES
    scale = max(sum(float(loss[0]) for loss in losses), 1e-30) / model(
        np.array([row[-1] for row in levels], dtype=np.int64)
    )
    best = np.array([row[0] for row in levels], dtype=np.int64)
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        kept = _at_price(levels, losses, model, middle * scale)
        if model(kept) <= budget:
            high, best = middle, kept
        else:
            low = middle
    while True:
        # Give back first where a level saves most; of equals, in the graph's order.
        saved = [_saved(r, loss, k) for r, loss, k in zip(levels, losses, best, strict=True)]
        order = sorted(range(len(levels)), key=lambda i: (-saved[i], i))
        if not any(_give_back(levels[i], best, i, model, budget) for i in order):
            return best


def _saved(levels: list[int], loss: Scores, kept: int) -> float:
    """What one level more would save."""
    position = levels.index(int(kept))
    following = levels[min(position + 1, len(levels) - 1)]
    return float(loss[kept] - loss[following])


def _at_price(levels: list[list[int]], losses: list[Scores], model: Model, price: float) -> Counts:
    """Least loss + price x value, family by family until none changes any more."""
    kept = np.array([row[-1] for row in levels], dtype=np.int64)
    rows = [_spread(row) for row in levels]
    for _ in range(_SWEEPS):
        before = kept.copy()
        for number, row in enumerate(rows):
            found = []
            for level in row:
                kept[number] = level
                found.append(float(losses[number][level]) + price * model(kept))
            kept[number] = row[int(np.argmin(found))]
        if np.array_equal(before, kept):
            break
    return kept


def _spread(levels: list[int]) -> list[int]:
    """At most `_CANDIDATES` of the levels, the first and the last among them."""
    if len(levels) <= _CANDIDATES:
        return levels
    step = (len(levels) - 1) / (_CANDIDATES - 1)
    return [levels[round(i * step)] for i in range(_CANDIDATES)]
