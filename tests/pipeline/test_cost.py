"""Joules of the pipeline's own steps: measured where there is a meter, never in its way."""

import pytest

from edgekit import manifest
from edgekit.bench.meters.ina3221 import Ina3221
from edgekit.bench.meters.rapl import Rapl
from edgekit.bench.meters.sampled import SampledMeter
from edgekit.errors import PassError, UnavailableError
from edgekit.metrics import Task
from edgekit.passes.base import Context
from edgekit.pipeline.cost import AUTO, OFF, CostMeter, cost_figure, total
from edgekit.pipeline.step import Store, make
from edgekit.report.schema import Figure, StepReport
from tests.bench.fake_board import IDLE_W, Board, SteppingClock, write
from tests.pipeline.test_step import Work


@pytest.fixture
def meters(monkeypatch):
    """Let `auto` find the meters that a test gives, and no others."""

    def use(**given):
        class Absent(SampledMeter):
            def __init__(self):
                super().__init__("absent", dict, primary=(), period_s=1.0)

            def probe(self):
                from edgekit.bench.meters import Availability

                return Availability(ok=False, reason="It is not here.", fix="Get one.")

        monkeypatch.setattr(
            "edgekit.bench.meters.make_meter", lambda name: given.get(name) or Absent()
        )

    use()
    return use


@pytest.fixture
def board(tmp_path):
    made = Board(SteppingClock(), tmp_path / "board")
    # No thread of the real world polls between two steps of this clock: a range that needs none.
    made.joules = 0.0
    write(made.root / "sys/class/powercap/intel-rapl:0/max_energy_range_uj", 262_143_328_850)
    return made


def test_a_steps_joules_are_the_known_ones(board, meters):
    meters(rapl=Rapl(board.root, board.clock))
    with CostMeter() as cost, cost.step() as energy:
        board.clock.sleep(8.0)
    assert energy.joules == pytest.approx(8.0 * IDLE_W, rel=0.01)
    assert (energy.label, energy.note) == ("measured", "rapl: package-0")


def test_meters_of_parts_are_added_and_a_boards_stands_alone(board, meters):
    other = Rapl(board.root, board.clock)
    other.name = "nvml"
    meters(rapl=Rapl(board.root, board.clock), nvml=other)
    with CostMeter() as cost, cost.step() as energy:
        board.clock.sleep(8.0)
    assert energy.joules == pytest.approx(16.0 * IDLE_W, rel=0.01)
    assert energy.note == "rapl: package-0; nvml: package-0"
    whole = Ina3221(board.root, board.clock, sampler=board.sampler)
    meters(ina3221=whole, rapl=Rapl(board.root, board.clock))
    with CostMeter() as cost, cost.step() as energy:
        board.clock.sleep(8.0)
    assert energy.joules == pytest.approx(8.0 * IDLE_W, rel=0.01)
    assert energy.note == "ina3221: VDD_IN"
    assert whole.period_s >= 0.25, "it is read seldom, so that the step loses nothing"


def test_a_meter_is_opened_once_and_only_where_there_is_a_step(board, meters):
    meter = Rapl(board.root, board.clock)
    opened = []
    enter = meter.measure_period
    meter.measure_period = lambda: opened.append(1) or enter()
    meters(rapl=meter)
    with CostMeter() as cost:
        assert not opened
        for _ in range(3):
            with cost.step():
                board.clock.sleep(1.0)
    assert len(opened) == 1


def test_a_step_too_short_for_the_meter_has_none(board, meters):
    meters(rapl=Rapl(board.root, board.clock))
    with CostMeter() as cost, cost.step() as energy:
        board.clock.sleep(0.05)
    assert energy.joules is None
    assert "needs 0.1 s" in energy.note


@pytest.mark.parametrize("wanted", [AUTO, OFF, "rapl"])
def test_without_a_meter_the_reason_is_kept(meters, wanted):
    with CostMeter(wanted) as cost, cost.step() as energy:
        pass
    assert (energy.joules, energy.label) == (None, "unavailable")
    assert energy.note in (
        "This machine has no energy meter: `edgekit meters`.",
        "The recipe says `meter: off`.",
        "It is not here.",
    )


class Fails(SampledMeter):
    """A sensor that fails at a given reading."""

    def __init__(self, at):
        self.left = at
        super().__init__("fails", self._read, primary=("x",), period_s=0.25, sampler=None)

    def probe(self):
        from edgekit.bench.meters import Availability

        return Availability(ok=True, reason="It is here.")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def _read(self):
        self.left -= 1
        if self.left < 0:
            raise UnavailableError("The sensor fell off.", "Put it back.")
        return {"x": 1.0}


@pytest.mark.parametrize("at", [0, 1])
def test_a_sensor_that_fails_does_not_fail_the_step(meters, at):
    meters(rapl=Fails(at))
    done = False
    with CostMeter() as cost:
        with cost.step() as energy:
            done = True
        assert energy.note == "The sensor fell off."
        with pytest.raises(ZeroDivisionError), cost.step():
            1 / 0  # noqa: B018 - the step's own failure goes through
    assert done


def test_the_manifest_keeps_seconds_and_joules(tmp_path, board, meters):
    meters(rapl=Rapl(board.root, board.clock))

    def work(context):
        board.clock.sleep(3.0)
        return Work()(context)

    with CostMeter() as cost:
        made = make(
            Store(tmp_path / "run", cost=cost),
            tmp_path / "run/01-work",
            step="work",
            config={},
            key="k",
            context=Context(out=tmp_path / "run", seed=0, task=Task()),
            run=work,
        )
    kept = manifest.read(made.artifact.root)
    assert kept.energy_j == pytest.approx(3.0 * IDLE_W, rel=0.01)
    assert (kept.energy_label, kept.energy_note) == ("measured", "rapl: package-0")
    assert kept.seconds >= 0
    figure = cost_figure(kept)
    assert (figure.value, figure.label) == (kept.energy_j, "measured")


def test_a_step_that_fails_still_says_why(tmp_path, board, meters):
    meters(rapl=Rapl(board.root, board.clock))
    with CostMeter() as cost, pytest.raises(PassError, match="it broke"):
        make(
            Store(tmp_path / "run", cost=cost),
            tmp_path / "run/01-work",
            step="work",
            config={},
            key="k",
            context=Context(out=tmp_path / "run", seed=0, task=Task()),
            run=Work(RuntimeError("it broke")),
        )


def step(seconds, joules=None, label="measured", note="rapl: package-0"):
    cost = (
        Figure.unavailable("j", "too short")
        if joules is None
        else Figure(value=joules, unit="j", label=label, note=note)
    )
    return StepReport(name="s", seconds=seconds, cost_j=cost)


def test_the_total_says_how_many_steps_it_knows():
    seconds, joules = total([step(2.0, 30.0), step(0.1), step(4.0, 70.0)])
    assert seconds == pytest.approx(6.1)
    assert (joules.value, joules.label) == (100.0, "derived")
    assert joules.note == ("the sum of 2 of 3 steps; rapl: package-0; the others have no figure")
    assert total([step(2.0, 30.0), step(1.0, 1.0, "estimated")])[1].label == "estimated"
    seconds, joules = total([step(0.1), step(0.2)])
    assert (joules.label, joules.note) == ("unavailable", "too short")
    assert total([StepReport(name="skipped")])[0] == 0.0


def test_measuring_takes_no_time_of_a_step(board, meters):
    """The meter's work is in the thread that polls: a block without work is as long as nothing."""
    meters(ina3221=Ina3221(board.root, board.clock, sampler=board.sampler))
    with CostMeter() as cost:
        with cost.step():
            pass
        before = board.clock.now
        with cost.step():
            pass
    assert board.clock.now - before < 1e6, "under a millisecond on the board's clock"
