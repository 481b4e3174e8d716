"""A against B over interleaved rounds: the ratio, its interval, and the floor of identical code.

Measured one after the other, identical code is often "faster" than itself: the machine has moved on
in between. In rounds that hold a block of each, both saw the same machine, and the rounds are the
replicates.
"""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgekit.bench.quantiles import normal_quantile, student_quantile
from edgekit.bench.statistics import CONFIDENCE, Floats, lag1, ranks


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


LEAST_LOADS = 4


def paired_ratio(
    log_ratios: Floats,
    loads: npt.NDArray[np.int32] | None = None,
    confidence: float = CONFIDENCE,
) -> tuple[float, float | None, float | None]:
    """Ratio and interval from one log-ratio for each interleaved round.

    Hodges-Lehmann estimate with the interval of Wilcoxon's signed-rank statistic (Hollander, Wolfe
    and Chicken, Nonparametric Statistical Methods, 3rd ed., section 3.4): exact for few rounds, and
    a round in which something else ran hardly moves it. Correlated rounds widen the interval.

    Rounds of one load share where the models lie in memory, so with several loads the interval is
    never narrower than Student's over the loads' medians.

    Args:
        log_ratios: shape (rounds,), natural logarithms.
        loads: shape (rounds,), which load of the models each round belongs to.
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
    half = _half_width_over_loads(log_ratios, loads, confidence)
    low, high = min(low, centre - half), max(high, centre + half)
    return math.exp(centre), math.exp(low), math.exp(high)


def _half_width_over_loads(
    log_ratios: Floats, loads: npt.NDArray[np.int32] | None, confidence: float
) -> float:
    if loads is None or len(np.unique(loads)) < LEAST_LOADS:
        return 0.0
    numbers = np.unique(loads)
    medians = np.array([np.median(log_ratios[loads == number]) for number in numbers])
    spread = float(medians.std(ddof=1)) / math.sqrt(len(medians))
    return student_quantile(0.5 + confidence / 2, len(medians) - 1) * spread


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
