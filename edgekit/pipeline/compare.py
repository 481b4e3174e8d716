"""Hold a slow-down against what is allowed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgekit.errors import GateError

if TYPE_CHECKING:
    from edgekit.bench import Comparison


def slowdown(comparison: "Comparison") -> float | None:
    """How much slower the model is than its baseline, as a fraction; negative where it is faster.

    None where nothing was measured.
    """
    value = comparison.speedup.value
    return None if value is None or value <= 0 else 1 / value - 1


def worst_slowdown(comparison: "Comparison") -> float | None:
    """The unfavourable end of the slow-down's 95 % interval, None where there is no interval."""
    low = comparison.speedup.low
    return None if low is None or low <= 0 else 1 / low - 1


def broken(comparison: "Comparison", allowed: float, *, strict: bool = False) -> str:
    """Why a comparison is beyond what is allowed; empty where it is not.

    Args:
        comparison: of a model with its baseline.
        allowed: the largest slow-down, as a fraction.
        strict: the whole 95 % interval must lie within what is allowed, so that a noisy
            measurement fails. Otherwise only a slow-down that was really seen fails: the verdict
            is `slower`, and the measured ratio is beyond.
    """
    measured, worst = slowdown(comparison), worst_slowdown(comparison)
    who = f"{comparison.subject} against {comparison.baseline}"
    if measured is None:
        return f"{who}: the slow-down was not measured: {comparison.speedup.note}"
    interval = _interval(comparison)
    said = f"{who} takes {measured:+.1%} time {interval}; at most {allowed:+.1%} is allowed"
    if strict:
        if worst is None:
            return f"{said}, and there is no interval to hold: {comparison.speedup.note}"
        return f"{said} for the whole interval" if worst > allowed else ""
    return said if comparison.verdict == "slower" and measured > allowed else ""


def _interval(comparison: "Comparison") -> str:
    low, high = comparison.speedup.low, comparison.speedup.high
    if low is None or high is None or low <= 0:
        return "(no interval)"
    return f"[{1 / high - 1:+.1%}, {1 / low - 1:+.1%}]"


def raise_for_slowdown(
    comparisons: Mapping[str, "Comparison"], allowed: float, *, strict: bool = False
) -> None:
    """Turn a slow-down beyond what is allowed into an error.

    Raises:
        GateError: names each figure, its interval and what is allowed.
    """
    found = [text for c in comparisons.values() if (text := broken(c, allowed, strict=strict))]
    if found:
        raise GateError(
            f"{'; '.join(found)}.",
            "Make the model faster, or allow more with --max-slowdown.",
        )
