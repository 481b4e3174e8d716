"""`bench` end to end on fake runtimes and a fake clock: what is planted must be found."""

import dataclasses
import json

import numpy as np
import pytest

from edgekit.bench import BenchResult, Protocol, bench
from edgekit.errors import UsageError

PROTOCOL = Protocol(
    warmup_s=0.05,
    warmup_block_s=0.01,
    warmup_max_s=0.2,
    block_s=0.02,
    settle_s=0.002,
    min_rounds=40,
    min_s=0.5,
    max_s=5.0,
    resamples=200,
)


def noisy(base_ns, spread=0.03, seed=0):
    generator = np.random.default_rng(seed)
    return lambda _now, _count: base_ns * float(np.exp(generator.normal(0, spread)))


def wandering(base_ns, seed):
    """A machine whose speed wanders by 20 % over seconds, the same for whoever runs."""
    noise = noisy(base_ns, 0.03, seed)
    return lambda now, count: noise(now, count) * (1 + 0.2 * np.sin(now / 0.7e9))


def run(fake, clock, protocol=PROTOCOL, baseline=None, **durations):
    subjects, opener, runtimes = fake(**durations)
    result = bench(subjects, protocol, baseline=baseline, clock=clock, opener=opener)
    return result, runtimes


def test_figures_of_one_model(fake, clock):
    result, runtimes = run(fake, clock, a=noisy(1e6, seed=3))
    one = result.subject("a")
    assert one.p50_ms.low <= 1.0 <= one.p50_ms.high
    assert one.p50_ms.label == "measured"
    assert one.p99_ms.high > one.p99_ms.value > one.p90_ms.value > one.p50_ms.value
    assert one.p99_ms.high >= np.exp(0.03 * 2.326)
    assert one.load_ms == pytest.approx(5.0, abs=0.1)
    assert one.first_ms == pytest.approx(1.0, abs=0.2)
    assert one.n >= PROTOCOL.needed_n
    assert one.steady
    assert not one.drift
    assert one.options == {"fake": True}
    assert result.comparisons == {}
    assert result.aa_floor.label == "unavailable"
    assert runtimes["a"].left == runtimes["a"].entered >= 1


def test_first_inference_is_reported_on_its_own(fake, clock):
    result, _ = run(fake, clock, a=lambda _, count: 9e7 if count == 0 else 1e6)
    assert result.subject("a").first_ms == pytest.approx(90, abs=0.1)
    assert result.subject("a").p50_ms.value == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("factor", "verdict"), [(1.06, "slower"), (0.94, "faster")])
def test_a_planted_difference_is_found_on_a_wandering_machine(fake, clock, factor, verdict):
    result, _ = run(fake, clock, baseline="a", a=wandering(1e6, 1), b=wandering(factor * 1e6, 2))
    found = result.comparisons["b"]
    assert found.speedup.low <= 1 / factor <= found.speedup.high
    assert found.speedup.unit == "x"
    if found.threshold < 0.05:
        assert found.verdict == verdict
    assert found.rounds >= 40


def test_identical_code_is_inconclusive_nearly_always(fake, clock):
    short = dataclasses.replace(PROTOCOL, min_rounds=20, min_s=0.2, above=0, quantile=0.9)
    verdicts = []
    for seed in range(20):
        result, _ = run(
            fake,
            clock,
            dataclasses.replace(short, seed=seed),
            "a",
            a=wandering(1e6, 2 * seed),
            b=wandering(1e6, 2 * seed + 1),
        )
        verdicts.append(result.comparisons["b"].verdict)
    assert verdicts.count("inconclusive") >= 19


def test_a_large_speedup_needs_no_quiet_machine(fake, clock):
    result, _ = run(fake, clock, baseline="a", a=wandering(2e6, 1), b=wandering(1e6, 2))
    found = result.comparisons["b"]
    assert found.verdict == "faster"
    assert found.speedup.value == pytest.approx(2.0, rel=0.02)
    assert result.aa_floor.value < 0.3


def test_drift_is_said_and_gets_no_interval(fake, clock):
    began = clock.now
    heating = noisy(1e6)
    result, _ = run(
        fake, clock, a=lambda now, count: heating(now, count) * (1 + 0.3 * (now - began) / 1e9)
    )
    one = result.subject("a")
    assert one.drift
    assert one.p50_ms.low is None
    assert one.p99_ms.high is None
    assert "drift" in one.p50_ms.note
    assert one.throttle_ratio > 1.05
    assert any("drift" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("asked", "chosen", "said"),
    [(None, "bf16", True), (None, "f32", False), ("bf16", "bf16", False)],
)
def test_half_precision_that_nobody_asked_for_is_said(fake, clock, asked, chosen, said):
    subjects, opener, runtimes = fake(a=noisy(1e6))
    properties = {"INFERENCE_PRECISION_HINT": chosen}
    runtimes["a"].options = {"precision": asked, "properties": properties}
    result = bench(subjects, PROTOCOL, clock=clock, opener=opener)
    assert any("chose to compute in bf16" in w for w in result.warnings) == said


def test_slow_models_get_no_tail_that_their_runs_cannot_carry(fake, clock):
    quick = dataclasses.replace(Protocol.quick(), resamples=200)
    result, _ = run(fake, clock, quick, a=noisy(1e8))
    one = result.subject("a")
    assert one.n < 299
    assert one.p99_ms.value is None
    assert one.p99_ms.label == "unavailable"
    assert "not estimable" in one.p99_ms.note
    assert one.p50_ms.note == "quick"
    assert result.protocol["quick"] is True


def test_every_round_holds_every_subject_in_random_order(fake, clock):
    order = []
    subjects, opener, runtimes = fake(a=lambda *_: 1e6, b=lambda *_: 3e6)
    for name, runtime in runtimes.items():
        runtime.bind = lambda feeds, name=name, bind=runtime.bind: (
            lambda: (
                order.append(name) if not order or order[-1] != name else None,
                bind(feeds)(),
            )
        )
    result = bench(subjects, PROTOCOL, clock=clock, opener=opener)
    rounds = {name: result.raw[name].round for name in "ab"}
    assert set(rounds["a"]) == set(rounds["b"])
    changes = len(order) / len(set(rounds["a"]))
    assert 1.2 < changes < 1.95  # strictly alternating blocks would give 2 or more


def interrupting(after):
    def stop(_now, count):
        if count > after:
            raise KeyboardInterrupt
        return 1e6

    return stop


def test_an_interrupt_before_the_first_round_reaches_the_caller_and_frees_the_models(fake, clock):
    subjects, opener, runtimes = fake(a=interrupting(20), b=noisy(1e6))
    with pytest.raises(KeyboardInterrupt):
        bench(subjects, PROTOCOL, clock=clock, opener=opener)
    assert all(each.left == each.entered >= 1 for each in runtimes.values())


def test_an_interrupt_later_keeps_whole_rounds_and_draws_no_verdict(fake, clock):
    subjects, opener, runtimes = fake(a=interrupting(500), b=noisy(3e6))
    result = bench(subjects, PROTOCOL, baseline="a", clock=clock, opener=opener)
    assert all(each.left == each.entered >= 1 for each in runtimes.values())
    assert not result.complete
    rounds = {name: set(result.raw[name].round) for name in "ab"}
    assert rounds["a"] == rounds["b"]
    assert 0 < len(rounds["a"]) < PROTOCOL.min_rounds
    assert result.comparisons["b"].verdict == "inconclusive"
    assert any("stopped" in warning for warning in result.warnings)


def test_stop_is_asked_between_blocks(fake, clock):
    subjects, opener, _ = fake(a=noisy(1e6))
    asked = []

    def stop():
        asked.append(clock.now)
        return len(asked) > 30

    result = bench(subjects, PROTOCOL, clock=clock, opener=opener, stop=stop)
    assert not result.complete
    assert max(np.diff(asked)) < 2.5 * PROTOCOL.block_s * 1e9
    assert len(asked) == 31
    with pytest.raises(KeyboardInterrupt):
        bench(subjects, PROTOCOL, clock=clock, opener=opener, stop=lambda: True)


def test_a_model_that_does_not_load_frees_those_before_it(fake, clock):
    subjects, opener, runtimes = fake(a=noisy(1e6), b=noisy(1e6))

    def refuse():
        raise UsageError("b.onnx is broken.", "Make it again.")

    runtimes["b"].__class__ = type(
        "Broken", (runtimes["b"].__class__,), {"__enter__": lambda _: refuse()}
    )
    with pytest.raises(UsageError, match=r"b\.onnx"):
        bench(subjects, PROTOCOL, clock=clock, opener=opener)
    assert runtimes["a"].left == runtimes["a"].entered >= 1


def test_names_are_checked_before_anything_is_loaded(fake, clock):
    subjects, opener, runtimes = fake(a=noisy(1e6), b=noisy(1e6))
    with pytest.raises(UsageError, match="baseline 'c'"):
        bench(subjects, PROTOCOL, baseline="c", clock=clock, opener=opener)
    with pytest.raises(UsageError, match="Two subjects are called 'a'"):
        bench([subjects[0], subjects[0]], PROTOCOL, clock=clock, opener=opener)
    with pytest.raises(UsageError, match="nothing"):
        bench([], PROTOCOL, clock=clock, opener=opener)
    assert [each.entered for each in runtimes.values()] == [0, 0]


def test_energy_without_a_meter_is_unavailable_with_the_reason(fake, clock):
    result, _ = run(fake, clock, a=noisy(1e6))
    energy = result.subject("a").energy
    assert energy.energy_j.label == "unavailable"
    assert energy.energy_j.value is None
    assert energy.energy_j.note == "No meter was asked for."
    assert energy.domains_j == {}


def test_a_meter_that_is_not_here_is_a_reason_and_an_unknown_one_an_error(fake, clock):
    subjects, opener, _ = fake(a=noisy(1e6))
    result = bench(subjects, PROTOCOL, meters=["pmic"], clock=clock, opener=opener)
    assert "vcgencmd" in result.subject("a").energy.energy_j.note
    with pytest.raises(UsageError, match="'raple'"):
        bench(subjects, PROTOCOL, meters=["raple"], clock=clock, opener=opener)


def test_progress_goes_from_0_to_1(fake, clock):
    subjects, opener, _ = fake(a=noisy(1e6))
    seen = []
    bench(subjects, PROTOCOL, clock=clock, opener=opener, say=lambda done, _: seen.append(done))
    assert seen == sorted(seen)
    assert seen[0] == 0.0
    assert seen[-1] == 1.0
    assert len(seen) > 20


def test_results_survive_json(fake, clock):
    result, _ = run(fake, clock, baseline="a", a=noisy(1e6), b=noisy(2e6))
    text = json.dumps(result.to_dict())
    again = BenchResult.from_dict(json.loads(text))
    assert again == dataclasses.replace(result, raw={})
    assert again.to_dict() == json.loads(text)
    assert "raw" not in json.loads(text)
    assert again.comparisons["b"].speedup == result.comparisons["b"].speedup


@pytest.mark.parametrize(
    ("change", "says"), [({"schema_version": 99}, "99"), ({"subjects": [{}]}, "broken")]
)
def test_results_of_another_version_or_broken_are_refused(fake, clock, change, says):
    result, _ = run(fake, clock, a=noisy(1e6))
    with pytest.raises(UsageError, match=says):
        BenchResult.from_dict({**result.to_dict(), **change})


def test_raw_nanoseconds_are_kept(fake, clock, tmp_path):
    result, _ = run(fake, clock, a=noisy(1e6))
    result.save_raw(tmp_path / "raw.npz")
    with np.load(tmp_path / "raw.npz") as saved:
        assert len(saved["a/ns"]) == result.subject("a").n
        assert np.median(saved["a/ns"]) / 1e6 == pytest.approx(result.subject("a").p50_ms.value)
        assert saved["a/round"].max() + 1 >= PROTOCOL.min_rounds


def test_conditions_and_device_are_recorded(fake, clock):
    result, _ = run(fake, clock, a=noisy(1e6))
    assert result.device["digest"]
    assert result.conditions["threads"]["affinity"]
    assert result.peak_rss_bytes > 1 << 20
    assert result.complete


def lying_somewhere(base_ns, loads, seed):
    """A model that is up to 10 % slower or faster from one load to the next."""
    generator = np.random.default_rng(seed)
    places, noise = {}, noisy(base_ns, 0.01, seed)

    def duration(now, count):
        place = places.setdefault(loads(), float(np.exp(generator.normal(0, 0.05))))
        return noise(now, count) * place

    return duration


@pytest.mark.parametrize(("loads", "least", "most"), [(10, 0, 2), (1, 8, 20)])
def test_where_a_model_lies_in_memory_is_not_taken_for_a_difference(
    fake, clock, loads, least, most
):
    protocol = dataclasses.replace(
        PROTOCOL, loads=loads, min_rounds=20, min_s=0.2, above=0, quantile=0.9
    )
    verdicts = []
    for seed in range(20):
        subjects, opener, runtimes = fake(
            a=lying_somewhere(1e6, lambda: runtimes["a"].entered, 2 * seed),  # noqa: B023
            b=lying_somewhere(1e6, lambda: runtimes["b"].entered, 2 * seed + 1),  # noqa: B023
        )
        result = bench(subjects, protocol, baseline="a", clock=clock, opener=opener)
        assert result.comparisons["b"].loads == loads
        verdicts.append(result.comparisons["b"].verdict)
    wrong = len(verdicts) - verdicts.count("inconclusive")
    assert least <= wrong <= most


def test_models_that_load_slowly_are_not_loaded_for_ever(fake, clock):
    protocol = dataclasses.replace(PROTOCOL, reload_s=0.03)
    result, runtimes = run(fake, clock, protocol, "a", a=noisy(1e6), b=noisy(1e6))
    assert result.comparisons["b"].loads == 2
    assert runtimes["a"].entered == runtimes["a"].left == 2


def test_a_model_that_does_not_load_again_frees_the_others(fake, clock):
    subjects, _, runtimes = fake(a=noisy(1e6), b=noisy(1e6))
    seen = []

    def opener(subject):
        seen.append(subject.name)
        if seen.count("b") == 2:
            raise UsageError("b.onnx has vanished.", "Put it back.")
        return runtimes[subject.name]

    with pytest.raises(UsageError, match="vanished"):
        bench(subjects, PROTOCOL, clock=clock, opener=opener)
    assert all(each.left == each.entered for each in runtimes.values())
