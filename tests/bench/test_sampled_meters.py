"""The Raspberry Pi's rails, batteries and programs: what they say, and every way they fail."""

import shlex
import subprocess
import sys

import pytest

from edgekit.bench.meters.command import Command, watts_of
from edgekit.bench.meters.ina3221 import Ina3221
from edgekit.bench.meters.odpm import Odpm
from edgekit.bench.meters.pmic import Pmic, rails_of
from edgekit.bench.meters.power_supply import PowerSupply
from edgekit.bench.meters.programs import run_program
from edgekit.errors import UnavailableError

# As a Raspberry Pi 5 prints it.
RAILS = """\
 3V7_WL_SW_A current(0)=0.09466522A
   3V3_SYS_A current(1)=0.08197812A
   1V8_SYS_A current(2)=0.15029320A
  DDR_VDD2_A current(3)=0.00390372A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.20299340A
    0V8_SW_A current(6)=0.30546610A
  VDD_CORE_A current(7)=1.11625000A
   3V3_DAC_A current(17)=0.00000000A
   3V3_ADC_A current(18)=0.00018315A
   0V8_AON_A current(16)=0.00274725A
      HDMI_A current(22)=0.01660560A
 3V7_WL_SW_V volt(8)=3.62925200V
   3V3_SYS_V volt(9)=3.31652900V
   1V8_SYS_V volt(10)=1.80391400V
  DDR_VDD2_V volt(11)=1.10634100V
  DDR_VDDQ_V volt(12)=0.60622410V
   1V1_SYS_V volt(13)=1.10707300V
    0V8_SW_V volt(14)=0.80145900V
  VDD_CORE_V volt(15)=0.84552900V
   3V3_DAC_V volt(20)=3.31286400V
   3V3_ADC_V volt(21)=3.31469500V
   0V8_AON_V volt(19)=0.79926330V
      HDMI_V volt(23)=5.09832000V
     EXT5V_V volt(24)=5.09296000V
      BATT_V volt(25)=0.00000000V
"""


def test_the_pis_twelve_rails_are_volts_times_amperes():
    rails = rails_of(RAILS)
    assert len(rails) == 12
    assert rails["VDD_CORE"] == pytest.approx(1.11625 * 0.845529)
    assert rails["DDR_VDDQ"] == 0.0
    assert "EXT5V" not in rails, "its current is not measured"
    assert sum(rails.values()) == pytest.approx(2.3917, abs=1e-3)


def test_the_pis_sum_is_over_its_rails(clock):
    with Pmic(lambda _: RAILS, clock, sampler=None) as meter:
        assert len(meter.primary) == 12
        with meter.window() as window:
            for _ in range(40):
                window.keep(0.25)
                window.poll()
    joules = sum(window.reading.domains_j.values())
    assert joules == pytest.approx(10 * sum(rails_of(RAILS).values()), rel=0.01)


@pytest.mark.parametrize(
    ("said", "says", "hint"),
    [
        ('error=1 error_msg="Command not registered"', "names no rail", "Raspberry Pi 5"),
        ("", "names no rail", "Raspberry Pi 5"),
        (
            UnavailableError("vcgencmd failed; it said: VCHI initialization failed", ""),
            "VCHI",
            "usermod",
        ),
        (UnavailableError("There is no program 'vcgencmd' here.", ""), "no program", "raspi-utils"),
    ],
)
def test_a_pi_that_does_not_tell_says_why(said, says, hint):
    def run(command):
        if isinstance(said, Exception):
            raise said
        return said

    probe = Pmic(run).probe()
    assert not probe.ok
    assert says in probe.reason
    assert hint in probe.fix


def battery(root, name="BAT0", **files):
    folder = root / "sys/class/power_supply" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, value in {"type": "Battery", "status": "Discharging", **files}.items():
        (folder / file).write_text(f"{value}\n", encoding="utf-8")


def test_a_battery_of_amperes_and_volts_whatever_the_sign(clock, tmp_path):
    battery(tmp_path, current_now=-1_250_000, voltage_now=8_000_000)
    battery(tmp_path, "BAT1", status="Not charging", power_now=0, scope="System")
    battery(tmp_path, "mouse", scope="Device", power_now=5_000_000)
    with PowerSupply(tmp_path, clock, sampler=None) as meter, meter.window() as window:
        for _ in range(20):
            window.keep(2.0)
            window.poll()
    assert set(window.reading.domains_j) == {"BAT0", "BAT1"}
    joules, seconds = window.reading.domains_j["BAT0"], window.reading.duration_s
    assert joules / seconds == pytest.approx(10.0, rel=0.01)


def test_a_battery_that_tells_only_what_is_left_is_a_counter(clock, tmp_path):
    """18 W out of a gauge that moves by 10 mWh, so every two seconds."""
    battery(tmp_path, energy_now=40_000_000)
    file, began = tmp_path / "sys/class/power_supply/BAT0/energy_now", clock.now
    shown = [40_000_000]

    def move(now):
        left = 40_000_000 - int(18.0 * (now - began) / 1e9 / 3.6e-3)
        left -= left % 10_000
        if left != shown[0]:
            shown[0] = left
            file.write_text(f"{left}\n", encoding="utf-8")

    clock.listeners.append(move)
    with PowerSupply(tmp_path, clock) as meter:
        assert meter.period_s == pytest.approx(2.0, rel=0.1)
        with meter.window(lambda: clock.advance(0.05e9)) as window:
            window.keep(40.0)
    reading = window.reading
    assert reading.domains_j["BAT0"] / reading.duration_s == pytest.approx(18.0, rel=0.01)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"status": "Full", "power_now": 1}, "BAT0 is Full"),
        ({"status": "Unknown", "power_now": 1}, "BAT0 is Unknown"),
        ({"capacity": 80}, "no battery that tells"),
        ({"power_now": "?"}, "cannot be read"),
    ],
)
def test_a_battery_that_tells_nothing_says_why(tmp_path, files, says):
    battery(tmp_path, **files)
    probe = PowerSupply(tmp_path).probe()
    assert not probe.ok
    assert says in probe.reason
    with pytest.raises(UnavailableError, match=says.replace("?", r"\?")):
        PowerSupply(tmp_path).__enter__().window().__enter__()


def test_files_that_may_not_be_read_are_named_with_the_mend(tmp_path, monkeypatch):
    battery(tmp_path, power_now=1)
    chip = tmp_path / "sys/class/hwmon/hwmon0"
    rails = tmp_path / "sys/bus/iio/devices/iio:device0/energy_value"
    for path, text in (
        (chip / "name", "ina3221"),
        (chip / "in1_label", "VDD_IN"),
        (chip / "in1_input", "5000"),
        (chip / "curr1_input", "1"),
        (rails, "CH0(T=1)[A], 1"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8")
    read = type(tmp_path).read_text

    def refuse(path, *arguments, **options):
        if path.name in ("power_now", "curr1_input", "energy_value"):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(type(tmp_path), "read_text", refuse)
    for meter, mend in (
        (PowerSupply(tmp_path), "permissions"),
        (Ina3221(tmp_path), "permissions of /sys/class/hwmon"),
        (Odpm(tmp_path), "root"),
    ):
        probe = meter.probe()
        assert not probe.ok
        assert "Permission denied" in probe.reason
        assert mend in probe.fix
        with pytest.raises(UnavailableError, match="Permission denied"):
            meter.__enter__()


def python(code):
    return [sys.executable, "-c", code]


def test_a_program_that_prints_lines_is_read_line_by_line():
    """Constant power: whatever the machine's mood, joules over seconds are that power."""
    code = "import time\nwhile True: print('7.25 W', flush=True); time.sleep(0.01)"
    with Command(python(code)) as meter:
        assert meter.holds
        meter.period_s = 0.4  # a busy machine that prints late is no fault of this test
        with meter.window(lambda: sum(range(1000))) as window:
            window.keep(0.3)
        process = meter._process
    assert process.poll() is not None, "it is ended with the meter"
    reading = window.reading
    assert reading.domains_j["command"] / reading.duration_s == pytest.approx(7.25)
    assert reading.method.endswith("on updates")
    assert window.runs > 0


def test_a_program_that_prints_one_number_is_called_again_and_again(clock):
    answers = iter(range(1000))

    def run(command):
        assert command == tuple(python("print(1)"))
        return f"starting\n{2.0 + next(answers) % 2}\n"

    with Command(python("print(1)"), run, clock, sampler=None) as meter:
        assert not meter.holds
        with meter.window() as window:
            for _ in range(100):
                window.keep(meter.period_s)
                window.poll()
    reading = window.reading
    assert reading.domains_j["command"] / reading.duration_s == pytest.approx(2.5, rel=0.01)


def test_a_program_that_ends_in_mid_window_makes_it_invalid():
    code = "import time\nfor _ in range(30): print(1.0, flush=True); time.sleep(0.01)"
    with Command(python(code)) as meter:
        window = meter.window()
        window.__enter__()
        meter._process.wait()
        meter._reader.join()
        with pytest.raises(UnavailableError, match="ended while it was needed"):
            window.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["no-such-program-here"], "cannot be started"),
        (python("print('lots')"), "no number of watts"),
        (python("import sys; sys.exit('the probe is not plugged in')"), "not plugged in"),
        (python("pass"), "no number of watts"),
    ],
)
def test_a_program_that_gives_no_watts_says_why(command, says):
    meter = Command(command)
    probe = meter.probe()
    assert not probe.ok
    assert says in probe.reason
    with pytest.raises(UnavailableError, match=says):
        meter.__enter__()


def test_a_program_that_keeps_silent_is_given_up(monkeypatch):
    monkeypatch.setattr("edgekit.bench.meters.command.FIRST_S", 0.1)
    probe = Command(python("import time; time.sleep(60)")).probe()
    assert "printed 0 lines" in probe.reason
    assert "stdbuf" in probe.fix


def test_the_command_is_split_as_a_shell_would():
    meter = Command.from_argument("./watts.sh --channel 'the second'")
    assert meter.command == ("./watts.sh", "--channel", "the second")
    assert meter.name == "command:" + shlex.join(meter.command)


@pytest.mark.parametrize(
    ("text", "watts"), [("4.21", 4.21), (" 3 W\n", 3.0), ("850 mW", 0.85), ("1e-3\n", 1e-3)]
)
def test_watts_are_read_with_or_without_their_unit(text, watts):
    assert watts_of(text, "p") == pytest.approx(watts)


def test_a_program_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr("edgekit.bench.meters.programs.TIMEOUT_S", 0.1)
    with pytest.raises(UnavailableError, match="did not end"):
        run_program(["sleep", "60"])
    assert run_program(["echo", "1"]) == "1\n"
    with pytest.raises(UnavailableError, match="cannot be run"):
        run_program(["/"])
    assert subprocess.run(["true"], check=True).returncode == 0
