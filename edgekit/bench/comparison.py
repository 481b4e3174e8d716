"""A against B over interleaved rounds: the ratio, its interval, and the floor of identical code.

Measured one after the other, identical code is often "faster" than itself: the machine has moved on
in between. In rounds that hold a block of each, both saw the same machine, and the rounds are the
replicates.
"""

import math
from functools import lru_cache

import numpy as np

from edgekit.bench.statistics import CONFIDENCE, Floats, lag1, normal_quantile, ranks


@lru_cache(maxsize=256)
def _signed_rank_depth(n: int, confidence: float) -> int:
    """How many of the smallest Walsh averages lie outside the interval; 0: there is none."""
    if n > 150:
        spread = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return math.floor(n * (n + 1) / 4 - normal_quantile(0.5 + confidence / 2) * spread)
    # The exact distribution of the sum of ranks with fair signs, one rank after the other.
    pmf = np.array([1.0])
    for rank in range(1, n + 1):
        with_rank = np.concatenate((np.zeros(rank), pmf))
        without = np.concatenate((pmf, np.zeros(rank)))
        pmf = (with_rank + without) / 2
    return int(np.searchsorted(np.cumsum(pmf), (1 - confidence) / 2, side="right"))


def paired_ratio(
    log_ratios: Floats, confidence: float = CONFIDENCE
) -> tuple[float, float | None, float | None]:
    """Ratio and interval from one log-ratio for each interleaved round.

    Hodges-Lehmann estimate with the interval of Wilcoxon's signed-rank statistic (Hollander, Wolfe
    and Chicken, Nonparametric Statistical Methods, 3rd ed., section 3.4): exact for few rounds, and
    a round in which something else ran hardly moves it. Correlated rounds widen the interval.

    Args:
        log_ratios: shape (rounds,), natural logarithms.
        confidence: two-sided.

    Returns:
        The ratio, its lower and its upper limit; no limits under six rounds.
    """
    n = len(log_ratios)
    rows, columns = np.triu_indices(n)
    walsh = np.sort((log_ratios[rows] + log_ratios[columns]) / 2)
    centre = float(np.median(walsh))
    depth = _signed_rank_depth(n, confidence)
    if depth < 1:
        return math.exp(centre), None, None
    phi = lag1(ranks(log_ratios))
    phi = min(phi, 0.9) if phi > 1.645 / math.sqrt(n) else 0.0
    widen = math.sqrt((1 + phi) / (1 - phi))
    low = centre + (float(walsh[depth - 1]) - centre) * widen
    high = centre + (float(walsh[len(walsh) - depth]) - centre) * widen
    return math.exp(centre), math.exp(low), math.exp(high)


def noise_floor(log_blocks: Floats, *, seed: int, confidence: float = CONFIDENCE) -> float | None:
    """How far identical code compared with itself was seen to differ: the A/A floor.

    The baseline's own blocks, two neighbouring rounds a pair, are given random signs: the floor is
    what the mean of such differences stays under. It is the bar for calling a difference real.

    Args:
        log_blocks: shape (rounds,), logarithms of the baseline's block medians, in order.
        seed: of the signs.
        confidence: the share of sign draws that stays under the floor.

    Returns:
        A fraction (0.02 is 2 %), None under eight rounds.
    """
    pairs = len(log_blocks) // 2
    if pairs < 4:
        return None
    differences = log_blocks[1 : 2 * pairs : 2] - log_blocks[0 : 2 * pairs : 2]
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (2000, pairs))
    return math.expm1(float(np.quantile(np.abs(signs @ differences / pairs), confidence)))
