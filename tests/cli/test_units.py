"""Quantities on the command line: what is understood, and what is asked back."""

import pytest

from edgekit.cli import units
from edgekit.errors import UsageError


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (units.seconds, "30m", 1800),
        (units.seconds, "90 s", 90),
        (units.seconds, "1.5h", 5400),
        (units.seconds, "45", 45),
        (units.milliseconds, "11", 11),
        (units.milliseconds, "11.1ms", 11.1),
        (units.milliseconds, "500us", 0.5),
        (units.milliseconds, "1s", 1000),
        (units.hertz, "30", 30),
        (units.hertz, "90fps", 90),
        (units.hertz, "59.94 Hz", 59.94),
        (units.share, "5%", 0.05),
        (units.share, "0.05", 0.05),
        (units.share, "120 %", 1.2),
        (units.share, "0", 0),
    ],
)
def test_what_people_write(read, text, value):
    assert read(text, "--option") == pytest.approx(value)


@pytest.mark.parametrize(
    ("read", "text", "hint"),
    [
        (units.seconds, "soon", "30m"),
        (units.seconds, "30 days", "30m"),
        (units.seconds, "-3", "30m"),
        (units.seconds, "0", "30m"),
        (units.seconds, "", "30m"),
        (units.milliseconds, "1m", "11ms"),
        (units.hertz, "0", "90fps"),
        (units.hertz, "inf", "90fps"),
        (units.share, "nan", "5%"),
        (units.share, "-5%", "5%"),
        (units.share, "5 percent", "5%"),
        (units.share, "5", "5% or 500%"),
    ],
)
def test_what_cannot_be_read_names_the_option_and_a_form(read, text, hint):
    with pytest.raises(UsageError) as caught:
        read(text, "--option")
    assert f"--option {text!r}" in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "found"), [(None, ()), ("0", (0,)), ("0,2", (0, 2)), ("1-3,2", (1, 2, 3))]
)
def test_cpus(text, found):
    assert units.numbers(text, "--affinity") == found


@pytest.mark.parametrize("text", ["", "a", "3-1", "0,", "-1"])
def test_cpus_that_cannot_be_read(text):
    with pytest.raises(UsageError, match="is not a list of CPUs"):
        units.numbers(text, "--affinity")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("input=1x3x224x224", {"input": (1, 3, 224, 224)}),
        ("a=b=1,2", {"a=b": (1, 2)}),
        ("x=7", {"x": (7,)}),
    ],
)
def test_shapes(text, found):
    assert units.shapes([text]) == found


@pytest.mark.parametrize("text", ["input", "=1x3", "input=", "input=1x0", "input=1xhx3"])
def test_shapes_that_cannot_be_read(text):
    with pytest.raises(UsageError, match="is not the shape of an input"):
        units.shapes([text])


@pytest.mark.parametrize(("text", "value"), [("0.99", 0.99), ("99%", 0.99), ("1", 1.0)])
def test_a_part_of_a_whole(text: str, value: float) -> None:
    assert units.part(text, "--min-agreement") == value


@pytest.mark.parametrize(
    ("text", "hint"),
    [("99", "99% or 0.99"), ("0", ""), ("-1", ""), ("nan", ""), ("990%", ""), ("x", "")],
)
def test_what_no_share_can_reach_is_refused(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"--min-agreement '{text}' is not a share") as raised:
        units.part(text, "--min-agreement")
    assert hint in raised.value.hint
