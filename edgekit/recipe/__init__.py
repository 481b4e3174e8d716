"""The recipe: what to do to a network, as data. It is checked whole before torch is imported."""

from edgekit.recipe.reader import keys_at, load, nearest_hint, parse
from edgekit.recipe.schema import BASELINES, AnyPass, Branch, Gate, Gates, Recipe

__all__ = [
    "BASELINES",
    "AnyPass",
    "Branch",
    "Gate",
    "Gates",
    "Recipe",
    "keys_at",
    "load",
    "nearest_hint",
    "parse",
]
