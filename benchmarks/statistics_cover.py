"""Do edgekit's bounds and intervals cover, and does it see drift? Streams whose truth is known.

    python benchmarks/statistics_cover.py [--streams 1000] [--only p99]

Each stream goes through the functions that make a benchmark's figures (`edgekit.bench.summary`).
Per case: how often there is a figure at all (the rest is "not estimable", or has no interval), and
how often it covers. Nominal is 95 %, and 94 % must be reached.

Drift is a median that rises over the run: in a straight line, as a device that warms up does
(exponentially), or all at once. It must be flagged in 95 % of streams where it is larger than the
spread of the runs (10 %) and the stream is worth 300 independent runs, what a p99 needs; smaller
ones, and shorter streams, are shown without a verdict.

Each case is appended to a file in the work folder, so that the study goes on where it was ended,
and several processes may share it (`--only`).
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bench import Protocol, statistics, trend
from edgekit.bench.shares import share_interval
from edgekit.bench.summary import median_figure, tail_figure

ROOT = Path(__file__).parents[1]
NORMAL = NormalDist()
SPREAD = 0.1
BAR = 0.94
LEAST_EFFECTIVE = 300
Floats = npt.NDArray[np.float64]
Stream = Callable[[np.random.Generator, int], Floats]
Row = dict[str, Any]


def independent(generator: np.random.Generator, n: int) -> Floats:
    return np.exp(SPREAD * generator.standard_normal(n))


def bimodal(generator: np.random.Generator, n: int) -> Floats:
    slow = np.where(generator.random(n) < 0.3, 1.5, 1.0)
    return slow * np.exp(0.05 * generator.standard_normal(n))


def autoregressive(phi: float) -> Stream:
    """Log-normal with a first-order autoregression; started in its stationary state."""

    def draw(generator: np.random.Generator, n: int) -> Floats:
        noise = generator.standard_normal(n) * math.sqrt(1 - phi * phi)
        noise[0] = generator.standard_normal()
        response = phi ** np.arange(min(n, 1024))  # 0.97^1024 is nothing
        size = 1 << (n + len(response)).bit_length()
        series = np.fft.irfft(np.fft.rfft(noise, size) * np.fft.rfft(response, size), size)[:n]
        return np.asarray(np.exp(SPREAD * series))

    return draw


def quantile_of_bimodal(probability: float) -> float:
    low, high = 0.1, 5.0
    for _ in range(80):
        middle = (low + high) / 2
        below = 0.7 * NORMAL.cdf(math.log(middle) / 0.05)
        below += 0.3 * NORMAL.cdf(math.log(middle / 1.5) / 0.05)
        low, high = (middle, high) if below < probability else (low, middle)
    return low


def quantile_of_lognormal(probability: float) -> float:
    return math.exp(SPREAD * NORMAL.inv_cdf(probability))


def share(hits: int, n: int) -> Row:
    """Hits of n, with the exact 95 % interval."""
    if n == 0:
        return {"n": 0}
    low, high = share_interval(hits, n)
    found = {"n": n, "hits": hits, "share": round(hits / n, 4)}
    return {**found, "share_95": [round(low, 4), round(high, 4)]}


def cover(what: str, stream: Stream, truth: Callable[[float], float], n: int, streams: int) -> Row:
    """How often a figure is given, and how often it covers."""
    quantile = {"p99": 0.99, "median": 0.5}[what]
    given = covered = 0
    for seed in range(streams):
        samples = stream(np.random.default_rng(seed), n)
        protocol = Protocol(seed=seed)
        if what == "p99":
            figure = tail_figure(samples, quantile, drifting=False, protocol=protocol)
        else:
            tau = statistics.correlation_time(statistics.ranks(samples))
            figure = median_figure(samples, tau, drifting=False, protocol=protocol)
        if figure.high is None:
            continue
        given += 1
        low = -math.inf if figure.low is None else figure.low
        covered += low <= truth(quantile) <= figure.high
    found = share(covered, given)
    return {"given": given / streams, "covered": found, "passed": passed(found, BAR)}


def passed(found: Row, bar: float) -> bool | None:
    """Whether a share reaches a bar; None where fewer than 50 say so."""
    return None if found["n"] < 50 else found["share"] >= bar


DRIFTS: dict[str, Callable[[Floats], Floats]] = {
    "straight": lambda u: u,
    "warming up": lambda u: (1 - np.exp(-4 * u)) / (1 - math.exp(-4)),
    "at once": lambda u: (u > 0.5).astype(np.float64),
}


def drifting(shape: str, change: float, phi: float, n: int, streams: int) -> Row:
    """How often a drift is flagged, and whether any flagged run has an interval."""
    course = 1 + change * DRIFTS[shape](np.linspace(0, 1, n))
    draw = autoregressive(phi) if phi else independent
    flagged = silent = 0
    for seed in range(streams):
        samples = draw(np.random.default_rng(seed), n) * course
        moved = trend.drift(samples)
        tau = statistics.correlation_time(statistics.ranks(samples))
        protocol = Protocol(seed=seed, resamples=50)
        figures = [median_figure(samples, tau, moved.flag, protocol)]
        figures += [tail_figure(samples, q, moved.flag, protocol) for q in (0.9, 0.99)]
        none = all(figure.low is None and figure.high is None for figure in figures)
        flagged += moved.flag
        silent += none
        if moved.flag and not none:
            raise AssertionError("a flagged run has an interval")
    found = share(flagged, streams)
    effective = n * (1 - phi) / (1 + phi)
    held = change > SPREAD and effective >= LEAST_EFFECTIVE
    return {
        "flagged": found,
        "no_interval_at_all": silent / streams,
        "passed": passed(found, 0.95) if held else None,
    }


def stationary(draw: Stream, n: int, streams: int) -> Row:
    """How often a run without drift is flagged."""
    flags = sum(trend.drift(draw(np.random.default_rng(seed), n)).flag for seed in range(streams))
    return {"flagged": share(flags, streams)}


Case = tuple[Row, Callable[[], Row]]


def cases(streams: int) -> Iterator[Case]:
    """Every case: what it is, and what computes the rest of its row."""
    plain: tuple[tuple[str, Stream, Callable[[float], float]], ...] = (
        ("independent", independent, quantile_of_lognormal),
        ("bimodal", bimodal, quantile_of_bimodal),
    )
    dependent = tuple(
        (f"AR(1), phi {phi}", autoregressive(phi), quantile_of_lognormal)
        for phi in (0.5, 0.9, 0.97)
    )
    for what in ("p99", "median"):
        for kinds, sizes in ((plain, (500, 2000, 10_000)), (dependent, (1000, 4000, 16_000))):
            for name, stream, truth in kinds:
                for n in sizes:
                    about = {"what": what, "stream": name, "n": n, "streams": streams}
                    yield about, partial(cover, what, stream, truth, n, streams)
    # As many effective runs for each, and for the last fewer, where nothing is held to the bar.
    for phi, n in ((0.0, 2000), (0.5, 2000), (0.9, 8000), (0.9, 2000)):
        for change in (0.05, 0.15, 0.5):
            for shape in DRIFTS:
                about = {"what": "drift", "shape": shape, "change": change, "phi": phi, "n": n}
                yield (
                    {**about, "streams": streams},
                    partial(drifting, shape, change, phi, n, streams),
                )
    for name, stream, _ in (*plain, *dependent):
        for n in (500, 2000, 10_000):
            about = {"what": "false flags", "stream": name, "n": n, "streams": streams}
            yield about, partial(stationary, stream, n, streams)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--only", choices=("p99", "median", "drift", "false flags"))
    parser.add_argument("--work", type=Path, default=ROOT / "build/statistics-cover")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results/statistics_cover.json"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    kept = options.work / "rows.jsonl"

    def known() -> list[Row]:
        lines = kept.read_text().splitlines() if kept.exists() else []
        done = [json.loads(line) for line in lines]
        return [
            row
            for about, _ in cases(options.streams)
            for row in done
            if {key: row.get(key) for key in about} == about
        ]

    for about, compute in cases(options.streams):
        if options.only not in (None, about["what"]):
            continue
        if any({key: row.get(key) for key in about} == about for row in known()):
            continue
        row = {**about, **compute()}
        with kept.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    rows = known()
    found = {"nominal": statistics.CONFIDENCE, "bar": BAR, "spread": SPREAD, "rows": rows}
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    failed = [row for row in rows if row.get("passed") is False]
    print(f"{len(rows)} of {len(list(cases(1)))} cases, {len(failed)} below the bar")


if __name__ == "__main__":
    main()
