"""Statistics of latency: bounds that really cover, and a plain "no" where the data cannot say.

Runs of a model are neither independent nor normally distributed: a shared machine slows down for a
while and recovers, and tails are long. Hence: order statistics for tails, moving blocks for
medians, an effective sample size in place of the count, and no interval at all under drift.

Everything here works on arrays and knows nothing of clocks or runtimes. Random draws come from a
seed that the caller gives, so that a stored result can be computed again.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgekit.bench.quantiles import normal_quantile, student_quantile

Floats = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float64] | npt.NDArray[np.int64]

CONFIDENCE = 0.95
MAX_CELLS = 2000
MAX_THRESHOLDS = 257


# --- tails -----------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def exceedances(n: int, quantile: float, confidence: float = CONFIDENCE) -> int | None:
    """How many samples may lie above an upper confidence bound of a quantile.

    The bound is the order statistic with the fewest samples below it that is still at or above the
    quantile with the wanted confidence, whatever the distribution (David and Nagaraja, Order
    Statistics, 3rd ed., section 7.1).

    Args:
        n: number of independent samples.
        quantile: in (0, 1), such as 0.99.
        confidence: in (0, 1), one-sided.

    Returns:
        0 where the maximum is the bound, more where a smaller sample serves, None where `n` samples
        cannot bound the quantile.
    """
    if n < 1:
        return None
    # The number of samples above the quantile is binomial(n, 1 - quantile). The largest count whose
    # cumulated probability stays within 1 - confidence is how many samples may lie above the bound.
    count = min(n, math.ceil(n * (1 - quantile)) + 1)
    above = np.arange(count, dtype=np.float64)
    log_steps = np.log((n - above) / (above + 1)) + math.log((1 - quantile) / quantile)
    log_pmf = n * math.log(quantile) + np.concatenate(([0.0], np.cumsum(log_steps)))
    log_cdf = np.logaddexp.accumulate(log_pmf)
    allowed = int(np.searchsorted(log_cdf, math.log(1 - confidence), side="right"))
    return allowed - 1 if allowed else None


@lru_cache(maxsize=64)
def needed_runs(quantile: float, confidence: float = CONFIDENCE, above: int = 0) -> int:
    """Fewest independent samples that bound a quantile with `above` samples beyond the bound.

    Args:
        quantile: in (0, 1).
        confidence: in (0, 1), one-sided.
        above: samples beyond the bound; 0 takes the maximum as the bound.
    """
    low, high = 1, 1
    while (exceedances(high, quantile, confidence) or 0) < above or (
        exceedances(high, quantile, confidence) is None
    ):
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        found = exceedances(middle, quantile, confidence)
        if found is not None and found >= above:
            high = middle
        else:
            low = middle + 1
    return low


@dataclass(frozen=True)
class Tail:
    """A quantile and its one-sided upper confidence bound.

    Attributes:
        value: the sample quantile, in the samples' unit; None where it is not estimable.
        upper: the bound, None where it is not estimable.
        effective_n: independent samples that the data are worth for this quantile.
        needed_n: independent samples that the quantile needs.
    """

    value: float | None
    upper: float | None
    effective_n: float
    needed_n: int


def tail(samples: Samples, quantile: float, confidence: float = CONFIDENCE) -> Tail:
    """Bound a quantile from above by an order statistic, or say that it is not estimable.

    The samples' dependence counts twice: that of their ranks, and that of the exceedances of the
    quantile itself (slow runs come in clusters even where the bulk looks independent).

    Args:
        samples: shape (n,), in the order in which they were measured.
        quantile: in (0, 1).
        confidence: in (0, 1), one-sided.
    """
    n = len(samples)
    needed = needed_runs(quantile, confidence)
    if n < needed:
        return Tail(None, None, float(n), needed)
    ordered = np.sort(samples)
    value = float(np.quantile(ordered, quantile))
    beyond = (samples > value).astype(np.float64)
    tau = max(correlation_time(ranks(samples)), correlation_time(beyond))
    effective = n / tau
    allowed = exceedances(math.floor(effective), quantile, confidence)
    if allowed is None:
        return Tail(None, None, effective, needed)
    # The bound's place among `effective` samples, carried over to all n of them.
    above = math.floor(allowed * n / math.floor(effective))
    return Tail(value, float(ordered[n - 1 - above]), effective, needed)


# --- dependence ------------------------------------------------------------------------------


def ranks(samples: Samples) -> Floats:
    """Ranks from 0, ties averaged: what dependence is measured on, since spikes would mask it."""
    ordered = np.sort(samples)
    left = np.searchsorted(ordered, samples, side="left")
    right = np.searchsorted(ordered, samples, side="right")
    return np.asarray((left + right - 1) / 2, dtype=np.float64)


def autocorrelation(series: Floats) -> Floats:
    """Autocorrelation at all lags, by FFT.

    Args:
        series: shape (n,).

    Returns:
        Shape (n,); lag 0 is 1. A constant series has none: zeros after lag 0.
    """
    n = len(series)
    centred = series - series.mean()
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(centred, size)
    covariance = np.fft.irfft(spectrum * np.conj(spectrum), size)[:n]
    if covariance[0] <= 0:
        return np.concatenate(([1.0], np.zeros(n - 1)))
    return np.asarray(covariance / covariance[0], dtype=np.float64)


def lag1(series: Floats) -> float:
    """Autocorrelation at lag 1, in [-1, 1]; 0 for fewer than three samples."""
    return float(autocorrelation(series)[1]) if len(series) > 2 else 0.0


def correlation_time(series: Floats) -> float:
    """Integrated autocorrelation time, at least 1: `n` samples are worth `n / time`.

    The sum of correlations is cut by Sokal's window, the first lag that is five times the sum
    (A. Sokal, Monte Carlo Methods in Statistical Mechanics, 1997, section 3). Over a series that is
    short beside its memory that sum falls short, now and then by half. So where lag 1 is
    significant, the time is at least that of a first-order autoregression with it, its bias of
    (1 + 3 phi) / n (Kendall, Biometrika 41, 1954) taken off.
    """
    n = len(series)
    if n < 4:
        return 1.0
    correlations = autocorrelation(series)
    sums = 2 * np.cumsum(correlations) - 1
    window = np.flatnonzero(np.arange(n) >= 5 * sums)
    summed = float(sums[int(window[0]) if len(window) else n - 1])
    phi = float(correlations[1])
    if phi > 1.645 / math.sqrt(n):
        phi = min(phi + (1 + 3 * phi) / n, 1 - 2 / n)
        summed = max(summed, (1 + phi) / (1 - phi))
    return float(np.clip(summed, 1.0, n))


# --- medians ---------------------------------------------------------------------------------


def block_length(n: int, tau: float) -> int:
    """Samples in one moving block: long enough to carry the dependence, few enough to resample."""
    wanted = max(n ** (1 / 3), 3.0 * (tau - 1))
    return int(max(1, min(round(wanted), n // 8)))


def bootstrap_medians(
    samples: Samples, *, seed: int, resamples: int = 1000, tau: float | None = None
) -> Floats:
    """Medians of moving-block resamples (Künsch, Annals of Statistics 17(3), 1989).

    Resamples are not built. Each one is a weighting of blocks, and how many of its samples lie at
    or below a threshold is one matrix product away; the thresholds are order statistics around the
    median. Above `MAX_CELLS` samples, blocks start at multiples of a cell instead of everywhere.

    Args:
        samples: shape (n,), in the order of measurement.
        seed: of the draws.
        resamples: number of medians.
        tau: correlation time of the samples, computed where None.

    Returns:
        Shape (resamples,), in the samples' unit.
    """
    tau = correlation_time(ranks(samples)) if tau is None else tau
    cell = math.ceil(len(samples) / MAX_CELLS)
    cells = len(samples) // cell
    used = np.asarray(samples[: cells * cell], dtype=np.float64)
    n = len(used)
    span = min(max(1, round(block_length(n, tau) / cell)), cells)
    starts = cells - span + 1
    draws = math.ceil(cells / span)
    chosen = np.random.default_rng(seed).integers(0, starts, (resamples, draws))
    chosen += np.arange(resamples)[:, None] * starts
    weights = np.bincount(chosen.ravel(), minlength=resamples * starts).reshape(resamples, starts)

    ordered = np.sort(used)
    reach = 8 * math.sqrt(n * tau) / 2
    while True:
        low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach))
        places = np.unique(np.linspace(low, high, MAX_THRESHOLDS).astype(np.int64))
        thresholds = ordered[places]
        counts = _counts_of_blocks(used, thresholds, cell, span)
        below = weights.astype(np.float32) @ counts.astype(np.float32)
        half = draws * span * cell / 2
        first = np.argmax(below >= half, axis=1)
        after = np.argmax(below > half, axis=1)
        outside = (below[:, -1] <= half) | ((below[:, 0] >= half) & (low > 0))
        if not outside.any() or reach >= n:
            break
        reach *= 4
    after = np.where(below[:, -1] <= half, first, after)
    return np.asarray((thresholds[first] + thresholds[after]) / 2, dtype=np.float64)


def _counts_of_blocks(
    samples: Floats, thresholds: Floats, cell: int, span: int
) -> npt.NDArray[np.int64]:
    """Samples at or below each threshold in each block: shape (starts, thresholds)."""
    cells = len(samples) // cell
    bins = np.searchsorted(thresholds, samples, side="left")
    width = len(thresholds) + 1
    flat = np.repeat(np.arange(cells), cell) * width + bins
    histogram = np.bincount(flat, minlength=cells * width).reshape(cells, width)
    running = np.zeros((cells + 1, width), dtype=np.int64)
    np.cumsum(histogram, axis=0, out=running[1:])
    in_block = running[span:] - running[:-span]
    return np.asarray(np.cumsum(in_block, axis=1)[:, :-1])


def median_interval(
    samples: Samples, *, seed: int, resamples: int = 1000, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Two-sided confidence interval of the median, by moving blocks.

    It is widened for the blocks being few and finite, and never narrower than the order statistics
    of as many independent samples as the data are worth.

    Args:
        samples: shape (n,), n at least 8, in the order of measurement.
        seed: of the draws.
        resamples: bootstrap resamples.
        confidence: two-sided.
    """
    tau = correlation_time(ranks(samples))
    medians = _widened_medians(samples, tau, seed, resamples, confidence)
    low, high = _central(medians, confidence)
    least, most = _order_interval(samples, len(samples) / tau, confidence)
    return min(low, least), max(high, most)


def _widened_medians(
    samples: Samples, tau: float, seed: int, resamples: int, confidence: float
) -> Floats:
    medians = bootstrap_medians(samples, seed=seed, resamples=resamples, tau=tau)
    centre = float(np.median(samples))
    return centre + (medians - centre) * _few_blocks_factor(len(samples), tau, confidence)


def _few_blocks_factor(n: int, tau: float, confidence: float) -> float:
    """What a bootstrap over few and finite blocks falls short by.

    Student's quantile for the number of blocks over the normal one, and the share of the variance
    that is cut at the blocks' ends: 1 - 2 sum(k rho_k) / (length tau), which for correlations that
    decay by a constant factor is 1 - (tau^2 - 1) / (2 tau length).
    """
    length = block_length(n, tau)
    student = student_quantile(0.5 + confidence / 2, max(3.0, n / length - 1))
    kept = max(0.25, 1 - (tau**2 - 1) / (2 * tau * length))
    return student / normal_quantile(0.5 + confidence / 2) / math.sqrt(kept)


def _order_interval(samples: Samples, effective: float, confidence: float) -> tuple[float, float]:
    """Interval of the median by order statistics, as of `effective` independent samples."""
    n = len(samples)
    reach = normal_quantile(0.5 + confidence / 2) * n / math.sqrt(effective) / 2
    ordered = np.sort(samples)
    low = max(0, math.floor((n - 1) / 2 - reach))
    return float(ordered[low]), float(ordered[n - 1 - low])


def ratio_interval(
    numerator: Samples,
    denominator: Samples,
    *,
    seed: int,
    resamples: int = 1000,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Interval of the ratio of two medians that were measured apart (a stored baseline).

    Where both can be measured together, `paired_ratio` over interleaved blocks is far narrower and
    does not take the machine's mood for a difference.
    """
    above, below = (
        _widened_medians(each, correlation_time(ranks(each)), seed + place, resamples, confidence)
        for place, each in enumerate((numerator, denominator))
    )
    return _central(above / below, confidence)


def _central(values: Floats, confidence: float) -> tuple[float, float]:
    edge = (1 - confidence) / 2
    low, high = np.quantile(values, [edge, 1 - edge])
    return float(low), float(high)


# --- shape of a run --------------------------------------------------------------------------


def throttle_ratio(samples: Samples) -> float:
    """Median of the last fifth over that of the first: over 1 where the device slowed down."""
    return float(np.median(last_fifth(samples)) / np.median(last_fifth(samples[::-1])))


def last_fifth(samples: Samples) -> Samples:
    """The last fifth of a run, one sample at least."""
    return samples[-max(1, len(samples) // 5) :]


def outliers(samples: Samples) -> tuple[int, int]:
    """Count samples beyond 1.5 and beyond 3 interquartile ranges (Tukey). They are never dropped.

    Returns:
        Mild ones (1.5 to 3) and extreme ones (over 3).
    """
    low, high = np.quantile(samples, [0.25, 0.75])
    distance = np.maximum(low - samples, samples - high)
    reach = high - low
    extreme = int(np.count_nonzero(distance > 3 * reach))
    return int(np.count_nonzero(distance > 1.5 * reach)) - extreme, extreme
