"""Quantities as people write them on a command line: `30m`, `5%`, `11ms`, `90Hz`, `1x3x224x224`."""

import math
import re

from edgekit.errors import UsageError

_SECONDS = {"": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_MILLISECONDS = {"": 1.0, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3}
_HERTZ = {"": 1.0, "hz": 1.0, "fps": 1.0, "/s": 1.0, "khz": 1e3}
_FORM = re.compile(r"([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([a-zA-Zµ/]*)")


def seconds(text: str, option: str) -> float:
    """Read a length of time such as `30m`, `90 s` or `1.5h`.

    Args:
        text: what the user wrote.
        option: the option's name, for the message.

    Returns:
        Seconds.

    Raises:
        UsageError: it is not a length of time above 0.
    """
    return _quantity(text, option, _SECONDS, "a length of time", "30m, 90s or 1.5h")


def milliseconds(text: str, option: str) -> float:
    """Read a short time such as `11` (milliseconds), `11ms` or `500us`; see `seconds`."""
    return _quantity(text, option, _MILLISECONDS, "a time", "11, 11ms or 500us")


def hertz(text: str, option: str) -> float:
    """Read a rate such as `30`, `30Hz` or `90fps`; see `seconds`."""
    return _quantity(text, option, _HERTZ, "a rate", "30, 30Hz or 90fps")


def share(text: str, option: str) -> float:
    """Read a share such as `5%` or `0.05`, as a fraction.

    Raises:
        UsageError: it is not a number from 0; or it is 1 or more without a `%`, which could mean
            either.
    """
    value, percent = _percent(text)
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"{option} {text!r} is not a share.", "Write 5% or 0.05.")
    if percent:
        return value / 100
    if value >= 1:
        raise UsageError(
            f"{option} {text!r} could mean {value:g} % or {value * 100:g} %.",
            f"Write {value:g}% or {value * 100:g}%.",
        )
    return value


def _percent(text: str) -> tuple[float, bool]:
    """A number, NaN where it is none, and whether a `%` follows it."""
    number, percent, rest = text.strip().partition("%")
    try:
        value = math.nan if rest else float(number)
    except ValueError:
        value = math.nan
    return value, bool(percent)


def part(text: str, option: str) -> float:
    """Read a part of a whole such as `0.99`, `99%` or `1`, as a fraction.

    Raises:
        UsageError: it is not a number above 0 and at most 1: such a limit never fails, or is never
            held.
    """
    value, percent = _percent(text)
    fraction = value / 100 if percent else value
    if 0 < fraction <= 1:
        return fraction
    known = not percent and 1 < value <= 100
    raise UsageError(
        f"{option} {text!r} is not a share: above 0 and at most 1.",
        f"Write {value:g}% or {value / 100:.10g}." if known else "Write 99% or 0.99.",
    )


def numbers(text: str | None, option: str) -> tuple[int, ...]:
    """Read whole numbers such as `0,1` or `0-3`.

    Raises:
        UsageError: it is not of that form.
    """
    found: list[int] = []
    for part in (text or "").split(",") if text is not None else ():
        match = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise UsageError(f"{option} {text!r} is not a list of CPUs.", "Write 0,1 or 0-3.")
        found.extend(range(first, last + 1))
    return tuple(dict.fromkeys(found))


def shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    """Read `--shape input=1x3x224x224` options.

    Raises:
        UsageError: one is not of that form.
    """
    found = {}
    for text in texts or []:
        name, _, rest = text.rpartition("=")
        parts = [part.strip() for part in re.split(r"[x,×]", rest)]
        if not name or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise UsageError(
                f"--shape {text!r} is not the shape of an input.",
                "Write --shape input=1x3x224x224.",
            )
        found[name.strip()] = tuple(map(int, parts))
    return found


def _quantity(text: str, option: str, units: dict[str, float], what: str, forms: str) -> float:
    match = _FORM.fullmatch(text.strip())
    scale = units.get(match[2].lower()) if match else None
    value = float(match[1]) * scale if match and scale is not None else math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{option} {text!r} is not {what}.", f"Write {forms}.")
    return value
