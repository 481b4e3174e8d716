"""Geometry of the HTML report's two plots; the templates only draw what stands here.

Coordinates are user units of an SVG whose width and height are given; y grows downwards.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekit.report.schema import Figure, StepReport
from edgekit.report.text import bytes_text, count_text, exact_text, number

WIDTH, HEIGHT = 520, 370
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 36, 44  # a point at the top has its name above it
_CHAR = 7.0  # width of a character, with room for the larger type on a phone
_LINE = 15.0
_CROWDED = 0.15  # share of a name that others may cover
_MARGIN = 6.0  # by so much a name is nearer to its own point than to any other
_NEAR = 9.0  # points closer than this lie on one another
BAR_WIDTH, BAR_ROW, _LONGEST_NAME = 340, 36, 26


@dataclass(frozen=True)
class Tick:
    """A tick at `at`, with its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Point:
    """One artifact in the plot of metric against latency, with its interval on both axes."""

    name: str
    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float
    kind: str
    said: str


@dataclass(frozen=True)
class Text:
    """The name of a point, or of several that lie on one another."""

    text: str
    x: float
    y: float
    anchor: str
    kind: str


@dataclass(frozen=True)
class Scatter:
    """Metric against latency."""

    points: tuple[Point, ...]
    labels: tuple[Text, ...]
    xs: tuple[Tick, ...]
    ys: tuple[Tick, ...]
    absent: tuple[str, ...]
    from_zero: bool
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM
    width: float = WIDTH
    height: float = HEIGHT


def scatter(steps: Sequence[StepReport]) -> Scatter | None:
    """Place the steps whose metric and latency are both known; None for fewer than two of them."""
    known = [s for s in steps if s.metric.value is not None and s.latency_p50_ms.value is not None]
    if len(known) < 2:
        return None
    unit = known[0].metric.unit
    xs = nice_ticks(0.0, max(_ends(s.latency_p50_ms)[1] for s in known) * 1.06)
    low = min(_ends(s.metric)[0] for s in known)
    high = max(_ends(s.metric)[1] for s in known)
    pad = max((high - low) * 0.12, abs(high) * 0.005, 1e-9)
    low, high = low - pad, high + pad
    if unit == "fraction":
        low, high = max(low, 0.0), min(high, 1.0)
    ys = nice_ticks(low, high)

    def x_of(v: float) -> float:
        return _LEFT + (v - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - _LEFT - _RIGHT)

    def y_of(v: float) -> float:
        return HEIGHT - _BOTTOM - (v - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - _TOP - _BOTTOM)

    spots = []
    for i, step in enumerate(known):
        (x_low, x_high), (y_low, y_high) = _ends(step.latency_p50_ms), _ends(step.metric)
        spots.append(
            Point(
                name=step.name,
                x=_r(x_of(step.latency_p50_ms.value or 0.0)),
                y=_r(y_of(step.metric.value or 0.0)),
                left=_r(x_of(x_low)),
                right=_r(x_of(x_high)),
                top=_r(y_of(y_high)),
                bottom=_r(y_of(y_low)),
                kind="first" if i == 0 else "last" if i == len(known) - 1 else "middle",
                said=f"{step.name}: {step.metric.format()}, {step.latency_p50_ms.format()}",
            )
        )
    points = tuple(spots)
    return Scatter(
        points=points,
        labels=_place_labels(points),
        xs=tuple(Tick(_r(x_of(v)), exact_text(v, "")) for v in xs),
        ys=tuple(Tick(_r(y_of(v)), exact_text(v, unit)) for v in ys),
        absent=tuple(s.name for s in steps if s not in known),
        from_zero=ys[0] == 0,
    )


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Choose round ticks that span [low, high], about `wanted` of them, 1, 2 or 5 times 10^k apart.

    Raises:
        ValueError: the span is empty.
    """
    if not high > low:
        raise ValueError(f"no span between {low} and {high}")
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _ends(figure: Figure) -> tuple[float, float]:
    value = figure.value or 0.0
    low = value if figure.low is None else min(figure.low, value)
    high = value if figure.high is None else max(figure.high, value)
    return low, high


def _place_labels(points: Sequence[Point]) -> tuple[Text, ...]:
    """Put each name beside its point where it covers no point, no interval and no other name.

    Points that lie on one another share one name. The last step chooses first. In a crowd, a name
    that would be unreadable is left out; the description and the table have it.
    """
    taken = [(p.x - 7, p.y - 7, p.x + 7, p.y + 7) for p in points]
    taken += [(p.x - 2, p.top, p.x + 2, p.bottom) for p in points]
    groups: list[list[Point]] = []
    for point in reversed(points):
        near = (g for g in groups if math.dist((g[0].x, g[0].y), (point.x, point.y)) < _NEAR)
        group = next(near, None)
        groups.append([point]) if group is None else group.insert(1, point)
    labels = []
    for group in groups:
        first = group[0]
        others = [p for p in points if p not in group]
        found = [
            (_astray(box, first, others), _overlap(box, taken), i, text, box, x, anchor)
            for i, text in enumerate(_names(group))
            for box, x, anchor in _choices(first.x, first.y, len(text) * _CHAR)
        ]
        astray, covered, _, text, box, x, anchor = min(found, key=lambda c: c[:3])
        crowded = covered > _CROWDED * len(text) * _CHAR * _LINE
        if first.kind == "middle" and (crowded or astray):
            continue
        taken.append(box)
        labels.append(Text(text, _r(x), _r(box[3] - 3), anchor, first.kind))
    return tuple(labels)


def _names(group: Sequence[Point]) -> list[str]:
    """What points on one spot may be called: all their names, or the first and the last."""
    names = [p.name for p in [*group[1:], group[0]]]
    whole = _shorten(", ".join(names), _LONGEST_NAME + 8)
    if len(names) < 3:
        return [whole]
    return [whole, _shorten(f"{names[0]} … {names[-1]}", _LONGEST_NAME + 8)]


def _astray(box: "_Box", own: Point, others: Iterable[Point]) -> bool:
    """Whether a name would be read as that of another point: it lies as near to that one."""
    reach = _distance(box, own) + _MARGIN
    return any(_distance(box, other) < reach for other in others)


def _distance(box: "_Box", point: Point) -> float:
    wide = max(box[0] - point.x, 0.0, point.x - box[2])
    high = max(box[1] - point.y, 0.0, point.y - box[3])
    return math.hypot(wide, high)


_Box = tuple[float, float, float, float]


def _choices(x: float, y: float, width: float) -> list[tuple[_Box, float, str]]:
    """Where a label may stand, best first: its box, its x and its anchor; never off the plot."""
    found = []
    for down in (-8.0, 16.0, -8.0 - _LINE, 16.0 + _LINE):
        for anchor, left in (("start", x + 10), ("end", x - 10 - width)):
            box = (left, y + down - 11, left + width, y + down + 3)
            at = left if anchor == "start" else left + width
            found.append((box, at, anchor))
    for down in (-12.0, 22.0, -12.0 - _LINE):
        box = (x - width / 2, y + down - 11, x + width / 2, y + down + 3)
        found.append((box, x, "middle"))
    inside = [c for c in found if c[0][0] >= _LEFT and c[0][2] <= WIDTH]
    return inside or found[:1]


def _overlap(box: _Box, others: Iterable[_Box]) -> float:
    total = 0.0
    for other in others:
        wide = min(box[2], other[2]) - max(box[0], other[0])
        high = min(box[3], other[3]) - max(box[1], other[1])
        total += max(wide, 0.0) * max(high, 0.0)
    return total


@dataclass(frozen=True)
class Bar:
    """One bar: its length and, where known, the ends of its interval."""

    name: str
    text: str
    y: float
    width: float
    low: float | None
    high: float | None
    kind: str


@dataclass(frozen=True)
class Bars:
    """One measure of every step, relative to the original."""

    title: str
    slug: str
    bars: tuple[Bar, ...]
    baseline: float
    height: float
    said: str
    hint: str
    width: float = BAR_WIDTH


def bars(steps: Sequence[StepReport]) -> tuple[Bars, ...]:
    """Latency, size and MACs of the steps relative to the first one; measures unknown left out."""
    measures = (
        ("Latency", "latency", [_latency_ratio(s, steps[0]) for s in steps]),
        ("Size", "size", [_ratio(s.size_bytes, steps[0].size_bytes, bytes_text) for s in steps]),
        ("MACs", "macs", [_ratio(s.macs, steps[0].macs, count_text) for s in steps]),
    )
    panels = (_bars(title, slug, steps, ratios) for title, slug, ratios in measures)
    return tuple(panel for panel in panels if panel is not None)


_Ratio = tuple[float, float | None, float | None, str]
_HINTS = {
    "latency": "The median; per cent of the original in paired, interleaved runs, which need not be"
    " the ratio of the two medians."
}


def _latency_ratio(step: StepReport, original: StepReport) -> _Ratio | None:
    value, base = step.latency_p50_ms.value, original.latency_p50_ms.value
    if value is None or not base:
        return None
    text = step.latency_p50_ms.format(interval=False)
    speedup = step.speedup
    if speedup.value and step is not original:
        low = 1 / speedup.high if speedup.high else None
        high = 1 / speedup.low if speedup.low else None
        return 1 / speedup.value, low, high, text
    return value / base, None, None, text


def _ratio(now: int | None, original: int | None, write: object) -> _Ratio | None:
    if now is None or not original or not callable(write):
        return None
    return now / original, None, None, str(write(now))


def _bars(
    title: str, slug: str, steps: Sequence[StepReport], ratios: Sequence[_Ratio | None]
) -> Bars | None:
    known = [(s, r) for s, r in zip(steps, ratios, strict=True) if r is not None]
    if len(known) < 2:
        return None
    longest = max(1.0, *(max(r[0], r[2] or 0.0) for _, r in known))
    scale = BAR_WIDTH / longest
    drawn = []
    for i, (step, (ratio, low, high, text)) in enumerate(known):
        percent = f"{number(ratio * 100, 0 if ratio >= 0.1 else 1)} %"
        drawn.append(
            Bar(
                name=_shorten(step.name),
                text=f"{text} · {percent}",
                y=float(i * BAR_ROW),
                width=_r(max(ratio * scale, 1.0)),
                low=None if low is None else _r(low * scale),
                high=None if high is None else _r(high * scale),
                kind="first" if i == 0 else "other",
            )
        )
    said = "; ".join(f"{s.name}: {b.text}" for (s, _), b in zip(known, drawn, strict=True))
    height = float(len(known) * BAR_ROW)
    return Bars(title, slug, tuple(drawn), _r(scale), height, said, _HINTS.get(slug, ""))


def _shorten(name: str, longest: int = _LONGEST_NAME) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _r(value: float) -> float:
    return round(value, 1)
