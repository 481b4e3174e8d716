"""Find out how far the clock of a recording is from the harness's.

The load is switched on and off in a pattern that looks like nothing else: the Barker code of
length 13, whose correlation with itself is 13 where it lies on itself and at most 1 elsewhere. The
recording shows that pattern in its power; where it does, the clocks are aligned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from edgekit.bench.meters.base import Load
from edgekit.bench.meters.trace import Floats
from edgekit.bench.protocol import Clock, time_block

BARKER = "1111100110101"
REST = 2
STEPS_A_CHIP = 20
LEAST_CORRELATION = 0.7
MOST_ELSEWHERE = 0.85
AS_GOOD = 0.95
FINE_STEPS = 200


@dataclass(frozen=True)
class Segment:
    """A stretch of time in which the load was on, or off, in seconds of the harness's clock."""

    begin_s: float
    end_s: float
    on: bool


@dataclass(frozen=True)
class Found:
    """Where the pattern was found.

    Attributes:
        offset_s: what the recording's clock shows more than the harness's.
        correlation: of the pattern with the power there, 1 at best.
        elsewhere: the best correlation at a place that is not as good.
    """

    offset_s: float
    correlation: float
    elsewhere: float

    @property
    def sure(self) -> bool:
        """The pattern is there, and only there."""
        clear = self.elsewhere <= MOST_ELSEWHERE * self.correlation
        return self.correlation >= LEAST_CORRELATION and clear


def give_pattern(load: Load, clock: Clock, chip_s: float) -> list[Segment]:
    """Switch the load on and off in the pattern, and say when that was.

    Args:
        load: one inference.
        clock: time.
        chip_s: the least time between two switches.

    Returns:
        The segments, with a rest before and after the pattern.
    """
    code = "0" * REST + BARKER + "0" * REST
    segments = []
    begin = clock.ns()
    for bit, run in groupby(code):
        seconds = chip_s * len(list(run))
        if bit == "1":
            time_block(load, clock.ns, int(seconds * 1e9))
        else:
            clock.sleep(seconds)
        end = clock.ns()
        segments.append(Segment(begin / 1e9, end / 1e9, bit == "1"))
        begin = end
    return segments


def find_pattern(segments: Sequence[Segment], times: Floats, watts: Floats) -> Found | None:
    """Look for the pattern in a recording.

    Args:
        segments: the pattern, as it really was.
        times: shape (n,), seconds on the recording's clock, ascending.
        watts: shape (n,).

    Returns:
        The best place, None where the recording is shorter than the pattern.
    """
    begin, end = segments[0].begin_s, segments[-1].end_s
    chip = min(each.end_s - each.begin_s for each in segments)
    step = chip / STEPS_A_CHIP
    energy = np.concatenate(([0.0], np.cumsum(np.diff(times) * (watts[1:] + watts[:-1]) / 2)))
    size = int((end - begin) / step)
    count = int((times[-1] - times[0]) / step) if len(times) > 1 else 0
    if size < 1 or count <= size:
        return None
    grid = times[0] + step * np.arange(count + 1)
    power = np.diff(np.interp(grid, times, energy)) / step
    middles = begin + step * (np.arange(size) + 0.5)
    on = np.zeros(size)
    for each in segments:
        if each.on:
            on[(middles >= each.begin_s) & (middles < each.end_s)] = 1.0
    scores = _correlations(on, power)
    best, elsewhere = _last_peak(scores)
    rough = times[0] + best * step - begin
    return Found(_refined(segments, times, energy, rough, step), float(scores[best]), elsewhere)


def _last_peak(scores: Floats) -> tuple[int, float]:
    """The last place that is as good as the best, and the best score beside all such places.

    A recording may hold the patterns of several runs; this one's is the last.
    """
    good = np.flatnonzero(scores >= AS_GOOD * scores.max())
    apart = int(1.5 * STEPS_A_CHIP)
    last = good[good > good[-1] - apart]
    best = int(last[np.argmax(scores[last])])
    beside = np.ones(len(scores), dtype=bool)
    for place in good:
        beside[max(0, place - apart) : place + apart + 1] = False
    return best, float(scores[beside].max()) if beside.any() else 0.0


def _correlations(pattern: Floats, power: Floats) -> Floats:
    """Pearson's correlation of a pattern with each stretch of its length."""
    n = len(pattern)
    centred = pattern - pattern.mean()
    products = np.correlate(power, centred, mode="valid")
    sums = np.concatenate(([0.0], np.cumsum(power)))
    squares = np.concatenate(([0.0], np.cumsum(power**2)))
    mean = (sums[n:] - sums[:-n]) / n
    spread = np.maximum((squares[n:] - squares[:-n]) / n - mean**2, 0.0)
    scale = np.sqrt(spread * n) * float(np.linalg.norm(centred))
    tiny = 1e-9 * float(np.abs(power).max() or 1.0) * n
    return np.where(scale > tiny, products / np.maximum(scale, tiny), 0.0)


def _refined(
    segments: Sequence[Segment], times: Floats, energy: Floats, rough: float, step: float
) -> float:
    """The offset at which the power under the load exceeds that beside it most."""
    offsets = rough + step * np.linspace(-1.5, 1.5, 2 * FINE_STEPS + 1)
    means = {}
    for on in (True, False):
        chosen = [each for each in segments if each.on is on]
        joules = sum(
            np.interp(each.end_s + offsets, times, energy)
            - np.interp(each.begin_s + offsets, times, energy)
            for each in chosen
        )
        means[on] = joules / sum(each.end_s - each.begin_s for each in chosen)
    return float(offsets[int(np.argmax(means[True] - means[False]))])
