"""Bounds and intervals are held against streams whose truth is known: do they cover?"""

import math
from statistics import NormalDist

import numpy as np
import pytest

from edgekit.bench import statistics, trend
from edgekit.bench.comparison import noise_floor, paired_ratio
from edgekit.bench.quantiles import student_quantile

NORMAL = NormalDist()
SPREAD = 0.1


def independent(generator, n):
    return np.exp(SPREAD * generator.standard_normal(n))


def bimodal(generator, n):
    slow = np.where(generator.random(n) < 0.3, 1.5, 1.0)
    return slow * np.exp(0.05 * generator.standard_normal(n))


def autoregressive(phi):
    def draw(generator, n):
        noise = generator.standard_normal(n) * math.sqrt(1 - phi * phi)
        noise[0] = generator.standard_normal()
        powers = phi ** np.arange(256)  # the impulse response; 0.9^256 is nothing
        return np.exp(SPREAD * np.convolve(noise, powers)[:n])

    return draw


def quantile_of_bimodal(probability):
    low, high = 0.1, 5.0
    for _ in range(80):
        middle = (low + high) / 2
        below = 0.7 * NORMAL.cdf(math.log(middle) / 0.05)
        below += 0.3 * NORMAL.cdf(math.log(middle / 1.5) / 0.05)
        low, high = (middle, high) if below < probability else (low, middle)
    return low


def quantile_of_lognormal(probability):
    return math.exp(SPREAD * NORMAL.inv_cdf(probability))


TRUTH = {independent: quantile_of_lognormal, bimodal: quantile_of_bimodal}


def test_needed_runs_are_those_of_the_published_table():
    table = {(0.95, 0): [29, 59, 299, 2995], (0.95, 1): [46, 93, 473, 4742]}
    table[0.99, 1] = [64, 130, 662, 6636]
    for (confidence, above), expected in table.items():
        found = [statistics.needed_runs(q, confidence, above) for q in (0.9, 0.95, 0.99, 0.999)]
        assert found == expected


@pytest.mark.parametrize(("n", "quantile"), [(46, 0.9), (500, 0.99), (2000, 0.95)])
def test_exceedances_agree_with_the_binomial_distribution(n, quantile):
    allowed = statistics.exceedances(n, quantile)
    pmf = [math.comb(n, k) * (1 - quantile) ** k * quantile ** (n - k) for k in range(allowed + 2)]
    assert sum(pmf[:-1]) <= 0.05 < sum(pmf)


def test_one_run_too_few_is_not_estimable():
    samples = np.random.default_rng(0).standard_normal(298) + 10
    found = statistics.tail(samples, 0.99)
    assert found.value is None
    assert found.upper is None
    assert found.needed_n == 299


@pytest.mark.parametrize("stream", [independent, bimodal])
def test_bounds_of_p99_cover(stream):
    truth, generator = TRUTH[stream](0.99), np.random.default_rng(5)
    bounds = [statistics.tail(stream(generator, 1000), 0.99).upper for _ in range(1000)]
    covered = [bound >= truth for bound in bounds if bound is not None]
    assert len(covered) > 900
    assert np.mean(covered) >= 0.94


@pytest.mark.parametrize("stream", [independent, bimodal])
def test_intervals_of_the_median_cover(stream):
    truth, generator, covered = TRUTH[stream](0.5), np.random.default_rng(6), 0
    for seed in range(500):
        samples = stream(generator, 600)
        low, high = statistics.median_interval(samples, seed=seed, resamples=300)
        covered += low <= truth <= high
    assert covered / 500 >= 0.94


def test_independent_resampling_would_not_cover_where_moving_blocks_do():
    stream, generator, blocks, naive = autoregressive(0.9), np.random.default_rng(7), 0, 0
    for seed in range(150):
        samples = stream(generator, 1000)
        low, high = statistics.median_interval(samples, seed=seed, resamples=300)
        blocks += low <= 1.0 <= high
        medians = statistics.bootstrap_medians(samples, seed=seed, resamples=300, tau=1.0)
        naive += np.quantile(medians, 0.025) <= 1.0 <= np.quantile(medians, 0.975)
    assert blocks / 150 >= 0.92
    assert naive / 150 < 0.8


@pytest.mark.parametrize(("phi", "n"), [(0.5, 2000), (0.9, 1000), (0.9, 8000)])
def test_p99_of_dependent_runs_covers_or_is_not_estimable(phi, n):
    stream, truth = autoregressive(phi), quantile_of_lognormal(0.99)
    generator = np.random.default_rng(8)
    tails = [statistics.tail(stream(generator, n), 0.99) for _ in range(200)]
    estimable = [each for each in tails if each.upper is not None]
    assert all(each.effective_n >= each.needed_n for each in estimable)
    covered = [each.upper >= truth for each in estimable]
    if n * (1 - phi) / (1 + phi) < 299 / 2:
        assert len(estimable) <= 2
    else:
        assert len(estimable) >= 100
        assert np.mean(covered) >= 0.94


def test_a_median_covers_where_the_memory_is_long_beside_the_run():
    """Some 16 effective runs: the correlation time must not be taken for too short."""
    stream, generator, covered = autoregressive(0.9), np.random.default_rng(15), []
    for seed in range(300):
        samples = stream(generator, 300)
        if len(samples) / statistics.correlation_time(statistics.ranks(samples)) >= 12:
            low, high = statistics.median_interval(samples, seed=seed, resamples=200)
            covered.append(low <= 1.0 <= high)
    assert len(covered) > 150
    assert np.mean(covered) >= 0.94


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_effective_sample_size_of_an_autoregressive_stream(phi):
    stream, generator = autoregressive(phi), np.random.default_rng(9)
    ranks = [statistics.ranks(stream(generator, 20_000)) for _ in range(12)]
    # Correlation of ranks of a Gaussian pair: Spearman's 6/pi asin(rho/2).
    of_ranks = 6 / np.pi * np.arcsin(phi ** np.arange(1, 200) / 2)
    time = np.mean([statistics.correlation_time(each) for each in ranks])
    assert time == pytest.approx(1 + 2 * of_ranks.sum(), rel=0.08)
    assert statistics.lag1(ranks[0]) == pytest.approx(of_ranks[0], abs=0.03)


DRIFTS = {
    "steady": lambda u: u,
    "warming up": lambda u: (1 - np.exp(-4 * u)) / (1 - math.exp(-4)),
    "throttled at once": lambda u: u > 0.5,
}


@pytest.mark.parametrize("shape", DRIFTS)
@pytest.mark.parametrize("phi", [0.0, 0.5])
def test_drift_is_flagged(phi, shape):
    stream, generator = autoregressive(phi), np.random.default_rng(10)
    for change in (0.15, 0.5):
        course = 1 + change * DRIFTS[shape](np.linspace(0, 1, 2000))
        flags = [trend.drift(stream(generator, 2000) * course).flag for _ in range(200)]
        assert np.mean(flags) >= 0.95
        falls = [trend.drift(stream(generator, 2000) / course) for _ in range(20)]
        assert all(each.change < 0 for each in falls)


def test_a_monotone_fit_pools_what_falls():
    found = trend.monotone_fit(np.array([1.0, 3.0, 2.0, 2.0, 5.0, 0.0, 6.0]))
    np.testing.assert_allclose(found, [1, 7 / 3, 7 / 3, 7 / 3, 2.5, 2.5, 6])


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_steady_runs_are_hardly_ever_called_drifting(phi):
    stream, generator = autoregressive(phi), np.random.default_rng(11)
    assert np.mean([trend.drift(stream(generator, 2000)).flag for _ in range(200)]) <= 0.04


def test_a_trend_too_small_to_matter_is_not_drift():
    samples = np.linspace(1.0, 1.002, 5000) + np.random.default_rng(0).normal(0, 1e-4, 5000)
    found = trend.drift(samples)
    assert found.p_value < 0.01
    assert not found.flag


def test_bootstrap_medians_are_those_of_resampled_blocks():
    samples = np.random.default_rng(1).lognormal(0, 0.3, 200)
    fast = statistics.bootstrap_medians(samples, seed=0, resamples=4000, tau=1.0)
    length = statistics.block_length(200, 1.0)
    starts = np.random.default_rng(2).integers(0, 201 - length, (4000, math.ceil(200 / length)))
    built = samples[(starts[:, :, None] + np.arange(length)).reshape(4000, -1)]
    slow = np.median(built, axis=1)
    assert fast.std() == pytest.approx(slow.std(), rel=0.1)
    assert np.quantile(fast, [0.025, 0.5, 0.975]) == pytest.approx(
        np.quantile(slow, [0.025, 0.5, 0.975]), rel=0.01
    )


def test_large_runs_give_the_same_interval_as_their_distribution_says():
    samples = np.random.default_rng(3).lognormal(0, 0.1, 100_000)
    low, high = statistics.median_interval(samples, seed=0)
    # The standard error of a median is 1 / (2 f sqrt(n)).
    error = 0.1 * math.sqrt(2 * math.pi) / 2 / math.sqrt(100_000)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_ratio_of_medians_measured_apart():
    generator = np.random.default_rng(4)
    covered = 0
    for seed in range(100):
        slow, fast = 1.2 * independent(generator, 400), independent(generator, 400)
        low, high = statistics.ratio_interval(slow, fast, seed=seed, resamples=300)
        covered += low <= 1.2 <= high
    assert covered >= 90


def test_constant_and_tied_samples_do_not_break_anything():
    samples = np.full(400, 7.0)
    assert statistics.median_interval(samples, seed=0) == (7.0, 7.0)
    assert statistics.tail(samples, 0.99).upper == 7.0
    assert statistics.correlation_time(statistics.ranks(samples)) == 1.0
    assert not trend.drift(samples).flag
    assert statistics.outliers(samples) == (0, 0)
    assert statistics.throttle_ratio(samples) == 1.0


def test_outliers_are_counted_by_tukeys_fences():
    samples = np.concatenate((np.linspace(1, 2, 101), [2.5, 3.0, 3.2, 40.0]))
    low, high = np.quantile(samples, [0.25, 0.75])
    mild, extreme = statistics.outliers(samples)
    beyond = np.count_nonzero(samples > high + 1.5 * (high - low))
    assert mild + extreme == beyond
    assert extreme == 1


def test_throttling_is_last_over_first_fifth():
    assert statistics.throttle_ratio(np.repeat([1.0, 1.2], 50)) == pytest.approx(1.2)


@pytest.mark.parametrize("rounds", [8, 20, 200])
def test_paired_ratio_covers(rounds):
    generator, covered = np.random.default_rng(12), 0
    for _ in range(400):
        logs = generator.standard_t(3, rounds) * 0.02 + math.log(1.05)
        _, low, high = paired_ratio(logs)
        covered += low <= 1.05 <= high
    assert covered / 400 >= 0.94


def test_paired_ratio_is_not_moved_by_one_disturbed_round():
    logs = np.full(20, math.log(1.1)) + np.random.default_rng(0).normal(0, 0.001, 20)
    logs[7] = math.log(9.0)
    ratio, low, high = paired_ratio(logs)
    assert ratio == pytest.approx(1.1, rel=0.002)
    assert high - low < 0.01


def test_few_rounds_give_no_interval():
    assert paired_ratio(np.array([0.1, 0.2, 0.1, 0.2, 0.1]))[1:] == (None, None)
    assert noise_floor(np.zeros(7), seed=0) is None


def test_correlated_rounds_widen_the_interval():
    generator = np.random.default_rng(13)
    logs = np.log(autoregressive(0.8)(generator, 100))
    _, low, high = paired_ratio(logs)
    _, shuffled_low, shuffled_high = paired_ratio(generator.permutation(logs))
    assert high - low > 1.5 * (shuffled_high - shuffled_low)


def test_noise_floor_follows_the_noise():
    generator = np.random.default_rng(14)
    quiet = [noise_floor(generator.normal(0, 0.01, 40), seed=0) for _ in range(50)]
    loud = [noise_floor(generator.normal(0, 0.10, 40), seed=0) for _ in range(50)]
    assert np.mean(quiet) == pytest.approx(1.96 * 0.01 * math.sqrt(2 / 20), rel=0.15)
    assert np.mean(loud) > 8 * np.mean(quiet)


@pytest.mark.parametrize(
    ("freedom", "table"), [(4, 2.7764), (7, 2.3646), (9, 2.2622), (30, 2.0423), (1e9, 1.95996)]
)
def test_students_quantile_is_that_of_the_tables(freedom, table):
    assert student_quantile(0.975, freedom) == pytest.approx(table, rel=0.003)
