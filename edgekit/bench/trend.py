"""Whether a run moved steadily in one direction: where it did, its figures have no interval."""

import math
from dataclasses import dataclass

import numpy as np

from edgekit.bench.statistics import Floats, Samples, lag1

DRIFT_LEVEL = 0.01
DRIFT_CHANGE = 0.01


@dataclass(frozen=True)
class Drift:
    """Whether a run moved steadily in one direction.

    Attributes:
        flag: a significant trend of at least `DRIFT_CHANGE`.
        change: change over the whole run, as a fraction of the median.
        p_value: of the trend.
    """

    flag: bool
    change: float
    p_value: float


def drift(samples: Samples, batches: int = 40) -> Drift:
    """Test a run for a trend: Mann-Kendall on batch medians, Theil-Sen for its size.

    The variance is widened by the lag-1 correlation of the medians around their monotone fit
    (Bayley and Hammersley, 1946), so that a wandering machine is not taken for a trend too readily.
    Around a straight line it would not do: what is left of a device that warms up, fast at first
    and then slowly, or that throttles all at once, is so correlated that the drift hides itself.

    Args:
        samples: shape (n,), in the order of measurement. Under 24 samples no trend can be told.
        batches: number of batch medians.
    """
    n = len(samples)
    if n < 24:
        return Drift(flag=False, change=0.0, p_value=1.0)
    batches = min(batches, n // 3)
    medians = np.array([np.median(part) for part in np.array_split(samples, batches)])
    rows, columns = np.triu_indices(batches, k=1)
    steps = medians[columns] - medians[rows]
    slope = float(np.median(steps / (columns - rows)))
    change = slope * (batches - 1) / float(np.median(medians))
    upward = medians if np.sign(steps).sum() >= 0 else -medians
    phi = lag1(upward - monotone_fit(upward))
    phi = float(np.clip(phi + (1 + 3 * phi) / batches, 0.0, 0.8))  # Kendall, Biometrika 41, 1954
    variance = batches * (batches - 1) * (2 * batches + 5) / 18 * (1 + phi) / (1 - phi)
    score = max(0.0, abs(float(np.sign(steps).sum())) - 1) / math.sqrt(variance)
    p_value = math.erfc(score / math.sqrt(2))
    return Drift(p_value < DRIFT_LEVEL and abs(change) >= DRIFT_CHANGE, change, p_value)


def monotone_fit(series: Floats) -> Floats:
    """Fit a series by one that never falls, with the least squares, by pooling adjacent violators.

    Barlow, Bartholomew, Bremner and Brunk, Statistical Inference under Order Restrictions, 1972.

    Args:
        series: shape (n,).

    Returns:
        Shape (n,).
    """
    means: list[float] = []
    sizes: list[int] = []
    for value in series:
        means.append(float(value))
        sizes.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            size = sizes[-2] + sizes[-1]
            means[-2:] = [(means[-2] * sizes[-2] + means[-1] * sizes[-1]) / size]
            sizes[-2:] = [size]
    return np.repeat(np.array(means, dtype=np.float64), sizes)
