"""The roofline: known devices are measured as they are, and shares follow from the figures."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from edgekit.bench import Figure, Subject
from edgekit.bench.roofline import Peaks, Work, limit, measure_peaks, peaks_of, share
from edgekit.errors import UsageError

KIB = 1024


def rate(value: float, unit: str = "MAC/s", label: str = "measured") -> Figure:
    return Figure(value, None, None, unit, label)


PEAKS = Peaks(
    {"float32": rate(1e9), "int8": rate(4e9)},
    {192 * KIB: rate(10e9, "B/s"), 3072 * KIB: rate(5e9, "B/s"), 196608 * KIB: rate(1e9, "B/s")},
)


class Device:
    """A runtime whose products and sums take a known time: MACs, bytes and a call."""

    def __init__(self, clock, subject, *, macs_per_s, bytes_per_s, call_s=5e-6):
        self.clock, self.subject = clock, subject
        self.macs_per_s, self.bytes_per_s, self.call_s = macs_per_s, bytes_per_s, call_s

    def __enter__(self):
        assert self.subject.model.is_file()
        return self

    def __exit__(self, *exc):
        pass

    def bind(self, feeds):
        first = next(iter(feeds.values()))
        if first.ndim == 2:
            peak = self.macs_per_s.get(first.dtype.name)
            if peak is None:
                raise UsageError(f"No kernel for {first.dtype}.", "")
            seconds = len(first) ** 3 / peak
        else:
            seconds = self.call_s + 3 * first.nbytes / self.bytes_per_s
        return lambda: self.clock.advance(seconds * 1e9)


def device(clock, opened=None, **limits):
    def opener(subject):
        if opened is not None:
            opened.append(subject)
        return Device(clock, subject, **limits)

    return opener


SUBJECT = Subject("m", "onnxruntime", Path("m.onnx"), {}, {"threads": 3})


def test_a_known_device_is_measured_as_it_is(clock):
    opened = []
    opener = device(
        clock,
        opened,
        macs_per_s={"float32": 50e9, "uint8": 200e9, "int8": 90e9},
        bytes_per_s=20e9,
    )
    peaks = measure_peaks(SUBJECT, ["float32", "int8"], clock=clock, opener=opener, spend_s=0)
    # The clock of the test takes 50 ns to read.
    assert peaks.macs_per_s["float32"].value == pytest.approx(50e9, rel=0.01)
    assert peaks.macs_per_s["int8"].value == pytest.approx(200e9, rel=0.01)
    assert "uint8" in peaks.macs_per_s["int8"].note
    assert {each.label for each in peaks.macs_per_s.values()} == {"measured"}
    for found in peaks.bytes_per_s.values():
        assert found.value == pytest.approx(20e9, rel=0.02)
    assert max(peaks.bytes_per_s) >= 48 * KIB * KIB
    assert {each.runtime for each in opened} == {"onnxruntime"}
    assert {each.options["threads"] for each in opened} == {3}


def test_a_slow_device_is_given_no_product_that_takes_a_minute(clock):
    opened = []
    opener = device(clock, opened, macs_per_s={"float32": 20e6}, bytes_per_s=20e6)
    peaks = measure_peaks(SUBJECT, ["float32"], clock=clock, opener=opener, spend_s=0)
    assert peaks.macs_per_s["float32"].value == pytest.approx(20e6, rel=0.01)
    assert [each.name for each in opened if "float32" in each.name] == ["float32-128.onnx"]
    assert list(peaks.bytes_per_s) == [192 * KIB, 768 * KIB, 3072 * KIB]


def test_a_precision_without_kernels_is_unavailable_with_the_reason(clock):
    opener = device(clock, macs_per_s={"float32": 1e9}, bytes_per_s=1e9)
    wanted = ["float32", "float16", "bfloat16"]
    peaks = measure_peaks(SUBJECT, wanted, clock=clock, opener=opener, spend_s=0)
    assert peaks.macs_per_s["float16"].label == "unavailable"
    assert "No kernel for float16" in peaks.macs_per_s["float16"].note
    assert "bfloat16" in peaks.macs_per_s["bfloat16"].note
    found = limit(Work({"float32": 10, "float16": 1}, 10, 10), peaks)
    assert found.limit_ms.value is None
    assert "float16" in found.limit_ms.note


def test_a_runtime_without_these_files_says_so(clock):
    subject = dataclasses.replace(SUBJECT, runtime="tensorrt")
    peaks = measure_peaks(subject, ["float32"], clock=clock)
    assert "onnxruntime" in peaks.macs_per_s["float32"].note
    assert limit(Work({"float32": 1}, 1, 1), peaks).limit_ms.label == "unavailable"


def test_subjects_that_run_alike_share_a_measurement(clock):
    opened = []
    opener = device(clock, opened, macs_per_s={"float32": 1e9}, bytes_per_s=1e9)
    subjects = [dataclasses.replace(SUBJECT, name=name) for name in "ab"]
    other = dataclasses.replace(SUBJECT, name="c", options={"threads": 1})
    precisions = {"a": ["float32"], "b": ["float32"], "c": ["float32"]}
    given = {"clock": clock, "opener": opener, "spend_s": 0}
    one = peaks_of(subjects[:1], precisions, **given)
    count = len(opened)
    found = peaks_of(
        [*subjects, other, dataclasses.replace(SUBJECT, name="d")], precisions, **given
    )
    assert len(opened) == 3 * count
    assert list(found) == ["a", "b", "c"]
    assert found["a"] == found["b"]
    assert one["a"].macs_per_s.keys() == found["a"].macs_per_s.keys()


def test_the_limit_is_the_longer_of_arithmetic_and_memory():
    work = Work({"float32": 1_000_000, "int8": 2_000_000}, 4_000_000, 1000 * KIB)
    found = limit(work, PEAKS)
    assert found.compute_ms == pytest.approx(1.5)
    assert found.memory_ms == pytest.approx(0.8)  # 5 GB/s hold a working set of 1 MiB
    assert (found.limit_ms.value, found.bound) == (pytest.approx(1.5), "compute")
    assert found.limit_ms.label == "derived"
    larger = limit(dataclasses.replace(work, bytes=10_000_000), PEAKS)
    assert (larger.limit_ms.value, larger.bound) == (pytest.approx(2.0), "memory")


@pytest.mark.parametrize(
    ("size", "speed"), [(1, 10e9), (192 * KIB, 10e9), (193 * KIB, 5e9), (10**12, 1e9)]
)
def test_bandwidth_is_that_of_the_smallest_working_set_that_holds_it(size, speed):
    assert PEAKS.bandwidth(size).value == speed


def test_more_work_never_has_a_lower_limit():
    random = np.random.default_rng(0)
    for _ in range(200):
        macs, size = (int(n) for n in random.integers(1, 10**9, 2))
        one = limit(Work({"float32": macs}, size, size), PEAKS).limit_ms.value
        more = (
            Work({"float32": 2 * macs}, size, size),
            Work({"float32": macs, "int8": macs}, size, size),
            Work({"float32": macs}, 2 * size, 2 * size),
        )
        assert all(limit(work, PEAKS).limit_ms.value >= one for work in more)


def test_the_share_is_the_least_time_over_the_time_with_its_interval():
    found = share(rate(1.5, "ms", "derived"), Figure(3.0, 2.5, 4.0, "ms", "measured"))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.375, 0.6))
    assert (found.unit, found.label) == ("fraction", "derived")
    assert share(rate(1.5, "ms"), Figure(3.0, None, None, "ms", "measured")).low is None
    assert share(Figure.unavailable("ms", "why"), rate(1.0, "ms")).note == "why"


def test_what_comes_of_an_emulator_stays_emulated():
    peaks = Peaks({"float32": rate(1e9, label="emulated")}, {1: rate(1e9, "B/s")})
    found = limit(Work({"float32": 10}, 10, 1), peaks)
    assert found.limit_ms.label == "emulated"
    assert share(found.limit_ms, rate(1.0, "ms")).label == "emulated"
    taken = Figure(1.0, None, None, "ms", "emulated")
    assert share(rate(0.5, "ms", "derived"), taken).label == "emulated"


def test_peaks_survive_json_and_broken_ones_are_refused():
    assert Peaks.from_dict(json.loads(json.dumps(dataclasses.asdict(PEAKS)))) == PEAKS
    for broken in ({}, {"macs_per_s": {"a": 1}, "bytes_per_s": {}}, {"macs_per_s": 3}):
        with pytest.raises(UsageError, match="broken"):
            Peaks.from_dict(broken)


def test_this_machine_is_measured_within_what_hardware_can_do():
    subject = dataclasses.replace(SUBJECT, options={"threads": 1})
    peaks = measure_peaks(subject, ["float32", "int8"], spend_s=0)
    for precision, most_per_cycle in (("float32", 64), ("int8", 2048)):
        found = peaks.macs_per_s[precision]
        assert found.label == "measured"
        assert 0 < found.value < most_per_cycle * 8e9
    assert peaks.bytes_per_s
    assert all(0 < found.value < 4e12 for found in peaks.bytes_per_s.values())


def test_nothing_stays_behind(tmp_path, monkeypatch, clock):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    opener = device(clock, macs_per_s={"float32": 1e9}, bytes_per_s=1e9)
    measure_peaks(SUBJECT, ["float32"], clock=clock, opener=opener, spend_s=0)
    assert not list(tmp_path.iterdir())
