"""How far an energy window errs, naive or on the counter's edges; and what sampling costs.

The first part is a simulation on a clock of its own: a counter that moves every 0.1 s, a board that
draws 10 W and 50 W under a load, windows at seeded random phases, and the true joules beside what
the meter says. The second part runs on this machine: the processor time of a sampler, which does
not depend on what else runs there.

    python benchmarks/energy_windows.py
"""

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from edgekit.bench.meters.command import Command
from edgekit.bench.meters.counter import CounterMeter
from edgekit.bench.meters.ina3221 import Ina3221
from edgekit.bench.meters.sampled import SampledMeter

PERIOD_S = 0.1
IDLE_W, BUSY_W = 10.0, 50.0
RUN_S = 1e-3
LENGTHS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
WINDOWS = 200
SEED = 0
ROUNDS = 10
BLOCK_S = 5.0


class Simulation:
    """A board, its counter, and the clock that both live on."""

    def __init__(self) -> None:
        self.now = 10**9
        self.joules = 0.0
        self.shown = 0
        self.watts = IDLE_W

    def advance(self, ns: int) -> None:
        """Let time pass in pieces that end on the counter's edges."""
        step = int(PERIOD_S * 1e9)
        while ns > 0:
            piece = min(ns, step - self.now % step)
            self.now += piece
            self.joules += self.watts * piece / 1e9
            if self.now % step == 0:
                self.shown = round(self.joules * 1e6)
            ns -= piece

    @property
    def ns(self) -> Callable[[], int]:
        """What reads the clock; 50 ns pass each time."""

        def read() -> int:
            self.advance(50)
            return self.now

        return read

    def sleep(self, seconds: float) -> None:
        """Wait, idle."""
        self.advance(int(seconds * 1e9))

    def run(self) -> None:
        """One inference."""
        self.watts = BUSY_W
        self.advance(int(RUN_S * 1e9))
        self.watts = IDLE_W


def errors(length_s: float, *, align: bool) -> dict[str, float]:
    """Errors of many windows, as fractions of the true joules."""
    board = Simulation()
    meter = CounterMeter(
        "simulated",
        lambda: {"board": board.shown},
        ranges={},
        joules_per_tick=1e-6,
        primary=("board",),
        clock=board,
    )
    meter.period_s = meter.measure_period()
    phases = np.random.default_rng(SEED)
    found = []
    for _ in range(WINDOWS):
        board.sleep(float(phases.uniform(0, PERIOD_S)))
        with meter.window(board.run, align=align) as window:
            window.keep(length_s)
        joules = window.reading.domains_j["board"] / window.runs
        # An inference takes 50 W for 1 ms, and the harness a little at 10 W around it.
        found.append(joules / (BUSY_W * RUN_S) - 1)
    sizes = np.abs(found)
    return {
        "mean": round(float(sizes.mean()), 5),
        "p95": round(float(np.quantile(sizes, 0.95)), 5),
        "worst": round(float(sizes.max()), 5),
    }


def processor_s() -> float:
    """Processor time of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def sampler_cost(meter: SampledMeter) -> dict[str, float]:
    """Processor time of a sampler, as a share of one core: with it on and off, in turn."""
    shares = []
    with meter:
        for _ in range(ROUNDS):
            used = {}
            for on in (True, False):
                before = processor_s()
                with meter.window() if on else nullcontext():
                    time.sleep(BLOCK_S)
                used[on] = processor_s() - before
            shares.append((used[True] - used[False]) / BLOCK_S)
        period = meter.period_s
    low, middle, high = statistics.quantiles(shares, n=4)
    return {
        "period_s": round(period, 4),
        "share_of_a_core": round(middle, 5),
        "quartiles": [round(low, 5), round(high, 5)],
        "rounds": ROUNDS,
    }


def samplers(folder: Path) -> dict[str, SampledMeter]:
    """A sensor of files, as a Jetson's, and a program that is called, as a Raspberry Pi's."""
    chip = folder / "sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    for file, text in {
        "name": "ina3221",
        "in1_label": "VDD_IN",
        "in1_input": "5000",
        "curr1_input": "2000",
        "update_interval": "100",
    }.items():
        (chip / file).write_text(f"{text}\n", encoding="utf-8")
    return {
        "files, every 0.1 s": Ina3221(folder),
        "a program called every 0.25 s": Command(["echo", "5.0"]),
    }


def main() -> None:
    """Simulate, measure, print and keep."""
    windows = {
        f"{length:g}": {
            "naive": errors(length, align=False),
            "edge_aligned": errors(length, align=True),
        }
        for length in LENGTHS_S
    }
    with tempfile.TemporaryDirectory() as folder:
        cost = {name: sampler_cost(each) for name, each in samplers(Path(folder)).items()}
    found = {
        "counter_period_s": PERIOD_S,
        "windows_of_each_length": WINDOWS,
        "seed": SEED,
        "error_of_joules_per_inference_by_window_s": windows,
        "sampler_cost": cost,
    }
    text = json.dumps(found, indent=2)
    print(text)
    results = Path(__file__).parent / "results"
    (results / "energy_windows.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
