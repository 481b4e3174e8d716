"""Gates: what was measured, held against what the recipe allows."""

import math
from collections.abc import Sequence

from edgekit.errors import GateError
from edgekit.recipe import Gate, Gates
from edgekit.report.schema import Figure, GateReport, Outcome, RunReport, StepReport

_AT_LEAST = frozenset({"speedup", "agreement", "size_ratio", "macs_ratio"})
_MB = 1e6
_UNITS = {
    "agreement": "fraction",
    "speedup": "x",
    "p50_ms": "ms",
    "p90_ms": "ms",
    "p99_ms": "ms",
    "size_mb": "MB",
    "size_ratio": "x",
    "macs_ratio": "x",
    "energy_j": "j",
}


def hold(
    gates: Gates, branch: str, original: StepReport, steps: Sequence[StepReport]
) -> tuple[GateReport, ...]:
    """Hold a branch's gates against its last artifact.

    Accuracy, agreement and MACs are a property of the network: where the last artifact cannot run
    here (an engine without its GPU), those of the file that it was built from count, and the
    message says so.

    Args:
        gates: the recipe's budgets.
        branch: the branch's name.
        original: the original as measured for this branch's target.
        steps: the steps that led to the last artifact, the last one last.
    """
    return tuple(
        _hold(name, gate, branch, _observe(name, original, steps))
        for name, gate in gates.given().items()
    )


def not_judged(
    gates: Gates, branch: str, original: StepReport, reason: str
) -> tuple[GateReport, ...]:
    """A branch's gates where it ended before there was anything to hold them against.

    Args:
        gates: the recipe's budgets.
        branch: the branch's name.
        original: the original, whose metric says in what unit a drop of it is.
        reason: a clause that says why, without a full stop.
    """
    return tuple(
        GateReport(
            name=name,
            branch=branch,
            budget=gate.budget,
            at_most=name not in _AT_LEAST,
            observed=Figure.unavailable(_UNITS.get(name, original.metric.unit), reason),
            passed=False,
            outcome="not judged",
            message=f"{name} was not judged: {reason}.",
        )
        for name, gate in gates.given().items()
    )


def _observe(name: str, original: StepReport, steps: Sequence[StepReport]) -> tuple[Figure, str]:
    """The figure that a gate looks at, and the step that it belongs to."""
    last = steps[-1]
    if name == "accuracy_drop":
        return _latest([(s.metric_drop, s.name) for s in steps])
    if name == "agreement":
        return _latest([(s.changes.agreement, s.name) for s in steps if s.changes])
    if name == "macs_ratio":
        return _latest([(_ratio(original.macs, s.macs), s.name) for s in steps])
    if name == "size_ratio":
        return _ratio(original.size_bytes, last.size_bytes), last.name
    if name == "size_mb":
        size = last.size_bytes
        return (
            Figure(value=size / _MB, unit="MB") if size is not None else Figure.unavailable("MB"),
            last.name,
        )
    figures = {
        "speedup": last.speedup,
        "p50_ms": last.latency_p50_ms,
        "p90_ms": last.latency_p90_ms,
        "p99_ms": last.latency_p99_ms,
        "energy_j": last.energy_j,
    }
    return figures[name], last.name


def _latest(figures: Sequence[tuple[Figure, str]]) -> tuple[Figure, str]:
    for figure, step in reversed(figures):
        if figure.label not in {"unavailable", "derived"}:
            return figure, step
    return figures[-1] if figures else (Figure.unavailable(), "")


def _ratio(original: int | None, now: int | None) -> Figure:
    if original is None or not now:
        return Figure.unavailable("x", "The file does not tell.")
    return Figure(value=original / now, unit="x")


def _hold(name: str, gate: Gate, branch: str, found: tuple[Figure, str]) -> GateReport:
    observed, step = found
    at_most = name not in _AT_LEAST
    value = observed.value
    bound, other = observed.high, observed.low
    if not at_most:
        bound, other = other, bound
    if gate.on == "bound" and bound is not None:
        value = bound
    end = _which_end(observed, gate, value)
    one_sided = gate.on == "bound" and bound is None and other is not None
    outcome: Outcome
    if observed.label == "unavailable" or value is None or math.isnan(value):
        outcome = "not measured"
        why = f"was not measured: {(observed.note or 'no figure').rstrip('.')}"
    elif one_sided:
        outcome = "not measured"
        why = f"has no {'upper' if at_most else 'lower'} bound: {observed.note}"
    elif observed.label == "estimated" and gate.allow != "estimated":
        outcome = "only estimated"
        why = f"is only estimated ({value:.4g}); the recipe may say allow: estimated"
    else:
        held = value <= gate.budget if at_most else value >= gate.budget
        outcome = "held" if held else "beyond budget"
        allowed = f"at most {gate.budget:g}" if at_most else f"at least {gate.budget:g}"
        why = f"is {value:.4g}{end}; {allowed} is {'allowed' if at_most else 'wanted'}"
    return GateReport(
        name=name,
        branch=branch,
        budget=gate.budget,
        at_most=at_most,
        observed=observed,
        passed=outcome == "held",
        outcome=outcome,
        message=f"{name} of {step or 'the result'} {why}.",
    )


def _which_end(observed: Figure, gate: Gate, value: float | None) -> str:
    if value != observed.value:
        ends = "range over windows" if observed.unit in {"j", "J"} else "95 % interval"
        return f" at the unfavourable end of its {ends}"
    no_interval = observed.low is None and observed.high is None
    if gate.on == "bound" and no_interval and observed.unit == "ms":
        return " without an interval, since the latency drifted"
    return ""


def raise_for_verdict(report: RunReport) -> None:
    """Turn failed gates into an error.

    Raises:
        GateError: names every gate that is not held.
    """
    skipped = {b.name for b in report.branches if b.status == "skipped"}
    failed = [g for g in report.all_gates() if not g.passed and g.branch not in skipped]
    if failed:
        lines = "; ".join(f"{g.branch}: {g.message}" for g in failed)
        raise GateError(
            f"{len(failed)} gate{'s are' if len(failed) > 1 else ' is'} not held: {lines}",
            "The report shows every step; change the recipe, or the budget if it is too tight.",
        )
