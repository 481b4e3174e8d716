"""Every mode end to end on fake runtimes and a fake clock, whose truth is known."""

import dataclasses
import threading
import time

import numpy as np
import pytest

from edgekit.bench import BenchResult, Protocol, bench
from edgekit.bench.load import run_block, schedule
from edgekit.bench.protocol import Mode, SystemClock
from edgekit.bench.tally import LIMIT, Tally, Thinned, merged
from edgekit.errors import UsageError

PROTOCOL = Protocol(
    warmup_s=0.05,
    warmup_block_s=0.01,
    warmup_max_s=0.2,
    block_s=0.1,
    settle_s=0.002,
    min_rounds=20,
    min_s=1.0,
    max_s=4.0,
    resamples=200,
)


def run(fake, clock, mode, baseline=None, changes=None, **durations):
    subjects, opener, _ = fake(**durations)
    protocol = dataclasses.replace(PROTOCOL, mode=mode, **(changes or {}))
    return bench(subjects, protocol, baseline=baseline, clock=clock, opener=opener)


def test_a_model_that_keeps_up_is_on_time(fake, clock):
    result = run(fake, clock, Mode("paced", rate_hz=100.0), a=lambda *_: 4e6)
    one = result.subject("a")
    assert one.p50_ms.value == pytest.approx(4.0, abs=0.01)
    assert one.deadline.deadline_ms == 10.0
    assert one.deadline.misses == 0
    assert one.deadline.share.value == 0.0
    assert 0 < one.deadline.share.high < 0.05
    assert one.throughput.value == pytest.approx(100.0, rel=0.02)
    assert one.timing["utilisation"] == pytest.approx(0.4, abs=0.01)
    assert not one.overloaded
    assert result.protocol["mode"]["kind"] == "paced"


def test_one_slow_frame_in_ten_makes_the_next_one_late_too(fake, clock):
    """15 ms where there are 10: that frame misses, and the next one waits 5 ms and takes 4."""
    result = run(
        fake,
        clock,
        Mode("paced", rate_hz=100.0),
        a=lambda _, count: 15e6 if count % 10 == 0 else 4e6,
    )
    one = result.subject("a")
    assert one.deadline.share.value == pytest.approx(0.1, abs=0.02)
    assert one.deadline.share.low < 0.1 < one.deadline.share.high
    assert sorted({round(ns / 1e6) for ns in result.raw["a"].ns}) == [4, 9, 15]


def test_a_model_that_is_too_slow_for_its_rate_is_overloaded(fake, clock):
    result = run(fake, clock, Mode("paced", rate_hz=100.0), a=lambda *_: 25e6)
    one = result.subject("a")
    assert one.overloaded
    assert one.deadline.share.value > 0.9
    assert one.throughput.value == pytest.approx(40.0, rel=0.1)
    assert any("overloaded" in warning for warning in result.warnings)


def test_a_server_queues_as_theory_says(fake, clock):
    """M/D/1 at half load: the mean wait is rho / (2 mu (1 - rho)) (Pollaczek and Khinchine)."""
    result = run(
        fake,
        clock,
        Mode("server", rate_hz=100.0),
        changes={"block_s": 0.5, "min_rounds": 10},
        a=lambda *_: 5e6,
    )
    one = result.subject("a")
    assert one.mean_ms == pytest.approx(5.0 + 0.5 / (2 * 0.2 * 0.5), rel=0.1)
    assert one.timing["utilisation"] == pytest.approx(0.5, rel=0.1)
    assert one.deadline is None
    assert not one.overloaded


def test_all_subjects_of_a_round_see_the_same_arrivals():
    mode = Mode("server", rate_hz=50.0)
    first, lead = schedule(mode, int(1e9), 0, [3, 7])
    again, _ = schedule(mode, int(1e9), 0, [3, 7])
    other, _ = schedule(mode, int(1e9), 0, [3, 8])
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 0 < lead < len(first) / 4


def test_streams_run_at_once():
    """Two that wait for each other within an inference would never end one after the other."""
    together = threading.Barrier(2, timeout=20)
    protocol = dataclasses.replace(PROTOCOL, mode=Mode("streams", streams=2), block_s=1e-9)
    block = run_block((together.wait, together.wait), protocol, SystemClock(), settle=False)
    assert len(block.ns) == 2


def test_each_stream_has_its_own_binding_and_their_rates_add_up(fake, clock):
    subjects, opener, runtimes = fake(a=lambda *_: 0)
    bound = []

    def bind(feeds):
        bound.append(feeds)
        return lambda: time.sleep(0.002)

    runtimes["a"].bind = bind
    protocol = dataclasses.replace(
        PROTOCOL, mode=Mode("streams", streams=4), block_s=0.02, min_s=0.1, max_s=0.2, min_rounds=8
    )
    one = bench(subjects, protocol, opener=opener).subject("a")
    assert len(bound) == 4 * runtimes["a"].entered
    # Little's law: as many inferences are under way as there are streams.
    assert one.throughput.value * one.mean_ms / 1e3 == pytest.approx(4.0, rel=0.25)


def test_an_error_in_one_stream_ends_them_all_and_is_raised():
    def fail():
        raise UsageError("The model broke.", "Mend it.")

    protocol = dataclasses.replace(PROTOCOL, mode=Mode("streams", streams=2), block_s=30.0)
    with pytest.raises(UsageError, match="broke"):
        run_block((lambda: None, fail), protocol, SystemClock(), settle=False)


def test_offline_counts_samples(fake, clock):
    subjects, _, runtimes = fake(a=lambda *_: 10e6)
    spec = dataclasses.replace(runtimes["a"].inputs[0], shape=("batch", 3))
    runtimes["a"].inputs = (spec,)
    subjects = [dataclasses.replace(subjects[0], feeds={"x": np.zeros((8, 3), np.float32)})]
    protocol = dataclasses.replace(PROTOCOL, mode=Mode("offline"))
    result = bench(subjects, protocol, clock=clock, opener=lambda _: runtimes["a"])
    found = result.subject("a").throughput
    assert found.value == pytest.approx(800.0, rel=0.01)
    assert found.low <= found.value <= found.high
    assert "8 samples" in found.note


def test_modes_survive_json(fake, clock):
    result = run(
        fake, clock, Mode("paced", rate_hz=100.0), baseline="a", a=lambda *_: 4e6, b=lambda *_: 2e6
    )
    again = BenchResult.from_dict(result.to_dict())
    assert again == dataclasses.replace(result, raw={})
    assert again.comparisons["b"].verdict == "faster"


# --- sustained runs --------------------------------------------------------------------------


def test_a_sustained_run_shows_the_device_slow_down(fake, clock):
    """1 ms for the first 30 s, 2 ms from then on."""
    started = []

    def heating(now, _count):
        started.append(now) if not started else None
        return 1e6 if now - started[0] < 30e9 else 2e6

    subjects, opener, _ = fake(a=heating)
    protocol = dataclasses.replace(PROTOCOL, sustained_s=60.0)
    seen = []
    result = bench(
        subjects, protocol, clock=clock, opener=opener, say=lambda done, _: seen.append(done)
    )
    one = result.subject("a")
    assert len(one.series) == 60
    assert one.series[0].p50_ms == pytest.approx(1.0, abs=0.01)
    assert one.series[-1].p50_ms == pytest.approx(2.0, abs=0.01)
    assert one.series[-1].start_s == pytest.approx(59.0, abs=0.5)
    assert sum(stretch.n for stretch in one.series) == one.n
    assert one.throttle_ratio == pytest.approx(2.0, abs=0.02)
    assert one.throttled
    assert seen == sorted(seen)


def test_sustained_models_run_one_after_the_other_and_get_no_verdict(fake, clock):
    order = []
    subjects, opener, runtimes = fake(a=lambda *_: 1e6, b=lambda *_: 2e6)
    for name, runtime in runtimes.items():
        runtime.duration_ns = lambda *_, name=name: (
            order.append(name) or (1e6 if name == "a" else 2e6)
        )
    protocol = dataclasses.replace(PROTOCOL, sustained_s=2.0, idle_s=0.5)
    result = bench(subjects, protocol, baseline="a", clock=clock, opener=opener)
    half = order.index("b", len(order) - 1100)
    assert set(order[half:]) == {"b"}
    found = result.comparisons["b"]
    assert found.speedup.value == pytest.approx(0.5, abs=0.01)
    assert found.speedup.low is None
    assert found.verdict == "inconclusive"
    assert "not interleaved" in found.speedup.note
    assert result.aa_floor.label == "unavailable"


def test_a_sustained_run_that_is_stopped_keeps_its_stretches(fake, clock):
    subjects, opener, _ = fake(a=lambda *_: 1e6, b=lambda *_: 1e6)
    began = clock.now
    protocol = dataclasses.replace(PROTOCOL, sustained_s=10.0)
    result = bench(
        subjects,
        protocol,
        baseline="a",
        clock=clock,
        opener=opener,
        stop=lambda: clock.now - began > 5e9,
    )
    assert not result.complete
    assert [each.name for each in result.subjects] == ["a"]
    assert 0 < len(result.subject("a").series) < 60
    assert result.comparisons == {}


# --- what is kept ----------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[7], [3, 3, 1], [1] * 40, [16, 5, 900], [1000, 1]])
def test_thinning_keeps_every_strideth_value_of_the_whole_stream(parts):
    thinned = Thinned(limit=16)
    stream = np.arange(sum(parts))
    for part in np.split(stream, np.cumsum(parts)[:-1]):
        thinned.add(part)
    kept = thinned.values(np.int64)
    assert len(kept) <= 16
    assert np.array_equal(kept, stream[:: thinned.stride])
    assert thinned.seen == len(stream)


def test_sums_are_exact_however_little_is_kept():
    generator = np.random.default_rng(1)
    full, thin = Tally(1.0), Tally(1.0, limit=64)
    blocks = []
    for _ in range(9):
        ns = generator.integers(500_000, 1_500_000, 300)
        blocks.append(
            run_block(
                (lambda: None,),
                dataclasses.replace(PROTOCOL, block_s=1e-9),
                SystemClock(),
                settle=False,
            )
        )
        blocks[-1] = dataclasses.replace(blocks[-1], ns=ns, seconds=float(ns.sum()) / 1e9)
        full.add(blocks[-1])
        thin.add(blocks[-1])
    whole = merged(blocks)
    for tally in (full, thin):
        assert tally.n == len(whole.ns) == 2700
        assert tally.total_ns == whole.ns.sum()
        assert tally.min_ns == whole.ns.min()
        assert tally.misses == np.count_nonzero(whole.ns > 1_000_000)
        assert tally.seconds == pytest.approx(whole.seconds)
    assert full.medians_ns == thin.medians_ns
    assert len(thin.ns) <= 64 < len(full.ns) == 2700 < LIMIT
    assert thin.stride > 1 == full.stride
