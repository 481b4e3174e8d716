"""How numbers are written: enough digits for their interval, units that a person reads."""

import math
import unicodedata

TIMES = "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SUFFIX = {"x": TIMES, "": ""}
_JOULES = ((1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"))
_SCALED = {
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "j": _JOULES,
    "J": _JOULES,
}


def figure_text(
    value: float | None,
    low: float | None,
    high: float | None,
    unit: str,
    *,
    signed: bool = False,
) -> str:
    """Write a value and its interval on one line: `0.184 ms [0.181, 0.187]`."""
    main, interval = figure_parts(value, low, high, unit, signed=signed)
    return f"{main} {interval}".rstrip()


def figure_parts(
    value: float | None,
    low: float | None,
    high: float | None,
    unit: str,
    *,
    signed: bool = False,
) -> tuple[str, str]:
    """Write a value, and its interval apart: `0.184 ms` and `[0.181, 0.187]`.

    A lone upper bound is `≤ 0.31 ms`, a lone lower bound `≥ 0.31 ms`, nothing `unavailable`. Three
    significant digits, more where the interval is so narrow that three would hide it.

    Args:
        value: the figure in `unit`.
        low: lower end of its interval.
        high: upper end of its interval.
        unit: see `Figure.unit`.
        signed: write a plus before positive numbers.
    """
    known = [v for v in (value, low, high) if v is not None]
    if not known:
        return "unavailable", ""
    factor, suffix = _scale(max(abs(v) for v in known), unit)
    # A one-sided bound says nothing of how precise the value is: only an interval sets its digits.
    ends = known if low is not None and high is not None else known[:1]
    digits = _decimals([v * factor for v in ends], value is not None)

    def text(v: float) -> str:
        return number(v * factor, digits, signed=signed)

    if value is None:
        if low is not None and high is not None:
            return f"[{text(low)}, {text(high)}]{suffix}", ""
        return _one_sided(low, high, factor) + suffix, ""
    interval = ""
    if low is not None and high is not None:
        interval = f"[{text(low)}, {text(high)}]"
    elif low is not None or high is not None:
        interval = f"({_one_sided(low, high, factor)})"
    return text(value) + suffix, interval


def microseconds_text(value_ms: float) -> str:
    """Write milliseconds that were counted in whole microseconds: three significant digits at most.

    Args:
        value_ms: the time, milliseconds.
    """
    if 0 < value_ms < 0.0005:
        return "< 0.001 ms"
    digits = 2 - math.floor(math.log10(value_ms)) if value_ms > 0 else 3
    return f"{number(value_ms, min(max(digits, 0), 3))} ms"


def share_text(value: float | None) -> str:
    """Write a rough share of 0 to 1 in whole per cent."""
    if value is None:
        return DASH
    return "< 1 %" if 0 < value < 0.005 else f"{number(value * 100, 0)} %"


def exact_text(value: float, unit: str) -> str:
    """Write a number that somebody chose, such as a budget, with the digits they gave."""
    factor, suffix = _scale(abs(value), unit)
    digits = f"{value * factor:.10g}".replace("-", MINUS)
    return digits + (" point" if unit == "points" and value == 1 else suffix)


def number(value: float, decimals: int, *, signed: bool = False) -> str:
    """Write one number with a real minus sign, no minus zero, and thin groups of thousands."""
    rounded = round(value, decimals) + 0.0
    text = f"{abs(rounded):,.{decimals}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    if rounded < 0:
        return MINUS + text
    return f"+{text}" if signed and rounded > 0 else text


def _one_sided(low: float | None, high: float | None, factor: float) -> str:
    if high is not None:
        return f"≤ {_bound(high * factor, upper=True)}"
    return f"≥ {_bound((low or 0.0) * factor, upper=False)}"


def _bound(value: float, *, upper: bool) -> str:
    """Write a one-sided bound, rounded to the side on which it stays true."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    unit = 10.0**digits
    # A hair of slack, so that 0.31 does not become 0.311 for its binary representation.
    safe = math.ceil(value * unit - 1e-9) if upper else math.floor(value * unit + 1e-9)
    text = number(safe / unit, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scale(largest: float, unit: str) -> tuple[float, str]:
    if unit == "fraction":
        return 100.0, " %"
    if unit not in _SCALED:
        return 1.0, _SUFFIX.get(unit, f" {unit}")
    steps = _SCALED[unit]
    size, name = next(((s, n) for s, n in steps if largest >= s), steps[-1])
    return 1 / size, f" {name}"


def _decimals(known: list[float], has_value: bool) -> int:
    """Choose decimals: three significant digits, and one of the interval's half-width."""
    first = abs(known[0]) if has_value else max(abs(v) for v in known)
    wanted = 2 - math.floor(math.log10(first)) if first > 0 else 1
    spread = max(known) - min(known)
    if spread > 0:
        half = -math.floor(math.log10(spread / 2 * 1.000001))
        # A value near zero needs no more digits than its interval.
        wanted = max(half, min(wanted, half + 1))
    return min(max(wanted, 0), 9)


def count_text(value: float | None) -> str:
    """Write a count such as MACs with a prefix: `12.4 M`."""
    if value is None:
        return "unavailable"
    for size, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            scaled = value / size
            return number(scaled, max(0, 2 - math.floor(math.log10(abs(scaled))))) + prefix
    return number(value, 0)


def bytes_text(value: float | None) -> str:
    """Write a size in decimal units: `77.2 kB`."""
    if value is not None and value < 1000:
        return f"{number(value, 0)} B"
    return figure_text(value, None, None, "bytes")


def seconds_text(value: float | None) -> str:
    """Write a duration: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 04 min`."""
    if value is None:
        return "unavailable"
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def printable(text: object) -> str:
    """Replace what could hide or reorder text: control and bidirectional-override characters."""
    return "".join(_visible(c) for c in str(text))


def _visible(char: str) -> str:
    if char in "\n\t\r":
        return " "
    hidden = unicodedata.category(char) in {"Cc", "Cs"} or char in _BIDI
    return "\N{REPLACEMENT CHARACTER}" if hidden or char in "\ufffe\uffff" else char
