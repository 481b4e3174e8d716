"""Joules per inference of a model whose power is known, and every way in which there are none."""

from dataclasses import replace

import pytest

from edgekit.bench import Protocol, bench
from edgekit.bench.energy import expanded, measure_energy, open_meter
from edgekit.bench.load import load_of
from edgekit.bench.meters import ARGUMENTS, METERS
from edgekit.bench.meters.counter import CounterMeter
from edgekit.bench.protocol import Mode
from edgekit.bench.runtimes import Availability

PROTOCOL = Protocol(
    warmup_s=0.0,
    warmup_runs=1,
    warmup_block_s=0.005,
    warmup_max_s=0.05,
    block_s=0.01,
    settle_s=0.0,
    min_rounds=8,
    min_s=0.05,
    max_s=0.1,
    resamples=100,
    idle_s=3.0,
    window_s=1.0,
    windows=5,
)


class Board(CounterMeter):
    """A board: `idle_w` always, `busy_w` more while a model runs; counts in millijoules."""

    def __init__(self, clock, idle_w=10.0, period_s=0.01):
        super().__init__(
            "board",
            lambda: {"board": self.shown},
            ranges={},
            joules_per_tick=1e-3,
            primary=("board",),
            clock=clock,
        )
        self.idle_w, self.busy_w, self.mj, self.shown = idle_w, 0.0, 0.0, 0
        self.last, self.step_ns = clock.now, period_s * 1e9
        self.answer = Availability(ok=True, reason="")
        clock.listeners.append(self.move)

    def move(self, now):
        self.mj += (self.idle_w + self.busy_w) * (now - self.last) / 1e6
        if now // self.step_ns != self.last // self.step_ns:
            self.shown = int(self.mj)
        self.last = now

    def probe(self):
        return self.answer

    def __enter__(self):
        self.period_s = self.measure_period()
        return self

    def __exit__(self, *exc):
        pass


@pytest.fixture
def measured(fake, clock):
    def run(board, seconds=1e-3, busy_w=30.0, **more):
        def busy(_now, _count):
            board.busy_w = busy_w
            clock.advance(seconds * 1e9)
            board.busy_w = 0.0
            return 0

        subjects, opener, _ = fake(a=busy, **more)
        return bench(subjects, PROTOCOL, meters=[board], clock=clock, opener=opener)

    return run


def test_joules_per_inference_are_the_known_ones(measured, clock):
    energy = measured(Board(clock)).subject("a").energy
    assert energy.energy_j.value == pytest.approx(40.0 * 1e-3, rel=0.01)
    assert energy.energy_j.label == "measured"
    assert energy.energy_j.low <= energy.energy_j.value <= energy.energy_j.high
    assert energy.net_energy_j.value == pytest.approx(30.0 * 1e-3, rel=0.01)
    assert energy.net_energy_j.label == "derived"
    assert energy.idle_w == pytest.approx(10.0, rel=0.01)
    assert energy.domains_j["board"] == pytest.approx(40.0 * 1e-3, rel=0.01)
    assert (energy.meter, energy.windows) == ("board", 5)
    assert "edge-aligned" in energy.method


def test_two_models_get_their_own_joules(measured, clock):
    result = measured(Board(clock), b=lambda *_: 2e6)
    assert result.subject("a").energy.energy_j.value == pytest.approx(0.040, rel=0.01)
    assert result.subject("b").energy.energy_j.value == pytest.approx(0.020, rel=0.01)


def test_power_is_joules_a_second(measured, clock):
    energy = measured(Board(clock)).subject("a").energy
    assert energy.power_w.value == pytest.approx(40.0, rel=0.01)
    assert (energy.power_w.unit, energy.power_w.label) == ("W", "measured")
    assert "999.9 inferences a second" in energy.energy_j.note


def test_at_a_rate_the_pauses_count(clock):
    """10 ms of 40 W in every 100 ms, the rest at 10 W: 13 W, so 1.3 J for each inference."""
    board = Board(clock)

    def run():
        board.busy_w = 30.0
        clock.advance(10e6)
        board.busy_w = 0.0

    protocol = replace(PROTOCOL, mode=Mode("paced", rate_hz=10.0), window_s=4.0, windows=2)
    load = load_of(run, protocol, clock)
    with board:
        energy = measure_energy(board, [("a", load)], protocol, clock, lambda *_: None)[0]
    assert energy.power_w.value == pytest.approx(13.0, rel=0.01)
    assert energy.energy_j.value == pytest.approx(1.3, rel=0.01)
    assert energy.net_energy_j.value == pytest.approx(0.3, rel=0.05)
    assert "10 inferences a second, 10 asked for" in energy.power_w.note


def test_a_model_too_slow_for_its_rate_runs_on_without_pause(clock):
    board = Board(clock)

    def run():
        board.busy_w = 30.0
        clock.advance(50e6)
        board.busy_w = 0.0

    protocol = replace(PROTOCOL, mode=Mode("paced", rate_hz=50.0), window_s=5.0)
    load = load_of(run, protocol, clock)
    with board:
        energy = measure_energy(board, [("a", load)], protocol, clock, lambda *_: None)[0]
    assert energy.power_w.value == pytest.approx(40.0, rel=0.01)
    assert energy.energy_j.note.count("20 inferences a second, 50 asked for") == 1


def test_auto_is_every_meter_that_needs_no_argument_and_no_estimate():
    names = list(expanded(["nvml", "auto", "estimate"]))
    assert names[0] == "nvml"
    assert sorted(names) == sorted(set(METERS) - set(ARGUMENTS))
    assert list(expanded(["estimate"])) == []
    assert open_meter(["auto"])[0] is not None or "edgekit meters" in open_meter(["auto"])[1]
    assert open_meter(["ina3221", "csv:/nowhere/p.csv"])[1].endswith("no folder /nowhere.")


def test_a_run_whose_idle_power_moved_is_invalid(measured, clock):
    board = Board(clock)
    began = clock.now
    clock.listeners.append(
        lambda now: setattr(board, "idle_w", 10.0 + max(0.0, (now - began) / 1e9 - 5) * 0.5)
    )
    result = measured(board)
    energy = result.subject("a").energy
    assert energy.energy_j.label == "unavailable"
    assert energy.energy_j.value is None
    assert "Idle power moved" in energy.energy_j.note
    assert result.subject("a").p50_ms.value == pytest.approx(1.0, rel=0.01)


def test_a_counter_that_stops_leaves_the_latency(measured, clock):
    board = Board(clock)
    began = clock.now

    def stop(now):
        if now - began > 6e9:
            board.mj, board.idle_w, board.busy_w = float(board.shown), 0.0, 0.0

    clock.listeners.append(stop)
    result = measured(board)
    assert "did not move" in result.subject("a").energy.energy_j.note
    assert result.subject("a").p50_ms.value > 0


def test_the_first_meter_that_can_measure_is_taken(measured, clock, fake):
    absent, present = Board(clock), Board(clock)
    absent.answer = Availability(ok=False, reason="It is not wired up.", fix="Wire it.")
    subjects, opener, _ = fake(a=lambda *_: 1e6)
    both = bench(subjects, PROTOCOL, meters=[absent, present], clock=clock, opener=opener)
    assert both.subject("a").energy.energy_j.value == pytest.approx(0.010, rel=0.01)
    none = bench(subjects, PROTOCOL, meters=[absent], clock=clock, opener=opener)
    assert none.subject("a").energy.energy_j.note == "It is not wired up."
    assert none.subject("a").energy.domains_j == {}


def test_a_meter_that_fails_to_open_leaves_the_latency(clock, fake, monkeypatch):
    monkeypatch.setattr("edgekit.bench.meters.counter.PATIENCE_S", 0.2)
    board = Board(clock, idle_w=0.0)
    subjects, opener, _ = fake(a=lambda *_: 1e6)
    result = bench(subjects, PROTOCOL, meters=[board], clock=clock, opener=opener)
    assert "did not move" in result.subject("a").energy.energy_j.note


def test_an_interrupt_in_a_window_keeps_the_latency(clock, fake):
    board = Board(clock)

    def stop(now, _count):
        if now > 8e9:
            raise KeyboardInterrupt
        return 1e6

    subjects, opener, runtimes = fake(a=stop)
    result = bench(subjects, PROTOCOL, meters=[board], clock=clock, opener=opener)
    assert not result.complete
    assert result.subject("a").p50_ms.value == pytest.approx(1.0, abs=0.01)
    assert result.subject("a").energy.energy_j.label == "unavailable"
    assert "stopped while" in result.subject("a").energy.energy_j.note
    assert runtimes["a"].left == runtimes["a"].entered >= 1


def test_energy_of_several_streams_is_not_there(clock, fake):
    subjects, opener, _ = fake(a=lambda *_: 1e6)
    protocol = replace(PROTOCOL, mode=Mode("streams", streams=2))
    result = bench(subjects, protocol, meters=[Board(clock)], clock=clock, opener=opener)
    assert "one stream" in result.subject("a").energy.energy_j.note


def test_an_estimating_meter_is_labelled_so(measured, clock):
    board = Board(clock)
    board.label = "estimated"
    assert measured(board).subject("a").energy.energy_j.label == "estimated"
