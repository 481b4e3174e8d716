"""Intervals of a share and of a rate, against published figures and streams of known truth."""

import numpy as np
import pytest

from edgekit.bench.shares import rate_interval, share_interval


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Clopper and Pearson's limits: the closed forms at 0 and n, and R's binom.test between.
    [
        (0, 10, 0.0, 1 - 0.025**0.1),
        (10, 10, 0.025**0.1, 1.0),
        (3, 10, 0.06673951, 0.6524529),
        (5, 100, 0.01643188, 0.1128349),
        (90, 100, 0.8237774, 0.9509953),
    ],
)
def test_a_share_has_the_exact_limits(hits, n, low, high):
    assert share_interval(hits, n) == pytest.approx((low, high), abs=1e-6)


def test_a_fraction_of_a_hit_is_rounded_to_the_wider_side():
    low, high = share_interval(2.5, 50)
    assert low == share_interval(2, 50)[0]
    assert high == share_interval(3, 50)[1]


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_a_share_covers(share):
    hits = np.random.default_rng(0).binomial(300, share, 400)
    limits = [share_interval(float(each), 300) for each in hits]
    assert np.mean([low <= share <= high for low, high in limits]) >= 0.94


@pytest.mark.parametrize("phi", [0.0, 0.5])
def test_a_rate_covers(phi):
    generator, covered = np.random.default_rng(1), []
    for _ in range(500):
        noise = generator.standard_normal(60)
        for place in range(1, 60):
            noise[place] = phi * noise[place - 1] + (1 - phi * phi) ** 0.5 * noise[place]
        seconds = generator.uniform(0.9, 1.1, 60)
        counts = seconds * (100 + 5 * noise)
        rate, low, high = rate_interval(counts, seconds)
        assert low < rate < high
        covered.append(low <= 100 <= high)
    assert np.mean(covered) >= 0.94


def test_few_rounds_give_a_rate_without_limits():
    found = rate_interval(np.array([10.0, 12.0, 11.0]), np.ones(3))
    assert found == (pytest.approx(11.0), None, None)
