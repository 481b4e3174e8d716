"""How steps learned: their curves, and what they knew by heart, from the history in their notes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.report.text import number

WIDTH, HEIGHT = 300, 90
_BARS = "▁▂▃▄▅▆▇█"
_LONGEST = 40  # epochs that a line of bars has room for


@dataclass(frozen=True)
class Curve:
    """One figure over the epochs.

    Attributes:
        name: what it is.
        first: its value after the first epoch, as text.
        last: after the last.
        bars: the curve as a line of text; longer ones are thinned.
        points: the curve as the points of an SVG line, within `WIDTH` and `HEIGHT`.
    """

    name: str
    first: str
    last: str
    bars: str
    points: str


@dataclass(frozen=True)
class Learning:
    """One step's training.

    Attributes:
        epochs: that were trained.
        said: how it ended, and the gap between training and held-out samples; may be empty.
        curves: its figures.
    """

    epochs: int
    said: str
    curves: tuple[Curve, ...]


def learning(notes: Mapping[str, Any]) -> Learning | None:
    """How a step learned, by the notes of its manifest; None where it did not train."""
    history = notes.get("history")
    if not isinstance(history, Mapping):
        return None
    epochs = history.get("epochs")
    if not isinstance(epochs, list | tuple) or not epochs:
        return None
    metric = history.get("metric")
    names = {"loss": "loss", "accuracy": "accuracy in training"}
    if isinstance(metric, str):
        names |= {"fit": f"{metric} on training samples", "validation": f"{metric} held out"}
    curves = [_curve(name, [_value(e, key) for e in epochs]) for key, name in names.items()]
    said = " ".join(filter(None, (_said(history), _shares(notes.get("data_shares")))))
    return Learning(len(epochs), said, tuple(c for c in curves if c is not None))


def _value(epoch: object, key: str) -> float:
    value = epoch.get(key) if isinstance(epoch, Mapping) else None
    return float(value) if isinstance(value, int | float) else math.nan


def _curve(name: str, values: Sequence[float]) -> Curve | None:
    if not all(map(math.isfinite, values)):
        return None
    low, high = min(values), max(values)
    heights = [(v - low) / (high - low) if high > low else 0.5 for v in values]
    step = -(-len(heights) // _LONGEST)
    bars = "".join(_BARS[round(h * (len(_BARS) - 1))] for h in heights[::step])
    across = WIDTH / max(len(heights) - 1, 1)
    points = " ".join(f"{i * across:.1f},{HEIGHT * (1 - h):.1f}" for i, h in enumerate(heights))
    return Curve(name, number(values[0], 4), number(values[-1], 4), bars, points)


def _shares(found: object) -> str:
    """What shares of the training samples came to, in a sentence or two."""
    rows = found.get("rows") if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(rows, list | tuple) or not rows:
        return ""
    parts = [
        f"{row['share']:.4g} ({row['samples']} samples) {number(row['value'], 4)},"
        f" {number(row['low'], 4)} to {number(row['high'], 4)}"
        for row in rows
    ]
    enough = found.get("enough")
    end = (
        f"A share of {enough:.4g} was enough." if enough != 1 else "None of the others was enough."
    )
    said = f"{rows[0]['metric']} by share of the training samples, with its 95 % interval"
    return f"{said[0].upper()}{said[1:]}: {'; '.join(parts)}. {end}"


def _said(history: Mapping[str, Any]) -> str:
    parts = []
    best, gap = history.get("best_epoch"), history.get("gap")
    if isinstance(best, int):
        parts.append(f"The weights of epoch {best} were kept.")
    if isinstance(gap, int | float):
        parts.append(f"Training samples minus held-out samples: {number(gap, 3)}.")
    return " ".join(parts)
