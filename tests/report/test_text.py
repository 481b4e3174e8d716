import pytest

from edgekit.report.schema import Figure
from edgekit.report.text import (
    bytes_text,
    count_text,
    exact_text,
    microseconds_text,
    printable,
    seconds_text,
    share_text,
)

NNBSP = "\N{NARROW NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"value": 0.184, "low": 0.181, "high": 0.187, "unit": "ms"}, "0.184 ms [0.181, 0.187]"),
        ({"high": 0.31, "unit": "ms"}, "≤ 0.31 ms"),
        ({"low": 0.31, "unit": "ms"}, "≥ 0.31 ms"),
        ({"label": "unavailable", "unit": "j"}, "unavailable"),
        ({"value": 0.2, "high": 0.31, "unit": "ms"}, "0.200 ms (≤ 0.31)"),
        # A far bound leaves the value its digits, in its own unit: it is never written as 0.
        ({"value": 0.0266, "high": 8.83, "unit": "ms"}, "0.0266 ms (≤ 8.83)"),
        ({"value": 0.871, "low": 0.864, "high": 0.878, "unit": "fraction"}, "87.1 % [86.4, 87.8]"),
        ({"value": 2.131, "low": 2.08, "high": 2.19, "unit": "x"}, "2.13× [2.08, 2.19]"),
        ({"value": -0.2, "low": -0.5, "high": 0.1, "unit": "points"}, "−0.20 points [−0.50, 0.10]"),
        ({"value": 0.00312, "low": 0.0031, "high": 0.00314, "unit": "j"}, "3.12 mJ [3.10, 3.14]"),
        ({"value": 77_220.0, "unit": "bytes"}, "77.2 kB"),
        ({"value": 19.61, "unit": "dB"}, "19.6 dB"),
        ({"value": 123_456.0, "unit": "ms"}, f"123{NNBSP}456 ms"),
        ({"value": 0.0, "unit": "ms"}, "0.0 ms"),
        ({"value": 0.9123, "low": 0.9122, "high": 0.9124}, "0.9123 [0.9122, 0.9124]"),
        ({"low": 1.0, "high": 2.0, "unit": "ms"}, "[1.00, 2.00] ms"),
    ],
)
def test_a_figure_reads_as_a_person_would_write_it(fields, text):
    assert Figure(**fields).format() == text
    assert str(Figure(**fields)) == text


def test_the_interval_can_be_left_out():
    figure = Figure(value=0.184, low=0.181, high=0.187, unit="ms")
    assert figure.format(interval=False) == "0.184 ms"
    assert Figure(high=0.31, unit="ms").format(interval=False) == "≤ 0.31 ms"


def test_changes_have_a_sign_and_zero_has_none():
    assert Figure(value=1.5, low=0.0, high=3.0).format(signed=True) == "+1.5 [0.0, +3.0]"
    assert Figure(value=-0.0001, low=-1.0, high=1.0).format(signed=True) == "0.0 [−1.0, +1.0]"


@pytest.mark.parametrize("value", [0.2421, 0.3101, 1.0004, 99.96, 1234.1, 3.3e-7])
def test_a_rounded_bound_is_still_a_bound(value):
    upper = Figure(high=value).format().removeprefix("≤ ").replace(NNBSP, "")
    lower = Figure(low=value).format().removeprefix("≥ ").replace(NNBSP, "")
    assert float(lower) <= value <= float(upper)
    assert float(upper) - float(lower) <= value * 0.011


def test_a_budget_keeps_the_digits_it_was_given():
    assert exact_text(0.3, "ms") == "0.3 ms"
    assert exact_text(1, "points") == "1 point"
    assert exact_text(0.015, "fraction") == "1.5 %"
    assert exact_text(-2.5, "dB") == "−2.5 dB"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "unavailable"), (0, "0"), (640, "640"), (12_501_760, "12.5 M"), (4.1e9, "4.10 G")],
)
def test_counts_have_prefixes(value, text):
    assert count_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "unavailable"), (12, "12 B"), (0, "0 B")])
def test_small_sizes_are_whole_bytes(value, text):
    assert bytes_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unavailable"),
        (0.44, "0.4 s"),
        (59.4, "59 s"),
        (59.9, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7440, "2 h 04 min"),
    ],
)
def test_durations(value, text):
    assert seconds_text(value) == text


def test_text_that_hides_or_reorders_is_made_visible():
    assert printable("conv\x00\x1b[31m") == "conv\ufffd\ufffd[31m"
    assert printable("a\u202eb") == "a\ufffdb"
    assert printable("two\nlines") == "two lines"
    assert printable("naïve 層") == "naïve 層"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0.002, "0.002 ms"),
        (0.0038799999999999998, "0.004 ms"),
        (0.0004, "< 0.001 ms"),
        (0.0, "0.000 ms"),
        (0.0123, "0.012 ms"),
        (1.2345, "1.23 ms"),
        (123.45, "123 ms"),
    ],
)
def test_what_was_counted_in_microseconds_has_no_finer_digits(ms: float, text: str) -> None:
    assert microseconds_text(ms) == text


def test_shares_are_told_in_whole_per_cent() -> None:
    assert [share_text(v) for v in (0.3333, 0.001, 0.0, None)] == ["33 %", "< 1 %", "0 %", "–"]
