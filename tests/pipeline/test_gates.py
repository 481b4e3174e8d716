"""Gates hold the unfavourable end of a figure's interval, and never pass what was not measured."""

import pytest

from edgekit.errors import GateError
from edgekit.pipeline.gates import hold, not_judged, raise_for_verdict
from edgekit.recipe import Gates
from edgekit.report.junit import junit
from edgekit.report.markdown import markdown
from edgekit.report.schema import BranchReport, Changes, Figure, RunReport, StepReport
from edgekit.report.view import headline

ORIGINAL = StepReport(name="original", size_bytes=1000, macs=800)
QUANTIZED = StepReport(
    name="quantize",
    size_bytes=100,
    macs=200,
    metric_drop=Figure(value=0.004, low=-0.001, high=0.009, unit="fraction"),
    latency_p50_ms=Figure(value=0.2, low=0.19, high=0.21, unit="ms"),
    latency_p99_ms=Figure(high=0.4, unit="ms"),
    speedup=Figure(value=3.0, low=2.8, high=3.2, unit="x"),
    changes=Changes(n=100, agreement=Figure(value=0.99, low=0.97, high=1.0, unit="fraction")),
)
ENGINE = StepReport(name="build", size_bytes=150)


def verdict(steps: tuple[StepReport, ...] = (QUANTIZED,), **gates: object) -> bool:
    (gate,) = hold(Gates.model_validate(gates), "x86", ORIGINAL, steps)
    return gate.passed


@pytest.mark.parametrize(
    ("gate", "passes", "fails"),
    [
        ("accuracy_drop", 0.009, 0.0089),
        ("agreement", 0.97, 0.971),
        ("speedup", 2.8, 2.81),
        ("p50_ms", 0.21, 0.209),
        ("p99_ms", 0.4, 0.39),
        ("size_mb", 1e-4, 0.9e-4),
        ("size_ratio", 10, 10.1),
        ("macs_ratio", 4, 4.1),
    ],
)
def test_the_unfavourable_end_decides(gate: str, passes: float, fails: float) -> None:
    assert verdict(**{gate: passes})
    assert not verdict(**{gate: fails})


def test_the_value_decides_where_the_recipe_says_so() -> None:
    assert not verdict(speedup=2.9)
    assert verdict(speedup={"budget": 2.9, "on": "value"})


@pytest.mark.parametrize("gate", ["energy_j", "p90_ms"])
def test_what_was_not_measured_never_passes(gate: str) -> None:
    assert not verdict(**{gate: 1e9})


def test_a_bound_that_is_not_known_does_not_pass_on_the_value() -> None:
    step = QUANTIZED.model_copy(
        update={"latency_p99_ms": Figure(value=0.3, low=0.29, unit="ms", note="too few samples")}
    )
    assert not verdict((step,), p99_ms=1)
    assert verdict((step,), p99_ms={"budget": 1, "on": "value"})


def test_an_estimate_passes_only_where_it_is_allowed() -> None:
    step = QUANTIZED.model_copy(update={"energy_j": Figure(value=0.1, unit="j", label="estimated")})
    assert not verdict((step,), energy_j=1.0)
    assert verdict((step,), energy_j={"budget": 1.0, "allow": "estimated"})


def test_a_gate_on_energy_holds_the_worst_window() -> None:
    figure = Figure(value=0.9, low=0.8, high=1.1, unit="J")
    step = QUANTIZED.model_copy(update={"energy_j": figure})
    (gate,) = hold(Gates.model_validate({"energy_j": 1.0}), "pi5", ORIGINAL, (step,))
    assert not gate.passed
    assert "the unfavourable end of its range over windows" in gate.message
    assert verdict((step,), energy_j={"budget": 1.0, "on": "value"})


def test_an_engine_is_judged_by_the_file_it_was_built_from() -> None:
    steps = (QUANTIZED, ENGINE)
    (gate,) = hold(Gates.model_validate({"accuracy_drop": 0.01}), "rtx", ORIGINAL, steps)
    assert gate.passed
    assert "accuracy_drop of quantize" in gate.message
    assert not verdict(steps, speedup=1.0)  # its latency, though, is its own


def test_a_failed_gate_is_an_error_that_names_it() -> None:
    held = hold(Gates.model_validate({"speedup": 9, "p50_ms": 1}), "x86", ORIGINAL, (QUANTIZED,))
    run = RunReport(
        edgekit="0",
        recipe="r",
        seed=0,
        started_utc="",
        seconds=0,
        original=ORIGINAL,
        branches=(BranchReport(name="x86", gates=held, status="failed"),),
        verdict="failed",
    )
    with pytest.raises(
        GateError, match=r"1 gate is not held: x86: speedup of quantize is 2\.8"
    ) as e:
        raise_for_verdict(run)
    assert e.value.exit_code == 5


def report_of(*steps: StepReport, status: str = "failed", **gates: object) -> RunReport:
    held = hold(Gates.model_validate(gates), "x86", ORIGINAL, steps)
    branch = BranchReport.model_validate({"name": "x86", "gates": held, "status": status})
    return RunReport(
        edgekit="0", recipe="r", seed=0, started_utc="", seconds=0.0, original=ORIGINAL,
        branches=(branch,), verdict="failed",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ({"speedup": 4}, "1 of 1 gate beyond budget; failed: x86."),
        ({"energy_j": 1, "speedup": 1}, "1 of 2 gates not held (not measured); failed: x86."),
        (
            {"energy_j": 1, "p90_ms": 1, "speedup": 4},
            "3 of 3 gates not held (1 beyond budget, 2 not measured); failed: x86.",
        ),
    ],
)
def test_the_headline_tells_beyond_budget_from_not_measured(
    gates: dict[str, float], said: str
) -> None:
    assert headline(report_of(QUANTIZED, **gates)) == said


def test_gates_of_a_skipped_branch_are_not_judged_and_fail_nothing() -> None:
    gates = not_judged(Gates.model_validate({"p50_ms": 1}), "x86", ORIGINAL, "the branch was away")
    branch = BranchReport(name="x86", gates=gates, status="skipped")
    report = report_of(QUANTIZED).model_copy(update={"branches": (branch,)})
    assert gates[0].message == "p50_ms was not judged: the branch was away."
    raise_for_verdict(report)
    assert headline(report) == "No gates were judged; skipped: x86."
    assert 'failures="0" errors="0" skipped="2"' in junit(report)


def test_gates_that_were_not_judged_are_no_failures_to_the_eye() -> None:
    gates = not_judged(Gates.model_validate({"p50_ms": 1}), "x86", ORIGINAL, "the branch was away")
    branch = BranchReport(name="x86", gates=gates, status="failed")
    text = markdown(report_of(QUANTIZED).model_copy(update={"branches": (branch,)}))
    assert "⚪ **not judged**" in text
    assert "p50_ms" in text
    assert "was not judged: the branch was away." in text
