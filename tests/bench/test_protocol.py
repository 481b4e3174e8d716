"""The rules of warming up and of how much to measure, on a clock that only the test moves."""

import gc

import numpy as np
import pytest

from edgekit.bench.protocol import Protocol, is_steady, time_block, warm_up
from edgekit.errors import UsageError


def runner(clock, duration_ns):
    count = 0

    def run():
        nonlocal count
        clock.advance(duration_ns(count))
        count += 1

    return run


def test_a_block_ends_when_its_time_is_up_and_times_each_inference(clock):
    times = time_block(runner(clock, lambda n: 1e6 if n % 2 else 2e6), clock.ns, int(30e6))
    assert len(times) == 20
    assert times[:2] == pytest.approx([2e6, 1e6], abs=60)


def test_a_block_holds_at_least_one_inference(clock):
    assert len(time_block(runner(clock, lambda _: 5e9), clock.ns, 1000)) == 1
    assert len(time_block(runner(clock, lambda _: 5e9), clock.ns, 0, least=3)) == 3


def test_warm_up_of_a_steady_model_is_as_short_as_the_rule_allows(clock):
    found = warm_up(runner(clock, lambda _: 1e6), Protocol.full(), clock)
    assert found.steady
    assert found.seconds == pytest.approx(5.0, abs=0.1)  # five blocks are needed to see no trend


def test_warm_up_goes_on_while_the_latency_falls(clock):
    began = clock.now

    def settling(_):
        seconds = (clock.now - began) / 1e9
        return 1e6 * (2.0 - min(1.0, seconds / 20))

    found = warm_up(runner(clock, settling), Protocol.full(), clock)
    assert found.steady
    assert 20 < found.seconds < 30


def test_warm_up_gives_up_and_says_so(clock):
    flip = runner(clock, lambda _: 1e6 * (1 + 0.2 * ((clock.now // 1_000_000_000) % 2)))
    found = warm_up(flip, Protocol.full(), clock)
    assert not found.steady
    assert 60 <= found.seconds < 62


def test_a_slow_model_warms_up_for_fifty_runs(clock):
    found = warm_up(runner(clock, lambda _: 3e8), Protocol.full(), clock)
    assert found.runs >= 50
    assert found.steady


def test_a_slow_trend_over_five_blocks_is_not_steady():
    blocks = [np.full(10, 1000 + 6 * place) for place in range(5)]
    assert not is_steady(blocks)
    assert is_steady([np.full(10, 1000 + place) for place in range(5)])
    assert not is_steady(blocks[:4])


def test_disagreeing_quartiles_are_not_steady():
    blocks = [np.full(100, 1000)] * 4 + [np.concatenate((np.full(60, 1000), np.full(40, 2000)))]
    assert not is_steady(blocks)


def test_quick_says_so_and_needs_less():
    quick, full = Protocol.quick(3), Protocol.full(3)
    assert (quick.form, full.form) == ("quick", "full")
    assert quick.seed == full.seed == 3
    assert full.needed_n == 473
    assert quick.needed_n == 29
    assert full.min_s >= 10
    assert full.warmup_s >= 3
    assert full.warmup_max_s == 60


@pytest.mark.parametrize(
    "wrong", [{"block_s": 0}, {"min_rounds": 0}, {"quantile": 1.0}, {"max_s": -1}]
)
def test_a_protocol_without_sense_is_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Protocol(**wrong)


def test_the_collector_comes_back_after_an_interrupt():
    from edgekit.bench.measure import collection_off

    def interrupted():
        with collection_off():
            assert not gc.isenabled()
            raise KeyboardInterrupt

    assert gc.isenabled()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert gc.isenabled()
