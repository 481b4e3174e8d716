"""Where an activation's range ends: estimators over a stream, with memory that does not grow.

The first pass over the samples finds the smallest and largest value of each tensor; a second one,
where an estimator needs it, fills a histogram of fixed size between them. A range that leaves out a
few far values makes the steps smaller for all others.

- `percentile`: from the (100-p)-th to the p-th percentile.
- `mse`: the range with the least Σ h_i (x_i - Q(x_i))² over the histogram's bins. One-sided and
  symmetric ranges are searched in one dimension, two-sided ones by turns.
- `kl`: the range whose quantized distribution has the least Kullback-Leibler divergence from the
  clipped one (Migacz, "8-bit Inference with TensorRT", 2017).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.lower.check import Arrays, Runner

if TYPE_CHECKING:
    from edgekit.quantize.config import PtqConfig

Limits = tuple[float, float]
Floats = NDArray[np.float64]

BINS = 2048
_CANDIDATES = 100
_SMALLEST = 0.05  # of the whole range: what is searched at the least
_TURNS = 3


class Histogram:
    """Counts of a tensor's values in bins of equal width.

    Attributes:
        edges: shape (bins + 1,), float64.
        counts: shape (bins,), float64.
    """

    def __init__(self, low: float, high: float, bins: int = BINS) -> None:
        self.edges: Floats = np.linspace(low, high, bins + 1)
        self.counts: Floats = np.zeros(bins)

    def add(self, values: NDArray[np.floating[Any]]) -> None:
        """Count values that lie between the edges."""
        self.counts += np.histogram(values, self.edges)[0]

    @property
    def centers(self) -> Floats:
        """Shape (bins,): the middle of each bin."""
        middle: Floats = (self.edges[1:] + self.edges[:-1]) / 2
        return middle


@dataclass(frozen=True)
class Observed:
    """What samples showed of tensors: enough to take any range from.

    Attributes:
        extremes: smallest and largest value, by tensor.
        mean: the means of each feed's.
        histograms: of the tensors that are not constant; empty where no estimator needs them.
        symmetric: ranges will be used as [-a, a]; histograms are of magnitudes then.
    """

    extremes: dict[str, Limits]
    mean: dict[str, Limits]
    histograms: dict[str, Histogram]
    symmetric: bool

    def limits(self, config: "PtqConfig") -> dict[str, Limits]:
        """By tensor the lowest and highest value that is not clipped.

        Args:
            config: names the estimator.
        """
        if config.ranges == "min-max":
            return dict(self.extremes)
        if config.ranges == "mean-min-max":
            return dict(self.mean)
        choose = _CHOICES[config.ranges]
        found = {
            name: choose(histogram, self.symmetric, config.percentile)
            for name, histogram in self.histograms.items()
        }
        return self.extremes | found


def observe(
    runner: Runner, feeds: Iterable[Arrays], *, symmetric: bool, histograms: bool = True
) -> Observed:
    """Look at every output of a model.

    Args:
        runner: a model whose outputs are the tensors of interest.
        feeds: its inputs; iterated twice, or once without histograms, one at a time.
        symmetric: ranges will be used as [-a, a].
        histograms: whether they are wanted.

    Raises:
        UsageError: a tensor holds NaN or infinity; names it and the sample.
    """
    found, mean = _extremes(runner, feeds)
    held: dict[str, Histogram] = {}
    if histograms:
        wide = {name: limits for name, limits in found.items() if limits[1] > limits[0]}
        held = {name: Histogram(*_span(*limits, symmetric)) for name, limits in wide.items()}
        for feed in feeds:
            for name, value in runner(feed).items():
                if name in held:
                    flat = value.reshape(-1).astype(np.float64)
                    held[name].add(np.abs(flat) if symmetric else flat)
    return Observed(found, mean, held, symmetric)


def estimate(
    runner: Runner, feeds: Iterable[Arrays], config: "PtqConfig", *, symmetric: bool
) -> dict[str, Limits]:
    """The range of every output of a model; see `observe`.

    Args:
        runner: a model whose outputs are the tensors of interest.
        feeds: its inputs; iterated once or twice, one at a time.
        config: names the estimator.
        symmetric: ranges will be used as [-a, a].

    Returns:
        By tensor the lowest and highest value that is not clipped.

    Raises:
        UsageError: a tensor holds NaN or infinity; names it and the sample.
    """
    needed = config.ranges in _CHOICES
    return observe(runner, feeds, symmetric=symmetric, histograms=needed).limits(config)


def _extremes(
    runner: Runner, feeds: Iterable[Arrays]
) -> tuple[dict[str, Limits], dict[str, Limits]]:
    """Smallest and largest values over all feeds, and the means of each feed's."""
    found: dict[str, Limits] = {}
    sums: dict[str, Limits] = {}
    counts: dict[str, int] = {}
    for place, feed in enumerate(feeds):
        for name, value in runner(feed).items():
            if not value.size:
                continue
            low, high = float(value.min()), float(value.max())
            if not np.isfinite(low) or not np.isfinite(high):
                raise UsageError(
                    f"The model's own tensor {name!r} holds NaN or infinity for calibration sample "
                    f"{place}.",
                    "Look at the float model with this sample: no range can be taken from it.",
                )
            before = found.get(name, (np.inf, -np.inf))
            found[name] = min(before[0], low), max(before[1], high)
            total = sums.get(name, (0.0, 0.0))
            sums[name] = total[0] + low, total[1] + high
            counts[name] = counts.get(name, 0) + 1
    mean = {n: (low / counts[n], high / counts[n]) for n, (low, high) in sums.items()}
    return found, mean


def _span(low: float, high: float, symmetric: bool) -> Limits:
    if symmetric:
        return 0.0, max(abs(low), abs(high))
    return min(low, 0.0), max(high, 0.0)


def percentile(histogram: Histogram, symmetric: bool, share: float) -> Limits:
    """The range that holds `share` percent of the values on each side."""
    total = np.cumsum(histogram.counts)
    total = total / total[-1]
    top = min(int(np.searchsorted(total, share / 100)), len(total) - 1)
    high = float(histogram.edges[top + 1])
    if symmetric:
        return -high, high
    bottom = int(np.searchsorted(total, 1 - share / 100))
    return min(float(histogram.edges[bottom]), 0.0), max(high, 0.0)


def mse(histogram: Histogram, symmetric: bool, share: float = 0.0) -> Limits:
    """The range with the least squared error over the histogram."""
    del share
    x, h = histogram.centers, histogram.counts
    lowest, highest = float(histogram.edges[0]), float(histogram.edges[-1])
    scales = np.linspace(1.0, _SMALLEST, _CANDIDATES)
    if symmetric:
        errors = [float(h @ _squared(x, -a, a, 254)) for a in scales * highest]
        best = float(scales[int(np.argmin(errors))] * highest)
        return -best, best
    low, high = lowest, highest
    for _ in range(_TURNS if lowest < 0 < highest else 1):
        before = low, high
        if highest > 0:
            tops = scales * highest
            high = float(tops[np.argmin([h @ _squared(x, low, t, 255) for t in tops])])
        if lowest < 0:
            bottoms = scales * lowest
            low = float(bottoms[np.argmin([h @ _squared(x, b, high, 255) for b in bottoms])])
        if (low, high) == before:
            break
    return low, high


def _squared(x: Floats, low: float, high: float, steps: int) -> Floats:
    """Squared error of each value when it is quantized to `steps` + 1 levels from low to high."""
    scale = (high - low) / steps or 1.0
    zero = np.rint(low / scale)
    levels = np.clip(np.rint(x / scale), zero, zero + steps)
    error: Floats = np.square(x - levels * scale)
    return error


def kl(histogram: Histogram, symmetric: bool, share: float = 0.0) -> Limits:
    """The range whose quantized distribution is nearest to the clipped one."""
    del share
    low, high = float(histogram.edges[0]), float(histogram.edges[-1])
    levels = 128 if symmetric else 256
    if symmetric or low == 0.0:
        top = _least_divergence(histogram.counts, high, levels)
        return (-top, top) if symmetric else (0.0, top)
    if high == 0.0:
        return -_least_divergence(histogram.counts[::-1], -low, levels), 0.0
    top = max(-low, high)  # two-sided: by magnitude, then what is there of it
    folded = Histogram(0.0, top, len(histogram.counts))
    magnitudes = np.abs(histogram.centers)
    folded.counts = np.histogram(magnitudes, folded.edges, weights=histogram.counts)[0]
    best = _least_divergence(folded.counts, top, levels // 2)
    return max(low, -best), min(high, best)


def _least_divergence(counts: Floats, top: float, levels: int) -> float:
    """Where to clip magnitudes; the first bin (mostly exact zeros) does not count."""
    counts = counts.copy()
    counts[0] = 0.0
    if counts.sum() == 0:
        return top
    width = top / len(counts)
    ends = range(levels, len(counts) + 1, max(1, len(counts) // 256))
    found = [(_divergence(counts, end, levels), end) for end in ends]
    return min(found)[1] * width


def _divergence(counts: Floats, end: int, levels: int) -> float:
    inside = counts[:end]
    clipped = inside.copy()
    clipped[-1] += counts[end:].sum()
    group = (np.arange(end) * levels) // end
    filled = inside > 0
    sums = np.bincount(group, inside, levels)
    members = np.bincount(group, filled, levels)
    spread = np.where(filled, (sums / np.maximum(members, 1))[group], 0.0)
    p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1.0)
    if ((p > 0) & (q == 0)).any():
        q = np.where(p > 0, np.maximum(q, 1e-12), q)
    mask = p > 0
    return float((p[mask] * np.log(p[mask] / q[mask])).sum())


_CHOICES: Mapping[str, Callable[[Histogram, bool, float], Limits]] = {
    "percentile": percentile,
    "mse": mse,
    "kl": kl,
}
