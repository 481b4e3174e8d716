"""What `--max-slowdown` lets pass, and what it does not."""

import pytest

from edgekit.bench import Comparison, Figure
from edgekit.errors import GateError
from edgekit.pipeline.compare import broken, raise_for_slowdown


def comparison(low: float | None, speedup: float, high: float | None, verdict: str) -> Comparison:
    figure = Figure(speedup, low, high, "x", "measured", "" if low else "drift: no interval")
    return Comparison("b", "a", figure, verdict, 0.03, 40, 8)


@pytest.mark.parametrize(
    ("low", "speedup", "high", "verdict", "allowed", "strict", "fails"),
    [
        (0.88, 0.90, 0.92, "slower", 0.05, False, True),
        (0.88, 0.90, 0.92, "slower", 0.15, False, False),
        (0.88, 0.90, 0.92, "slower", 0.12, True, True),  # the interval's end takes 13.6 % more
        (0.88, 0.90, 0.92, "slower", 0.14, True, False),
        (0.80, 0.93, 1.10, "inconclusive", 0.05, False, False),
        (0.80, 0.93, 1.10, "inconclusive", 0.05, True, True),
        (0.99, 1.00, 1.01, "inconclusive", 0.05, True, False),
        (1.10, 1.20, 1.30, "faster", 0.00, True, False),
        (None, 0.80, None, "inconclusive", 0.05, False, False),
        (None, 1.20, None, "inconclusive", 0.05, True, True),
    ],
)
def test_a_noisy_measurement_fails_only_where_it_is_strict(
    low, speedup, high, verdict, allowed, strict, fails
):
    assert bool(broken(comparison(low, speedup, high, verdict), allowed, strict=strict)) is fails


def test_the_error_names_figure_interval_and_allowance():
    found = {"b": comparison(0.88, 0.90, 0.92, "slower")}
    with pytest.raises(GateError) as caught:
        raise_for_slowdown(found, 0.05)
    assert "b against a takes +11.1% time [+8.7%, +13.6%]" in caught.value.message
    assert "at most +5.0% is allowed" in caught.value.message
    assert caught.value.exit_code == 5


def test_nothing_measured_is_no_pass():
    figure = Figure.unavailable("x", "The device was lost.")
    lost = Comparison("b", "a", figure, "inconclusive", 0.03, 0, 0)
    assert "The device was lost." in broken(lost, 0.05)
