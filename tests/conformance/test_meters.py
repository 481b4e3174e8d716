"""What every meter must do, on this machine and on a board whose joules are known.

One that cannot measure here says why, and refuses in those words.
"""

import inspect
import shlex
import sys
import time
from pathlib import Path

import pytest

from edgekit.bench.meters import ARGUMENTS, METERS, Availability, make_meter, probe_meters
from edgekit.bench.meters.command import Command
from edgekit.bench.meters.external import External
from edgekit.bench.meters.ina3221 import Ina3221
from edgekit.bench.meters.odpm import Odpm
from edgekit.bench.meters.pmic import Pmic
from edgekit.bench.meters.power_supply import PowerSupply
from edgekit.bench.meters.rapl import Rapl
from edgekit.errors import UnavailableError
from tests.bench.fake_board import BUSY_W, IDLE_W, RUN_S, Board, SteppingClock

PRINTS = "import sys, time\nwhile True: print(5.0, flush=True); time.sleep(0.1)"


@pytest.fixture(params=list(METERS))
def meter(request, tmp_path):
    """Each meter as it is on this machine."""
    arguments = {
        "command": shlex.join([sys.executable, "-c", PRINTS]),
        "csv": str(tmp_path / "missing" / "power.csv"),
    }
    assert arguments.keys() == ARGUMENTS.keys()
    name = request.param
    return make_meter(f"{name}:{arguments[name]}" if name in arguments else name)


# NVML has its own fake: the real nvidia-ml-py on a compiled library, in tests/bench/test_meters.py.
ON_A_BOARD = {
    "ina3221": lambda b: Ina3221(b.root, b.clock, sampler=b.sampler),
    "pmic": lambda b: Pmic(b.vcgencmd, b.clock, sampler=b.sampler),
    "odpm": lambda b: Odpm(b.root, b.clock),
    "rapl": lambda b: Rapl(b.root, b.clock),
    "power-supply": lambda b: PowerSupply(b.root, b.clock, sampler=b.sampler),
    "csv": lambda b: External(b.csv, clock=b.clock),
    "command": lambda b: Command(
        [sys.executable, "-c", "print(1)"], lambda _: f"{b.watts}", b.clock, sampler=b.sampler
    ),
}


@pytest.fixture
def board(tmp_path):
    """A board, and an instrument beside it that has been recording for a while."""
    made = Board(SteppingClock(), tmp_path)
    made.clock.sleep(2.0)
    return made


def test_it_has_the_protocols_parts(meter):
    for method in ("__enter__", "__exit__", "probe", "window"):
        assert inspect.getdoc(getattr(meter, method)), method
    assert METERS[meter.name.partition(":")[0]]
    assert meter.label in ("measured", "estimated")


def test_the_probe_answers_and_says_what_to_do(meter):
    for probe in (probe_meters()[meter.name.partition(":")[0]], meter.probe()):
        assert isinstance(probe, Availability)
        assert probe.reason
        assert bool(probe.fix) is not probe.ok


def test_where_the_probe_says_no_opening_refuses_with_the_same_reason(meter):
    probe = meter.probe()
    if probe.ok:
        pytest.skip("It can measure here.")
    with pytest.raises(UnavailableError) as raised:
        meter.__enter__()
    assert raised.value.message == probe.reason
    assert raised.value.hint == probe.fix


def test_a_window_yields_joules_of_every_primary_domain(meter):
    probe = meter.probe()
    if not probe.ok:
        pytest.skip(probe.reason)
    with meter:
        assert meter.primary
        assert meter.period_s > 0
        with meter.window(lambda: time.sleep(0.001)) as window:
            with pytest.raises(UnavailableError, match="still open"):
                _ = window.reading
            window.keep(25 * meter.period_s)
        reading = window.reading
    assert set(meter.primary) <= set(reading.domains_j)
    assert all(joules > 0 for joules in reading.domains_j.values())
    assert reading.duration_s >= 25 * meter.period_s
    assert reading.method
    assert window.runs > 0


def test_every_meter_is_tried_on_a_board():
    assert {*ON_A_BOARD, "nvml"} == set(METERS)


@pytest.mark.parametrize("name", ON_A_BOARD)
@pytest.mark.parametrize("busy", [True, False])
def test_the_joules_are_the_known_ones(board: Board, name: str, busy: bool):
    """10 W under a load and 4 W without, over many wraps and periods."""
    meter = ON_A_BOARD[name](board)
    assert meter.probe().ok
    with meter:
        if name == "csv":  # its pattern comes before the first window with a load
            with meter.window(board.work):
                pass
        with meter.window(board.work if busy else None) as window:
            window.keep(max(6.0, min(12.0, 20 * (meter.period_s or 0))))
        board.clock.sleep(0.1)
        reading = window.reading
    joules = sum(reading.domains_j[domain] for domain in meter.primary)
    assert joules / reading.duration_s == pytest.approx(BUSY_W if busy else IDLE_W, rel=0.01)
    if busy:
        assert joules / window.runs == pytest.approx(BUSY_W * RUN_S, rel=0.01)


def test_the_battery_is_no_meter_while_it_charges(board: Board, tmp_path: Path):
    meter = PowerSupply(board.root, board.clock, sampler=None)
    with meter, meter.window() as window:
        (tmp_path / "sys/class/power_supply/AC/online").write_text("1\n")
        with pytest.raises(UnavailableError, match="AC feeds the device"):
            window.poll()
        (tmp_path / "sys/class/power_supply/AC/online").write_text("0\n")
    (tmp_path / "sys/class/power_supply/BAT0/status").write_text("Charging\n")
    assert "BAT0 is Charging" in meter.probe().reason
    with pytest.raises(UnavailableError, match="Charging"):
        meter.__enter__()
