"""Recordings of external meters: read as the instruments write them, aligned by the load."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from edgekit.bench import Protocol
from edgekit.bench.energy import measure_energy
from edgekit.bench.load import load_of
from edgekit.bench.meters.align import Segment, find_pattern, give_pattern
from edgekit.bench.meters.external import CHIP_PERIODS, LEAST_CHIP_S, External, Recording
from edgekit.bench.meters.trace import integrate, layout_of, merged, thinned
from edgekit.bench.protocol import Mode
from edgekit.errors import UnavailableError, UsageError


@pytest.mark.parametrize(
    ("header", "row", "seconds", "watts", "volts"),
    [
        ("#time (s),current (A),voltage (V),power (W)", "0.5,0.2,5.0,1.0", 0.5, 1.0, None),
        ("time,current,voltage", "0.5,0.2,5.0", 0.5, 1.0, None),
        ("Timestamp(ms),Current(uA),D0-D7", "500,200000.0,00000000", 0.5, 0.74, 3.7),
        ("Time(ms),Main(mA),Main Voltage(V),", "0.5,200,5.0,", 0.5, 1.0, None),
        (
            "Time (s),Main Avg Current (mA),Main Avg Voltage (V)",
            "0.5,200,5.0",
            0.5,
            1.0,
            None,
        ),
        ("time_ms;power_mw", "500;1000", 0.5, 1.0, None),
        ("time_s\tvolts\tamperes", "0.5\t5\t0.2", 0.5, 1.0, None),
        ('"Time (us)","Power (uW)"', "500000,1000000", 0.5, 1.0, None),
    ],
)
def test_the_headers_of_instruments_are_understood(header, row, seconds, watts, volts):
    times, power = layout_of(header, "p.csv", volts).power([row, row])
    assert times.tolist() == pytest.approx([seconds, seconds])
    assert power.tolist() == pytest.approx([watts, watts])


def test_ptdaemons_log_has_no_header():
    line = "Time,01-31-2025 12:00:0{},Watts,35.{},Volts,229.8,Amps,0.16,PF,0.9,Mark,notset"
    lines = [line.format("0.250", 2), line.format("1.250", 4)]
    times, watts = layout_of(lines[0], "p.csv").power(lines)
    assert float(times[1] - times[0]) == pytest.approx(1.0)
    assert watts.tolist() == [35.2, 35.4]


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("a,b", "lacks a column of time"),
        ("time,temperature", "lacks a column of power"),
        ("time (s),current (A)", "lacks volts"),
    ],
)
def test_a_header_that_lacks_something_is_named(header, says):
    with pytest.raises(UsageError, match=says) as raised:
        layout_of(header, "p.csv")
    assert raised.value.hint


def test_samples_of_one_time_are_one_and_fast_ones_are_thinned():
    times, watts = merged(np.array([0.0, 0.0, 1.0]), np.array([2.0, 4.0, 5.0]), "p")
    assert (times.tolist(), watts.tolist()) == ([0.0, 1.0], [3.0, 5.0])
    fast = np.arange(100_000) * 1e-5
    power = 1.0 + np.sin(fast * 40)
    thin_times, thin_power = thinned(fast, power)
    assert len(thin_times) <= 11_000
    before, _ = integrate(fast, power, 0.1, 0.9)
    after, _ = integrate(thin_times, thin_power, 0.1, 0.9)
    assert after == pytest.approx(before, rel=1e-3)


def on_off(clock, chip_s=0.3):
    """Give the pattern; return it and a function of the power at a moment."""
    segments = give_pattern(lambda: clock.advance(10e6), clock, chip_s)

    def power(t):
        busy = any(s.on and s.begin_s <= t < s.end_s for s in segments)
        return 9.0 if busy else 4.0

    return segments, power


@pytest.mark.parametrize("rate", [1000.0, 100.0, 10.0, 1.0])
@pytest.mark.parametrize("drift_w", [0.0, 0.02])
def test_the_offset_is_found_among_other_loads(clock, rate, drift_w):
    """Noise, a slow drift, and a benchmark before: the pattern is told from them all."""
    segments, power = on_off(clock, max(LEAST_CHIP_S, CHIP_PERIODS / rate))
    noise = np.random.default_rng(0)
    begin = segments[0].begin_s
    times = np.arange(begin - 40.0, segments[-1].end_s + 20.0, 1 / rate)
    watts = np.array([power(t) + drift_w * (t - begin) for t in times])
    watts[(times > begin - 30) & (times < begin - 12)] += 5.0
    watts += noise.normal(0, 0.4, len(times))
    found = find_pattern(segments, times + 5000.125, watts)
    assert found.sure
    assert found.offset_s == pytest.approx(5000.125, abs=max(1e-3, 0.25 / rate))


def test_a_recording_without_the_pattern_is_not_believed(clock):
    segments, _ = on_off(clock)
    times = np.arange(0.0, 60.0, 0.01)
    noise = np.random.default_rng(1)
    assert not find_pattern(segments, times, noise.normal(5, 1, len(times))).sure
    assert not find_pattern(segments, times, np.full(len(times), 5.0)).sure
    square = np.where(times % 2 < 1, 9.0, 4.0)
    assert not find_pattern(segments, times, square).sure
    assert find_pattern(segments, times[:50], square[:50]) is None


def test_segments_are_those_that_were(clock):
    segments = give_pattern(lambda: clock.advance(2e9), clock, 0.3)
    assert all(isinstance(each, Segment) for each in segments)
    assert all(b.begin_s == a.end_s for a, b in pairwise(segments))
    assert min(s.end_s - s.begin_s for s in segments if s.on) >= 2.0, "one inference at least"


PROTOCOL = Protocol(idle_s=5.0, window_s=5.0, windows=3)


class Bench:
    """A load of 9 W beside 4 W, and an instrument that notes it on its own clock."""

    def __init__(self, clock, path, rate=200.0, offset_s=-700.0, export=False):
        self.clock, self.path, self.step = clock, path, 1 / rate
        self.offset_s, self.watts, self.rows = offset_s, 4.0, []
        self.next_s = clock.now / 1e9 - 3.0
        self.hidden = export
        clock.listeners.append(self.move)

    def run(self):
        self.watts = 9.0
        self.clock.advance(4e6)
        self.watts = 4.0

    def move(self, now):
        while self.next_s <= now / 1e9:
            self.rows.append(f"{self.next_s + self.offset_s:.6f},{self.watts}\n")
            self.next_s += self.step
        if not self.hidden and len(self.rows) > 500:
            self.write()

    def write(self):
        head = "" if self.path.exists() else "time_s,watts\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(head + "".join(self.rows))
        self.rows = []

    def measure(self, meter, say=lambda *_: None):
        with meter:
            return measure_energy(meter, [("m", self.run)], PROTOCOL, self.clock, say)[0]


def test_a_growing_recording_gives_the_known_joules(clock, tmp_path):
    bench = Bench(clock, tmp_path / "p.csv")
    energy = bench.measure(External(bench.path, clock=clock))
    assert energy.energy_j.value == pytest.approx(9.0 * 4e-3, rel=0.01)
    assert energy.idle_w == pytest.approx(4.0, rel=0.01)
    assert energy.power_w.value == pytest.approx(9.0, rel=0.01)
    assert (energy.energy_j.label, energy.meter) == ("measured", f"csv:{bench.path}")
    assert energy.method == "external, aligned by pattern"


def test_at_a_rate_the_pattern_is_still_seen(clock, tmp_path):
    """4 ms of 9 W in every 100 ms: 4.2 W, in which no pattern could be seen."""
    bench = Bench(clock, tmp_path / "p.csv", rate=1000.0)
    protocol = replace(PROTOCOL, mode=Mode("paced", rate_hz=10.0))
    load = load_of(bench.run, protocol, clock)
    with External(bench.path, clock=clock) as meter:
        energy = measure_energy(meter, [("m", load)], protocol, clock, lambda *_: None)[0]
    assert energy.power_w.value == pytest.approx(4.2, rel=0.01)
    assert energy.energy_j.value == pytest.approx(0.42, rel=0.02)


def test_a_recording_exported_afterwards_gives_the_known_joules(clock, tmp_path):
    bench = Bench(clock, tmp_path / "p.csv", export=True)

    def say(_, text):
        if text.endswith("reading"):  # the user stops the instrument and saves its file
            clock.sleep(20.0)
            bench.write()

    energy = bench.measure(External(bench.path, clock=clock), say)
    assert energy.energy_j.value == pytest.approx(9.0 * 4e-3, rel=0.01)


def test_waiting_for_a_recording_is_told_and_can_be_stopped(clock, tmp_path):
    bench = Bench(clock, tmp_path / "p.csv", export=True)
    told = []

    def say(_, text):
        told.append(text)
        if len([each for each in told if "waiting for p.csv" in each]) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.measure(External(bench.path, clock=clock), say)


def test_a_recording_of_an_earlier_run_is_not_taken_for_this_one(clock, tmp_path):
    bench = Bench(clock, tmp_path / "p.csv")
    assert bench.measure(External(bench.path, clock=clock)).energy_j.label == "measured"
    bench.hidden = True
    energy = bench.measure(External(bench.path, wait_s=5.0, clock=clock))
    assert energy.energy_j.label == "unavailable"
    assert "has not come, or grown" in energy.energy_j.note
    bench.write()  # one recording with the patterns of both runs: the last is taken
    bench.hidden = False
    energy = bench.measure(External(bench.path, wait_s=5.0, clock=clock))
    assert energy.energy_j.value == pytest.approx(9.0 * 4e-3, rel=0.01)


def test_a_recording_of_something_else_is_not_believed(clock, tmp_path):
    bench = Bench(clock, tmp_path / "other.csv", export=True)

    def say(_, text):
        if text.endswith("reading"):
            rows = [f"{n / 100},{4 + 5 * (n // 200 % 2)}" for n in range(20000)]
            (tmp_path / "p.csv").write_text("time_s,watts\n" + "\n".join(rows) + "\n")

    energy = bench.measure(External(tmp_path / "p.csv", wait_s=5.0, clock=clock), say)
    assert energy.energy_j.label == "unavailable"
    assert "not to be seen in p.csv" in energy.energy_j.note


def test_a_recording_that_never_comes_or_stops_early_is_said(clock, tmp_path):
    bench = Bench(clock, tmp_path / "p.csv", export=True)
    energy = bench.measure(External(bench.path, wait_s=5.0, clock=clock))
    assert "has not come, or grown, within 5 s" in energy.energy_j.note

    def say(_, text):
        if "window 2" in text:  # somebody stops the instrument too early
            bench.write()

    energy = bench.measure(External(bench.path, wait_s=5.0, clock=clock), say)
    assert "ends before the window" in energy.energy_j.note


def test_a_gap_in_a_recording_makes_it_invalid(clock, tmp_path):
    bench = Bench(clock, tmp_path / "p.csv", export=True)

    def say(_, text):
        if text.endswith("reading"):
            clock.sleep(5.0)
            middle = len(bench.rows) - 3500  # in the last window with a load
            del bench.rows[middle : middle + 20]
            bench.write()

    energy = bench.measure(External(bench.path, wait_s=5.0, clock=clock), say)
    assert "a gap of 0.1" in energy.energy_j.note


def test_a_file_is_read_as_it_grows_and_anew_where_it_is_replaced(tmp_path):
    path = tmp_path / "p.csv"
    recording = Recording(path, None)
    assert not recording.read()
    path.write_bytes(b"\xef\xbb\xbftime_s,watts\n0.0,1\n0.1,2\n0.2,")
    assert recording.read()
    assert recording.size == 2
    with path.open("a", encoding="utf-8") as file:
        file.write("3\n")
    assert recording.read()
    assert (recording.size, recording.last_s) == (3, 0.2)
    assert not recording.read()
    path.write_text("time_s,watts\n9.0,1\n", encoding="utf-8")
    assert recording.read()
    assert (recording.size, recording.last_s) == (1, 9.0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"time_s,watts\n0,1\n0.1,oops\n", "not all numbers"),
        (b"time_s,watts\n1,1\n0.5,1\n", "do not ascend"),
        (b"time_s,watts\n1,nan\n", "not finite"),
        (b"\xff\xfe\x00\x01\n", "no text"),
        (b"time (s),current (A)\n0,1\n", "lacks volts"),
    ],
)
def test_a_broken_recording_is_named_before_anything_is_measured(tmp_path, clock, data, says):
    path = tmp_path / "p.csv"
    path.write_bytes(data)
    probe = External(path, clock=clock).probe()
    assert not probe.ok
    assert says in probe.reason
    with pytest.raises(UnavailableError, match=says):
        External(path, clock=clock).__enter__()


def test_what_follows_the_colon_is_a_file_and_options():
    meter = External.from_argument("runs/a,b.csv,volts=3.7,wait=600")
    assert (str(meter.path), meter.volts, meter.wait_s) == ("runs/a,b.csv", 3.7, 600.0)
    assert "not there yet" not in External.from_argument("p.csv").probe().reason
    assert "no folder" in External.from_argument("nowhere/p.csv").probe().reason


def test_without_a_load_the_clocks_cannot_be_aligned(clock, tmp_path):
    bench = Bench(clock, tmp_path / "p.csv")
    with External(bench.path, clock=clock) as meter:
        with meter.window() as window:
            window.keep(1.0)
        with pytest.raises(UnavailableError, match="without a load"):
            _ = window.reading
