"""Numeric comparison: the figures are those of their definitions, and limits are held."""

import math

import numpy as np
import pytest

from edgekit.errors import GateError, UsageError
from edgekit.verify import check, compare


def test_equal_outputs_have_no_error() -> None:
    x = {"y": np.arange(6, dtype=np.float32).reshape(2, 3)}
    parity = compare(x, x)["y"]
    assert (parity.max_abs, parity.max_rel, parity.sqnr_db) == (0.0, 0.0, None)
    assert parity.cosine == pytest.approx(1.0)
    assert parity.agreement == 1.0
    check({"y": parity}, atol=0.0, min_sqnr_db=200, min_agreement=1.0)


def test_figures_follow_their_definitions() -> None:
    r = np.array([[1.0, 2.0], [3.0, 4.0]])
    x = np.array([[1.0, 2.5], [5.0, 4.0]])
    parity = compare({"y": r}, {"y": x})["y"]
    assert parity.max_abs == 2.0
    assert parity.max_rel == pytest.approx(2 / 3)
    assert parity.sqnr_db == pytest.approx(10 * math.log10(30 / 4.25))
    assert parity.agreement == 0.5


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"atol": 1.0}, "largest difference 2 is over 1"),
        ({"min_sqnr_db": 30.0}, "SQNR 8.5 dB is under 30 dB"),
        ({"min_agreement": 0.9}, "agreement 0.5000 is under 0.9"),
    ],
)
def test_each_limit_is_held_and_named(limits: dict[str, float], message: str) -> None:
    parity = compare(
        {"y": np.array([[1.0, 2.0], [3.0, 4.0]])}, {"y": np.array([[1.0, 2.5], [5.0, 4.0]])}
    )
    with pytest.raises(GateError, match=message) as raised:
        check(parity, **limits)
    assert raised.value.exit_code == 5


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"z": np.zeros(2)}, "outputs differ"),
        ({"y": np.zeros(3)}, "has shape"),
        ({"y": np.array([np.nan, 0])}, "NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(other: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare({"y": np.zeros(2)}, other)


def test_agreement_is_not_claimed_for_other_shapes() -> None:
    parity = compare({"y": np.zeros((2, 3, 4))}, {"y": np.zeros((2, 3, 4))})
    with pytest.raises(GateError, match="agreement needs"):
        check(parity, min_agreement=0.5)
