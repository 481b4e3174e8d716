"""A stored baseline: what it finds, and everything that keeps it from being compared."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from edgekit.bench import BenchResult, Mode, Protocol, Subject, bench
from edgekit.errors import GateError, UsageError
from edgekit.pipeline import baseline
from edgekit.pipeline.compare import raise_for_slowdown
from tests.bench.conftest import FakeClock, FakeRuntime

PROTOCOL = dataclasses.replace(
    Protocol.quick(), warmup_s=0.01, min_s=0.2, min_rounds=16, loads=4, block_s=0.01, resamples=200
)
NAME = "m.onnx"


def measured(
    ms: float,
    *,
    seed: int = 0,
    options: dict[str, object] | None = None,
    protocol: Protocol = PROTOCOL,
    rows: int = 1,
    trend: float = 0.0,
) -> BenchResult:
    """Measure a model that takes `ms`, by a clock that only the test moves."""
    clock = FakeClock()
    noise = np.random.default_rng(seed)
    start = clock.now

    def duration(now: int, count: int) -> float:
        moved = 1 + trend * (now - start) / 1e9
        return ms * 1e6 * moved * (1 + 0.01 * noise.standard_normal())

    runtime = FakeRuntime(clock, duration)
    runtime.options = options or {"threads": 1, "providers": ("cpu",)}
    subject = Subject(NAME, "fake", Path(NAME), {"x": np.zeros(rows, np.float32)})
    return bench([subject], protocol, clock=clock, opener=lambda _: runtime)


def stored(tmp_path: Path, result: BenchResult, **changes: object) -> Path:
    path = tmp_path / "base.json"
    path.write_text(json.dumps({**result.to_dict(), **changes}))
    return path


def compare(tmp_path: Path, then: BenchResult, now: BenchResult):
    path = stored(tmp_path, then)
    return baseline.against(baseline.read(path), path, now)[NAME]


@pytest.mark.parametrize(
    ("ms", "verdict"), [(0.5, "inconclusive"), (0.6, "slower"), (0.4, "faster")]
)
def test_a_later_run_is_judged_by_one_file(tmp_path, ms, verdict):
    found = compare(tmp_path, measured(0.5), measured(ms, seed=1))
    assert found.verdict == verdict
    assert found.speedup.low <= 0.5 / ms * 1.01
    assert found.speedup.high >= 0.5 / ms * 0.99
    assert found.speedup.value == pytest.approx(0.5 / ms, rel=0.02)
    assert "stored" in found.speedup.note


def test_the_gate_names_the_figure_its_interval_and_what_is_allowed(tmp_path):
    found = {NAME: compare(tmp_path, measured(0.5), measured(0.6, seed=1))}
    raise_for_slowdown(found, 0.3)
    with pytest.raises(GateError) as caught:
        raise_for_slowdown(found, 0.05)
    assert NAME in caught.value.message
    assert "+20." in caught.value.message or "+19." in caught.value.message
    assert "[" in caught.value.message
    assert "+5.0%" in caught.value.message


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"options": {"threads": 4, "providers": ("cpu",)}}, "threads of m.onnx was 1 and is 4"),
        ({"options": {"threads": 1, "providers": ("gpu",)}}, "providers of m.onnx"),
        ({"rows": 2}, "input x of m.onnx was float32[1] and is float32[2]"),
        (
            {"protocol": dataclasses.replace(PROTOCOL, form="full")},
            "form was quick and is full",
        ),
        (
            {"protocol": dataclasses.replace(PROTOCOL, mode=Mode("paced", rate_hz=30.0))},
            "mode kind was back-to-back and is paced",
        ),
        ({"protocol": dataclasses.replace(PROTOCOL, affinity=(0,))}, "affinity was absent"),
    ],
)
def test_what_differs_is_named_and_refused(tmp_path, other, words):
    then = measured(0.5)
    path = stored(tmp_path, then)
    now = measured(0.5, **{k: v for k, v in other.items() if k != "protocol"})
    if "protocol" in other:
        protocol = json.loads(json.dumps(dataclasses.asdict(other["protocol"])))
        now = dataclasses.replace(now, protocol=protocol)
        with pytest.raises(UsageError, match="was measured under other conditions") as before:
            baseline.check_before(baseline.read(path), path, [NAME], other["protocol"])
        assert words in before.value.message
    with pytest.raises(UsageError, match="was measured under other conditions") as caught:
        baseline.against(baseline.read(path), path, now)
    assert words in caught.value.message


def test_every_difference_between_two_machines_is_named(tmp_path):
    then = measured(0.5)
    device = {**then.device, "cpu": "Cortex-A76", "governor": "powersave", "digest": "0" * 16}
    path = stored(tmp_path, then, device=device)
    with pytest.raises(UsageError) as caught:
        baseline.check_before(baseline.read(path), path, [NAME], PROTOCOL, then.device)
    assert "cpu was Cortex-A76" in caught.value.message
    assert "governor was powersave" in caught.value.message


def test_a_model_of_another_name_is_not_compared(tmp_path):
    path = stored(tmp_path, measured(0.5))
    with pytest.raises(UsageError, match=r"has none of these models: other\.onnx") as caught:
        baseline.check_before(baseline.read(path), path, ["other.onnx"], PROTOCOL)
    assert NAME in caught.value.hint


@pytest.mark.parametrize(
    ("ms", "trend", "verdict"),
    [
        (0.3, 1.0, "inconclusive"),
        (0.315, 1.0, "inconclusive"),
        (0.6, 1.0, "slower"),
        (0.2, 1.0, "faster"),
    ],
)
def test_under_drift_there_is_no_interval_and_a_verdict_only_where_no_block_overlaps(
    tmp_path, ms, trend, verdict
):
    found = compare(tmp_path, measured(0.5), measured(ms, trend=trend))
    assert found.verdict == verdict
    assert found.speedup.low is None
    assert "drift" in found.speedup.note
    with pytest.raises(GateError, match="no interval"):
        raise_for_slowdown({NAME: found}, 0.05, strict=True)
    if verdict == "slower":
        with pytest.raises(GateError, match=r"\(no interval\); at most \+5.0% is allowed"):
            raise_for_slowdown({NAME: found}, 0.05)
    else:
        raise_for_slowdown({NAME: found}, 0.05)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a result"),
        ('{"a": 1}', "is not a result"),
        ('{"schema_version": 1}', "schema version 1"),
        ('{"schema_version": 2}', "broken"),
        ('{"schema_version": 2, "results": {"pi5": {}}, "errors": {}}', "several devices: pi5"),
    ],
)
def test_a_file_that_is_no_baseline(tmp_path, content, words):
    path = tmp_path / "base.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=words) as caught:
        baseline.read(path)
    assert "base.json" in caught.value.message


def test_a_missing_and_a_partial_baseline(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.json cannot be read: No such file"):
        baseline.read(tmp_path / "gone.json")
    path = stored(tmp_path, measured(0.5), complete=False)
    with pytest.raises(UsageError, match="stopped before its end"):
        baseline.read(path)


def test_what_the_command_adds_to_its_json_is_no_hindrance(tmp_path):
    path = stored(tmp_path, measured(0.5), layers={}, against_baseline={})
    assert baseline.read(path).subjects[0].name == NAME
