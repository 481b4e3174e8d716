"""Confidence intervals at 95 %: of a proportion, of a difference of paired ones, of any figure.

The intervals of proportions are score intervals, which hold for few samples and for rates near 0 or
1, where accuracy usually is. Their cover is tested by simulation.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.metrics.task import CONFIDENCE

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
RESAMPLES = 2000
_BISECTIONS = 60


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95 % (Wilson, 1927, JASA 22:209)."""
    p, z2 = hits / n, _Z * _Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def tango(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, float]:
    """Score interval of a difference of paired proportions, first minus second, 95 %.

    Tango, 1998, Statistics in Medicine 17:891. With b samples that only the first gets right, c
    that only the second does, and n in all, the limits are the d with

        (b - c - n d) / sqrt(n (2 q + d (1 - d))) = ±z,

    where q is the share of the c-type samples that is most likely under d. Samples on which the two
    agree count through n alone. 0 is inside exactly when McNemar's test does not reject.

    Args:
        first: shape (samples,), whether the first model is right.
        second: likewise.
    """
    n = len(first)
    b, c = int((first & ~second).sum()), int((~first & second).sum())

    def score(d: float) -> float:
        linear = -b - c + (2 * n - b + c) * d
        root = math.sqrt(max(linear * linear + 8 * n * c * d * (1 - d), 0.0))
        variance = n * (2 * max(root - linear, 0.0) / (4 * n) + d * (1 - d))
        gap = b - c - n * d
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap)

    def limit(low: float, high: float, z: float) -> float:
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > z else (low, middle)
        return (low + high) / 2

    difference = (b - c) / n
    return limit(-1.0, difference, _Z), limit(difference, 1.0, -_Z)


def bootstrap(
    figure: Callable[[NDArray[np.float64]], float], n: int, seed: int
) -> tuple[float, float]:
    """Expanded percentile bootstrap over samples, 95 % (Hesterberg, 2015, Am. Stat. 69:371).

    The plain percentile interval is too narrow for few samples; its tails are widened to those of
    the t distribution.

    Args:
        figure: of one weight a sample, shape (n,); NaN where it is undefined.
        n: samples.
        seed: of the draws.

    Raises:
        UsageError: the figure is undefined on every resample.
    """
    rng = np.random.default_rng(seed)
    draws = (np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(RESAMPLES))
    values = np.array([figure(weights.astype(np.float64)) for weights in draws])
    values = values[np.isfinite(values)]
    if not len(values):
        raise UsageError("The metric is undefined on resamples of this data.", "Give more samples.")
    tail = NormalDist().cdf(-math.sqrt(n / max(n - 1, 1)) * _t_quantile(max(n - 1, 1)))
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _t_quantile(freedom: int) -> float:
    """The t distribution's upper quantile (Abramowitz & Stegun 26.7.5), good to 1 % from 5 on."""
    z = _Z
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2
