"""Where a GPU's time goes, by its own events: a separate pass, since events cost time."""

from collections.abc import Callable, Mapping

import numpy as np

from edgekit.bench import statistics
from edgekit.bench.protocol import Clock, Protocol
from edgekit.bench.result import Figure
from edgekit.bench.summary import LEAST_FOR_MEDIAN, note

LEAST_RUNS = 50
MOST_RUNS = 2000


def device_ms(run: Callable[[], object], protocol: Protocol, clock: Clock) -> Mapping[str, Figure]:
    """Median milliseconds of each part of an inference, where the runtime can tell them apart.

    Args:
        run: one inference; one that can tell has a method `split`, which runs once and returns
            milliseconds by part.
        protocol: `block_s` bounds the pass to ten blocks.
        clock: time.

    Returns:
        By part; empty where the runtime has no events.
    """
    split = getattr(run, "split", None)
    if split is None:
        return {}
    rows: list[Mapping[str, float]] = []
    end = clock.ns() + 10 * protocol.block_s * 1e9
    while len(rows) < LEAST_RUNS or (clock.ns() < end and len(rows) < MOST_RUNS):
        rows.append(split())
    return {
        part: _figure(np.array([row[part] for row in rows], dtype=np.float64), protocol)
        for part in rows[0]
    }


def _figure(samples: statistics.Floats, protocol: Protocol) -> Figure:
    tau = statistics.correlation_time(statistics.ranks(samples))
    low, high = None, None
    if len(samples) / tau >= LEAST_FOR_MEDIAN:
        low, high = statistics.median_interval(
            samples, seed=protocol.seed, resamples=protocol.resamples
        )
    return Figure(float(np.median(samples)), low, high, "ms", "measured", note(protocol))
