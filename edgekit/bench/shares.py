"""Intervals of a share (late answers) and of a rate (samples a second), dependence counted in."""

import math

from edgekit.bench.quantiles import student_quantile
from edgekit.bench.statistics import CONFIDENCE, Floats, correlation_time

LEAST_ROUNDS = 6


def share_interval(hits: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two-sided interval of a share, exact for independent trials.

    Clopper and Pearson, Biometrika 26(4), 1934: limits at which so many hits or more, or so many or
    fewer, would be too rare. For dependent trials, give the effective number of them and as many
    hits as the share makes of it; a fraction is rounded to the wider side.

    Args:
        hits: 0 to `n`.
        n: effective number of trials, at least 1.
        confidence: two-sided.
    """
    trials = max(1, math.floor(n))
    edge = (1 - confidence) / 2
    few, many = math.floor(min(hits, trials)), min(trials, math.ceil(hits))
    low = 0.0 if few == 0 else _beta_quantile(edge, few, trials - few + 1)
    high = 1.0 if many == trials else _beta_quantile(1 - edge, many + 1, trials - many)
    return low, high


def rate_interval(
    counts: Floats, seconds: Floats, confidence: float = CONFIDENCE
) -> tuple[float, float | None, float | None]:
    """Rate over all rounds, and its interval over rounds.

    The ratio of sums, with the variance of its residuals (Cochran, Sampling Techniques, 3rd ed.,
    section 2.11) widened by their correlation time, and Student's quantile for the rounds.

    Args:
        counts: shape (rounds,), what was done in each.
        seconds: shape (rounds,), over 0.
        confidence: two-sided.

    Returns:
        Counts a second, its lower and its upper limit; no limits under six rounds.
    """
    n = len(counts)
    rate = float(counts.sum() / seconds.sum())
    if n < LEAST_ROUNDS:
        return rate, None, None
    residuals = counts - rate * seconds
    tau = min(correlation_time(residuals), n / 3)
    variance = float((residuals**2).sum()) / (n - 1) * n * tau
    half = student_quantile(0.5 + confidence / 2, max(2.0, n / tau - 1)) * math.sqrt(variance)
    half /= float(seconds.sum())
    return rate, max(0.0, rate - half), rate + half


def _beta_quantile(probability: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_cdf(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log1p(-x)
    # Lentz's method, from the front.
    tiny = 1e-300
    c, d = 1.0, 1 / _off_zero(1 - (a + b) * x / (a + 1), tiny)
    total = d
    for m in range(1, 2000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1 / _off_zero(1 + step * d, tiny)
            c = _off_zero(1 + step / c, tiny)
            total *= c * d
        if abs(c * d - 1) < 1e-13:
            break
    return math.exp(log_front) * total / a


def _off_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
