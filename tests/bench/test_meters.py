"""Meters on fake sensors whose joules are known, over wraps, gaps, stuck and missing files."""

import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgekit.bench.meters import check_meter
from edgekit.bench.meters.ina3221 import Ina3221
from edgekit.bench.meters.nvml import Nvml
from edgekit.bench.meters.odpm import Odpm
from edgekit.bench.meters.rapl import Rapl
from edgekit.bench.meters.replay import Replay
from edgekit.bench.meters.sampled import trapezoid
from edgekit.errors import UnavailableError, UsageError


class Counter:
    """A counter file that steps every `period_s` by what `watts` has used since."""

    def __init__(self, clock, folder, name, *, watts=40.0, period_s=1e-3, wrap=None, start=0):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n", encoding="utf-8")
        if wrap is not None:
            (folder / "max_energy_range_uj").write_text(f"{wrap}\n", encoding="utf-8")
        self.path, self.watts, self.period_ns = folder / "energy_uj", watts, period_s * 1e9
        self.wrap, self.uj, self.shown, self.last = wrap, float(start), -1, clock.now
        self.wraps = 0
        self.move(clock.now)
        clock.listeners.append(self.move)

    def move(self, now):
        steps = now // self.period_ns
        if steps == self.shown:
            return
        self.uj += self.watts * (now - self.last) / 1e3
        self.last, self.shown = now, steps
        value = int(self.uj)
        if self.wrap is not None:
            self.wraps, value = divmod(value, self.wrap)
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(file, b"%020d\n" % value)
        os.close(file)


@pytest.fixture
def zones(tmp_path):
    return tmp_path / "sys/class/powercap"


def loaded(clock, seconds=1e-3):
    return lambda: clock.advance(seconds * 1e9)


def watts_of(meter, clock, seconds=0.5, **options):
    with meter, meter.window(loaded(clock), **options) as window:
        window.keep(seconds)
    total = sum(window.reading.domains_j[name] for name in meter.primary)
    return total / window.reading.duration_s, window


def test_rapl_within_one_percent_of_the_known_joules(clock, zones, tmp_path):
    Counter(clock, zones / "intel-rapl:0", "package-0", watts=65.0, wrap=262_143_328_850)
    watts, window = watts_of(Rapl(tmp_path, clock), clock)
    assert watts == pytest.approx(65.0, rel=0.01)
    assert window.reading.method == "counter, edge-aligned"
    assert window.reading.period_s == pytest.approx(1e-3, rel=0.2)
    assert window.runs == pytest.approx(window.reading.duration_s / 1e-3, abs=2)


def test_rapl_counts_packages_and_memory_but_no_part_twice(clock, zones, tmp_path):
    for place, watts in enumerate((30.0, 20.0)):
        top = f"intel-rapl:{place}"
        Counter(clock, zones / top, f"package-{place}", watts=watts, wrap=10**12)
        Counter(clock, zones / f"{top}:0", "core", watts=watts / 2, wrap=10**12)
        Counter(clock, zones / f"{top}:1", "dram", watts=3.0, wrap=10**12)
    Counter(clock, zones / "intel-rapl:2", "psys", watts=70.0, wrap=10**12)
    Counter(clock, zones / "intel-rapl-mmio:0", "package-0", watts=30.0, wrap=10**12)
    meter = Rapl(tmp_path, clock)
    watts, window = watts_of(meter, clock)
    assert set(meter.primary) == {
        "package-0",
        "package-1",
        "package-0/dram",
        "package-1/dram",
    }
    assert watts == pytest.approx(56.0, rel=0.01)
    joules, seconds = window.reading.domains_j, window.reading.duration_s
    assert joules["package-0/core"] / seconds == pytest.approx(15.0, rel=0.01)
    assert joules["psys"] / seconds == pytest.approx(70.0, rel=0.01)


def test_a_package_shown_twice_is_taken_once(clock, zones, tmp_path):
    Counter(clock, zones / "intel-rapl:0", "package-0", watts=30.0, wrap=10**12)
    Counter(clock, zones / "intel-rapl:1", "package-0", watts=30.0, wrap=10**12)
    assert watts_of(Rapl(tmp_path, clock), clock)[0] == pytest.approx(30.0, rel=0.01)


def test_wraps_are_taken_back(clock, zones, tmp_path):
    counter = Counter(clock, zones / "intel-rapl:0", "package-0", watts=1500.0, wrap=1_600_000_000)
    with Rapl(tmp_path, clock) as meter, meter.window(loaded(clock)) as window:
        window.keep(4.5)
    assert counter.wraps >= 4
    total = window.reading.domains_j["package-0"]
    assert total / window.reading.duration_s == pytest.approx(1500.0, rel=0.01)


def test_a_wrap_of_unknown_range_makes_the_window_invalid(clock, zones, tmp_path):
    counter = Counter(clock, zones / "intel-rapl:0", "package-0")
    with Rapl(tmp_path, clock) as meter:
        with meter.window(loaded(clock)) as window:
            window.keep(0.1)
            counter.uj = 0.0
        with pytest.raises(UnavailableError, match="range is unknown"):
            _ = window.reading


def test_polling_too_slowly_for_the_range_makes_the_window_invalid(clock, zones, tmp_path):
    Counter(clock, zones / "intel-rapl:0", "package-0", wrap=10_000_000)
    with Rapl(tmp_path, clock) as meter:
        with meter.window() as window:
            clock.advance(60e9)
        with pytest.raises(UnavailableError, match="more than once"):
            _ = window.reading


def test_a_stuck_counter_is_no_zero(clock, zones, tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.bench.meters.counter.PATIENCE_S", 0.2)
    Counter(clock, zones / "intel-rapl:0", "package-0", watts=0.0)
    with pytest.raises(UnavailableError, match="did not move"):
        Rapl(tmp_path, clock).__enter__()


def test_a_counter_that_gets_stuck_makes_the_window_invalid(clock, zones, tmp_path):
    counter = Counter(clock, zones / "intel-rapl:0", "package-0")
    with Rapl(tmp_path, clock) as meter:
        counter.watts = 0.0
        with meter.window(loaded(clock), align=False) as window:
            window.keep(0.5)
        with pytest.raises(UnavailableError, match=r"package-0 did not move in 0\.5 s"):
            _ = window.reading


def test_permission_denied_is_said_with_its_mend(clock, zones, tmp_path, monkeypatch):
    Counter(clock, zones / "intel-rapl:0", "package-0")
    read = Path.read_text

    def refuse(path, *arguments, **options):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    probe = Rapl(tmp_path, clock).probe()
    assert not probe.ok
    assert "may not be read" in probe.reason
    assert "chmod a+r" in probe.fix


def test_no_zones_is_said(tmp_path):
    probe = Rapl(tmp_path).probe()
    assert not probe.ok
    assert "virtual machine" in probe.fix
    with pytest.raises(UnavailableError, match="no RAPL zones"):
        Rapl(tmp_path).__enter__()


def test_aligned_windows_err_far_less_than_naive_ones(clock, zones, tmp_path):
    """The figures of the measuring guide: 0.5 s windows on a counter that moves every 0.1 s."""
    Counter(clock, zones / "intel-rapl:0", "package-0", watts=50.0, period_s=0.1, wrap=10**12)
    phases = np.random.default_rng(0)
    errors = {True: [], False: []}
    with Rapl(tmp_path, clock) as meter:
        for align in errors:
            for _ in range(30):
                clock.advance(phases.uniform(0, 1e8))
                with meter.window(loaded(clock), align=align) as window:
                    window.keep(0.45)
                found = window.reading.domains_j["package-0"] / window.reading.duration_s
                errors[align].append(abs(found / 50.0 - 1))
    assert max(errors[True]) < 0.01
    assert max(errors[False]) > 0.08


def ina(folder, name="ina3221", **files):
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n", encoding="utf-8")
    for file, text in files.items():
        (folder / file).write_text(f"{text}\n", encoding="utf-8")


@pytest.fixture
def jetson(tmp_path):
    ina(
        tmp_path / "sys/class/hwmon/hwmon3",
        in1_label="VDD_IN",
        in1_input=5000,
        curr1_input=2000,
        in2_label="VDD_CPU_GPU_CV",
        in2_input=5000,
        curr2_input=800,
        in7_label="Sum of shunt voltages",
        in7_input=3,
        curr7_input=3,
        update_interval=20,
    )
    return tmp_path


def test_ina3221_takes_the_total_and_adds_no_rail_to_it(clock, jetson):
    current = jetson / "sys/class/hwmon/hwmon3/curr1_input"
    meter = Ina3221(jetson, clock, sampler=None)
    with meter, meter.window(loaded(clock, 0.005)) as window:
        assert meter.primary == ("VDD_IN",)
        assert meter.period_s == pytest.approx(0.02)
        for place in range(50):  # 10 W and 20 W in turn: a duty cycle
            current.write_text(str(4000 if place // 5 % 2 else 2000), encoding="utf-8")
            window.poll()
            window.keep(0.02)
    reading = window.reading
    assert set(reading.domains_j) == {"VDD_IN", "VDD_CPU_GPU_CV"}
    assert reading.domains_j["VDD_IN"] / reading.duration_s == pytest.approx(15.0, rel=0.02)
    assert reading.domains_j["VDD_CPU_GPU_CV"] / reading.duration_s == pytest.approx(4.0, rel=0.01)
    assert window.runs == pytest.approx(200, abs=4)


def test_ina238_shows_power_itself(clock, tmp_path):
    ina(tmp_path / "sys/class/hwmon/hwmon0", name="ina238", power1_input=7_500_000)
    with Ina3221(tmp_path, clock, sampler=None) as meter:
        assert meter.read_watts() == {"VDD_IN": 7.5}


def test_several_ina238_without_labels_do_not_hide_each_other(clock, tmp_path):
    ina(tmp_path / "sys/class/hwmon/hwmon0", name="ina238", power1_input=7_500_000)
    ina(tmp_path / "sys/class/hwmon/hwmon1", name="ina238", power1_input=1_500_000)
    ina(tmp_path / "sys/class/hwmon/hwmon2", name="acpitz", power1_input=9_000_000)
    with Ina3221(tmp_path, clock, sampler=None) as meter:
        assert meter.read_watts() == {"VDD_IN": 7.5, "hwmon1": 1.5}
        assert meter.primary == ("VDD_IN",)


def test_an_agx_orin_has_no_total_and_its_rails_are_added_once(clock, tmp_path):
    rails = {"VDD_GPU_SOC": 3000, "VDD_CPU_CV": 1000, "VIN_SYS_5V0": 800}
    files = {}
    for place, (label, milliamperes) in enumerate(rails.items(), 1):
        files |= {f"in{place}_label": label, f"in{place}_input": 5000}
        files[f"curr{place}_input"] = milliamperes
    ina(tmp_path / "sys/class/hwmon/hwmon3", **files)
    ina(
        tmp_path / "sys/class/hwmon/hwmon4",
        in1_label="NC",
        in1_input=0,
        curr1_input=0,
        in2_label="VDDQ_VDD2_1V8AO",
        in2_input=5000,
        curr2_input=200,
        in3_label="VDD_OFF",
        in3_enable=0,
        in3_input=0,
        curr3_input=0,
    )
    with Ina3221(tmp_path, clock, sampler=None) as meter:
        assert set(meter.read_watts()) == {*rails, "VDDQ_VDD2_1V8AO"}
        assert meter.primary == tuple(rails)


def test_a_gap_in_the_samples_makes_the_window_invalid(clock, jetson):
    meter = Ina3221(jetson, clock, sampler=None)
    with meter:
        with meter.window() as window:
            window.keep(0.5)
        with pytest.raises(UnavailableError, match=r"a gap of 0\.5"):
            _ = window.reading


def test_a_sensor_that_vanishes_is_an_error_and_no_zero(clock, jetson):
    meter = Ina3221(jetson, clock, sampler=None)
    with meter, meter.window() as window:
        (jetson / "sys/class/hwmon/hwmon3/in1_input").unlink()
        with pytest.raises(UnavailableError, match="in1_input"):
            window.poll()
        (jetson / "sys/class/hwmon/hwmon3/in1_input").write_text("5000", encoding="utf-8")


def test_the_background_thread_samples_and_stops(jetson):
    with Ina3221(jetson) as meter:
        with meter.window() as window:
            while window.samples < 4:
                window.keep(0.02)
        count = window.samples
        window.keep(0.06)
        assert window.samples == count
        assert window.reading.domains_j["VDD_IN"] > 0


def test_trapezoid_integrates_a_ramp():
    assert trapezoid([0.0, 1.0, 3.0], [0.0, 2.0, 6.0]) == pytest.approx(9.0)


def trace(path, rows, header="time_s,watts"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_a_trace_is_integrated_over_the_window_on_the_harness_clock(clock, tmp_path):
    began = clock.now / 1e9
    rows = [f"{0.01 * n:.2f},{5.0 + (n // 100) % 2}" for n in range(1000)]
    meter = Replay(trace(tmp_path / "p.csv", rows), offset_s=began, clock=clock)
    with meter:
        clock.advance(0.505e9)
        with meter.window(loaded(clock)) as window:
            window.keep(4.0)
    reading = window.reading
    assert reading.domains_j["board"] / reading.duration_s == pytest.approx(5.5, rel=0.01)
    assert reading.method == "recorded, trapezoid"


def test_a_trace_of_volts_and_amperes(clock, tmp_path):
    path = trace(tmp_path / "p.csv", ["0,5,1", "1,5,2", "2,5,3"], "time_s,volts,amperes")
    with Replay(path, offset_s=0.0, clock=clock) as meter:
        assert meter.between(0.0, 2.0).domains_j["board"] == pytest.approx(20.0)


def test_a_trace_that_does_not_cover_the_window_or_has_a_gap_is_refused(clock, tmp_path):
    rows = [f"{n / 10},5" for n in [*range(10), *range(20, 40)]]
    with Replay(trace(tmp_path / "p.csv", rows), clock=clock) as meter:
        with pytest.raises(UnavailableError, match="does not cover"):
            meter.between(3.0, 9.0)
        with pytest.raises(UnavailableError, match="gap"):
            meter.between(0.2, 3.0)
        assert meter.between(2.0, 3.0).domains_j["board"] == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("rows", "header", "says"),
    [
        (["0,1", "1,1"], "moment,watts", "lacks"),
        (["0,1"], "time_s,watts", "lacks"),
        (["0,1", "1,x"], "time_s,watts", "not all numbers"),
        (["1,1", "0,1"], "time_s,watts", "ascend"),
        (["0,1", "1,nan"], "time_s,watts", "finite"),
    ],
)
def test_a_broken_trace_is_named(tmp_path, rows, header, says):
    path = trace(tmp_path / "p.csv", rows, header)
    assert says in Replay(path).probe().reason
    with pytest.raises(UsageError, match=says):
        Replay(path).__enter__()


FAKE_NVML = r"""
#include <stdint.h>
uint64_t now_ns = 0; double watts = 0; uint64_t period_ns = 20000000;
int init_result = 0, energy_result = 0, gpus = 1;
int nvmlInit_v2(void) { return init_result; }
int nvmlInitWithFlags(unsigned f) { return init_result; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = gpus; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h)
{ *h = (void *)(uintptr_t)(i + 1); return i < gpus ? 0 : 2; }
int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *mj)
{
  *mj = (unsigned long long)(watts * (now_ns / period_ns * period_ns) / 1e6);
  return energy_result;
}
const char *nvmlErrorString(int e) { return "an NVML error"; }
"""


@pytest.fixture(scope="module")
def fake_nvml_file(tmp_path_factory):
    pytest.importorskip("pynvml")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(FAKE_NVML, encoding="utf-8")
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", target, folder / "nvml.c"], check=True)
    return target


@pytest.fixture
def nvml(clock, fake_nvml_file, monkeypatch):
    """The real nvidia-ml-py on a driver whose GPU draws 120 W of the fake clock's time."""
    import ctypes

    import pynvml

    library = ctypes.CDLL(str(fake_nvml_file))
    monkeypatch.setattr(pynvml, "CDLL", lambda _: library)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    now = ctypes.c_uint64.in_dll(library, "now_ns")
    clock.listeners.append(lambda ns: setattr(now, "value", ns))
    ctypes.c_double.in_dll(library, "watts").value = 120.0
    ctypes.c_int.in_dll(library, "init_result").value = 0
    ctypes.c_int.in_dll(library, "energy_result").value = 0
    return lambda name: ctypes.c_int.in_dll(library, name)


@pytest.mark.usefixtures("nvml")
def test_nvml_within_one_percent_of_the_known_joules(clock):
    watts, window = watts_of(Nvml(clock=clock), clock, seconds=2.0)
    assert watts == pytest.approx(120.0, rel=0.01)
    assert set(window.reading.domains_j) == {"gpu0"}
    assert window.reading.period_s == pytest.approx(0.02, rel=0.05)


def test_nvml_on_a_gpu_without_a_counter_says_so(clock, nvml):
    nvml("energy_result").value = 3  # NVML_ERROR_NOT_SUPPORTED: what Jetson answers
    probe = Nvml(clock=clock).probe()
    assert not probe.ok
    assert "no energy counter" in probe.reason
    assert "ina3221" in probe.fix


def test_nvml_of_several_gpus_is_their_sum(clock, nvml):
    nvml("gpus").value = 2
    watts, window = watts_of(Nvml(clock=clock), clock, seconds=2.0)
    nvml("gpus").value = 1
    assert watts == pytest.approx(240.0, rel=0.01)
    assert set(window.reading.domains_j) == {"gpu0", "gpu1"}


def test_a_driver_that_is_loaded_anew_makes_the_window_invalid(clock, fake_nvml_file, nvml):
    """Its counter starts at 0 again: a step back that is no wrap."""
    import ctypes

    assert nvml("gpus").value == 1
    with Nvml(clock=clock) as meter:
        with meter.window(loaded(clock)) as window:
            window.keep(0.5)
            ctypes.c_double.in_dll(ctypes.CDLL(str(fake_nvml_file)), "watts").value = 1.0
        with pytest.raises(UnavailableError, match="wrapped, and its range is unknown"):
            _ = window.reading


def test_an_nvml_counter_that_stands_still_is_no_zero(clock, fake_nvml_file, nvml):
    import ctypes

    assert nvml("gpus").value == 1
    ctypes.c_double.in_dll(ctypes.CDLL(str(fake_nvml_file)), "watts").value = 0.0
    with pytest.raises(UnavailableError, match="did not move"):
        Nvml(clock=clock).__enter__()


def test_nvml_without_a_driver_says_so(clock, nvml):
    nvml("init_result").value = 9  # NVML_ERROR_DRIVER_NOT_LOADED
    probe = Nvml(clock=clock).probe()
    assert not probe.ok
    assert "driver" in probe.fix


def test_nvml_without_the_package_says_so(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py" in Nvml().probe().reason


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("rapi", "no meter 'rapi'", "'rapl'"),
        ("rapl:0", "takes no argument", "--meter rapl"),
        ("csv", "needs a file", "csv:FILE"),
        ("csv:p.csv,volts=much", "no number", "volts=3.7"),
        ("csv:p.csv,volts=0", "not over 0", "volts=3.7"),
        ("command:", "needs a program", "command:PROGRAM"),
        ("command:watts 'on", "cannot be read", "quotes"),
        ("estimates", "no meter", "'estimate'"),
    ],
)
def test_names_of_meters_are_checked(text, says, hint):
    with pytest.raises(UsageError, match=says) as raised:
        check_meter(text)
    assert hint in raised.value.hint


@pytest.mark.parametrize(
    "text", ["auto", "estimate", "csv:a,b.csv,volts=3.7,wait=9", "command:x y"]
)
def test_names_with_arguments_are_taken(text):
    check_meter(text)


def test_a_counter_whose_rails_may_rest_is_not_stuck(clock, tmp_path):
    file = tmp_path / "sys/bus/iio/devices/iio:device0/energy_value"
    file.parent.mkdir(parents=True)

    shown = None

    def move(now):
        nonlocal shown
        if now // 10_000_000 == shown:
            return
        shown = now // 10_000_000
        t = shown * 10.0
        file.write_text(
            f"t={t:.0f}\nCH0(T={t:.0f})[S2M_VDD_CPUCL2], {t * 2500:.0f}\n"
            f"CH1(T={t:.0f})[VSYS_PWR_MODEM], 1234\n",
            encoding="utf-8",
        )

    move(clock.now)
    clock.listeners.append(move)
    with Odpm(tmp_path, clock) as meter, meter.window(loaded(clock, 2e-3)) as window:
        window.keep(1.0)
    joules = window.reading.domains_j
    assert joules["S2M_VDD_CPUCL2"] / window.reading.duration_s == pytest.approx(2.5, rel=0.01)
    assert joules["VSYS_PWR_MODEM"] == 0.0
    assert window.reading.period_s == pytest.approx(0.01, rel=0.1)


def test_odpm_without_a_monitor_or_with_an_unknown_one_says_so(tmp_path):
    assert "no power monitor" in Odpm(tmp_path).probe().reason
    file = tmp_path / "sys/bus/iio/devices/iio:device0/energy_value"
    file.parent.mkdir(parents=True)
    file.write_text("12345\n", encoding="utf-8")
    assert "names no rail" in Odpm(tmp_path).probe().reason


def test_fake_counter_is_what_it_says(clock, zones):
    counter = Counter(clock, zones / "intel-rapl:0", "package-0", watts=10.0, period_s=0.1)
    seen = []
    for _ in range(1000):
        clock.advance(1e6)
        seen.append(int(counter.path.read_text(encoding="utf-8")))
    assert len({late - early for early, late in pairwise(seen)}) <= 3
    assert seen[-1] - seen[0] == pytest.approx(10e6, rel=0.11)
