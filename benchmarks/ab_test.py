"""How often edgekit calls identical code different, and how often it finds a planted slowdown.

    python benchmarks/ab_test.py [--runs 100] [--seconds-budget 3600] [--cpu 1] [--quick]

Two networks, a real one of about a millisecond and a small one of some tens of microseconds, both
chains of convolutions in ONNX Runtime. One run of a network is

* one call of `edgekit.bench.bench` on three subjects, interleaved: the network (the baseline), the
  same file once more (A/A), and the network with one more of its identical layers (about 5 %
  slower);
* the same file measured twice, one after the other, by the same protocol, each on its own: what
  one does without interleaving. It counts as different where the two intervals of the median do
  not overlap; a second count asks for 3 % as well, as edgekit's verdict does.

How much slower the planted network really is does not rest on edgekit: `verify` times both in turn,
over many loads of the models, in a loop of its own.

Each run is appended to a file in the work folder, so that the study goes on where it was ended, and
two processes may measure a network each (`--network real --cpu 0`, `--network small --cpu 1`). Not
more than 9 in 100 A/A verdicts may be other than `inconclusive`, and 90 in 100 planted slowdowns
must be found.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bench import BenchResult, Figure, Protocol, Subject, bench
from edgekit.bench.conditions import snapshot
from edgekit.bench.fingerprint import fingerprint
from edgekit.bench.shares import share_interval

ROOT = Path(__file__).parents[1]
# Layers, channels, height and width.
NETWORKS = {"real": (21, 16, 28), "small": (17, 8, 6)}
LEAST_DIFFERENCE = 0.03
MOST_FALSE, LEAST_FOUND = 0.09, 0.90
Row = dict[str, Any]


def save_chain(path: Path, layers: int, channels: int, side: int) -> None:
    """Write a chain of 3x3 convolutions, each with its own weights and a ReLU after it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    nodes, weights, before = [], [], "x"
    for place in range(layers):
        shape = (channels, channels, 3, 3)
        weight = generator.standard_normal(shape, np.float32) / np.float32(3 * channels**0.5)
        weights.append(numpy_helper.from_array(weight, f"w{place}"))
        after = "y" if place == layers - 1 else f"r{place}"
        nodes.append(helper.make_node("Conv", [before, f"w{place}"], [f"c{place}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{place}"], [after]))
        before = after
    shape = [1, channels, side, side]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


def subjects_of(network: str, work: Path) -> list[Subject]:
    """The network, the same again, and the network with one more layer."""
    layers, channels, side = NETWORKS[network]
    same, slower = work / f"{network}.onnx", work / f"{network}-slower.onnx"
    save_chain(same, layers, channels, side)
    save_chain(slower, layers + 1, channels, side)
    feeds = {"x": np.random.default_rng(1).standard_normal((1, channels, side, side), np.float32)}
    files = {"a": same, "same": same, "slower": slower}
    return [Subject(name, "onnxruntime", path, feeds) for name, path in files.items()]


def verify(subjects: list[Subject], loads: int = 30, seconds: float = 1.5) -> Row:
    """How much slower the planted network is, by a bare loop: 40 inferences of each in turn.

    Returns:
        The median over loads of the ratio of medians, and its standard error over loads.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    files = (subjects[0].model, subjects[2].model)
    ratios, medians = [], []
    for _ in range(loads):
        sessions = [
            onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
            for file in files
        ]
        bindings = [session.io_binding() for session in sessions]
        for binding in bindings:
            binding.bind_cpu_input("x", subjects[0].feeds["x"])
            binding.bind_output("y", "cpu")
        times: tuple[list[int], list[int]] = ([], [])
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for session, binding, kept in zip(sessions, bindings, times, strict=True):
                for place in range(40):
                    began = time.perf_counter_ns()
                    session.run_with_iobinding(binding)
                    took = time.perf_counter_ns() - began
                    if place >= 10:  # the first fill the caches
                        kept.append(took)
        plain, slow = (statistics.median(kept) for kept in times)
        ratios.append(slow / plain)
        medians.append(plain / 1e6)
    return {
        "planted_slowdown": statistics.median(ratios) - 1,
        "standard_error": 1.25 * statistics.stdev(ratios) / math.sqrt(loads),
        "loads": loads,
        "p50_ms": statistics.median(medians),
    }


def interleaved(subjects: list[Subject], protocol: Protocol) -> Row:
    """Edgekit's verdicts on the same code and on the planted slowdown."""
    result = bench(subjects, protocol, baseline="a")
    row: Row = {"floor": result.aa_floor.value, "p50_ms": result.subject("a").p50_ms.value}
    for name in ("same", "slower"):
        found = result.comparisons[name]
        row[name] = {
            "verdict": found.verdict,
            "speedup": [found.speedup.value, found.speedup.low, found.speedup.high],
            "threshold": found.threshold,
            "rounds": found.rounds,
        }
    return row


def sequential(subjects: list[Subject], protocol: Protocol) -> Row:
    """The same code measured twice, one after the other."""
    first, second = (_p50(bench([subjects[0]], protocol)) for _ in range(2))
    row: Row = {"p50_ms": [first.value, second.value], "disjoint": None, "beyond": None}
    ends = [first.low, first.high, second.low, second.high]
    if None not in ends:  # under drift edgekit gives no interval, and nothing is judged
        row["disjoint"] = ends[1] < ends[2] or ends[3] < ends[0]
        row["beyond"] = abs(math.log(second.value / first.value)) > math.log1p(LEAST_DIFFERENCE)
    return row


def _p50(result: BenchResult) -> Figure:
    return result.subjects[0].p50_ms


def run_once(subjects: list[Subject], protocol: Protocol, with_sequential: bool) -> Row:
    """One run, with what the machine was doing."""
    before, began = snapshot(), time.perf_counter()
    row = interleaved(subjects, protocol)
    row["interleaved_s"] = round(time.perf_counter() - began, 1)
    if with_sequential:
        row["sequential"] = sequential(subjects, protocol)
    after = snapshot()
    row["seconds"] = round(time.perf_counter() - began, 1)
    row["load_1min"] = [before.get("load_1min"), after.get("load_1min")]
    if "stolen_s" in before:
        row["stolen_s"] = round(after["stolen_s"] - before["stolen_s"], 2)
    return row


def count(hits: list[bool]) -> Row:
    """Hits among runs, with the exact 95 % interval of their share."""
    if not hits:
        return {"runs": 0}
    low, high = share_interval(sum(hits), len(hits))
    return {"runs": len(hits), "hits": sum(hits), "share": sum(hits) / len(hits),
            "share_95": [round(low, 4), round(high, 4)]}  # fmt: skip


def summary(rows: list[Row]) -> Row:
    """What all runs of a network say."""
    judged = [r["sequential"] for r in rows if r.get("sequential")]
    decided = [r for r in judged if r["disjoint"] is not None]
    false = count([r["same"]["verdict"] != "inconclusive" for r in rows])
    found = count([r["slower"]["verdict"] == "slower" for r in rows])
    speedups = [r["slower"]["speedup"][0] for r in rows]
    return {
        "same_code_interleaved": {
            **false,
            "verdicts": Counter(r["same"]["verdict"] for r in rows),
            "passed": false["share"] <= MOST_FALSE,
        },
        "same_code_one_after_the_other": {
            "intervals_disjoint": count([r["disjoint"] for r in decided]),
            "disjoint_and_beyond_3_percent": count(
                [r["disjoint"] and r["beyond"] for r in decided]
            ),
            "drift_no_interval": len(judged) - len(decided),
        },
        "planted_slowdown": {
            **found,
            "verdicts": Counter(r["slower"]["verdict"] for r in rows),
            "passed": found["share"] >= LEAST_FOUND,
            "median_ratio": 1 / statistics.median(speedups),
            "lowest_and_highest_ratio": [1 / max(speedups), 1 / min(speedups)],
        },
        "p50_ms": statistics.median(r["p50_ms"] for r in rows),
        "floor": {"median": statistics.median(r["floor"] for r in rows),
                  "highest": max(r["floor"] for r in rows)},
        "rounds": statistics.median(r["same"]["rounds"] for r in rows),
        "interleaved_s": statistics.median(r["interleaved_s"] for r in rows),
        "load_1min": {"median": statistics.median(r["load_1min"][0] for r in rows),
                      "highest": max(max(r["load_1min"]) for r in rows)},
        "stolen_share": sum(r.get("stolen_s", 0) for r in rows) / sum(r["seconds"] for r in rows),
    }  # fmt: skip


class Study:
    """Rows on disk, and the results that follow from them.

    Args:
        work: folder for models and rows.
        form: `full` or `quick`.
        about: the device and the protocol; rows of others are passed over.
    """

    def __init__(self, work: Path, form: str, about: Row) -> None:
        self.path, self.about = work / f"runs-{form}.jsonl", about

    def of(self, network: str, what: str = "run") -> list[Row]:
        """Rows of a network; another process may be adding some of another network."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        rows = [json.loads(line) for line in lines]
        mine = {"network": network, "what": what, "about": self.about}
        return [row for row in rows if {key: row[key] for key in mine} == mine]

    def add(self, network: str, what: str, row: Row) -> None:
        """Keep a row."""
        line = json.dumps({"network": network, "what": what, **row, "about": self.about}) + "\n"
        with self.path.open("a") as file:
            file.write(line)

    def results(self) -> Row:
        """What is known so far."""
        found: Row = {"about": self.about, "networks": {}}
        for network in NETWORKS:
            if self.of(network):
                verified = [{k: r[k] for k in ("planted_slowdown", "standard_error", "loads",
                             "p50_ms")} for r in self.of(network, "verify")]  # fmt: skip
                found["networks"][network] = {
                    "layers_channels_side": NETWORKS[network],
                    "verified_by_a_bare_loop": verified,
                    **summary(self.of(network)),
                }
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build/ab-test")
    parser.add_argument("--runs", type=int, default=100, help="of each network, in all")
    parser.add_argument("--seconds-budget", type=float, default=math.inf, help="begin no run after")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: both")
    parser.add_argument("--cpu", type=int, help="pin to this CPU")
    parser.add_argument("--quick", action="store_true", help="the quick protocol, to try it out")
    parser.add_argument(
        "--sequential", type=int, default=100, help="runs that measure one after the other as well"
    )
    parser.add_argument("--out", type=Path, help="default: results/ab_test.json, quick: nowhere")
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    options.work.mkdir(parents=True, exist_ok=True)
    form = "quick" if options.quick else "full"
    make = Protocol.quick if options.quick else Protocol.full
    study = Study(options.work, form, {"device": fingerprint(), "form": form})
    out = options.out or (None if options.quick else ROOT / "benchmarks/results/ab_test.json")
    subjects = {n: subjects_of(n, options.work) for n in options.network or NETWORKS}
    end = time.monotonic() + options.seconds_budget
    for network in subjects:
        if not study.of(network, "verify"):
            row = verify(subjects[network])
            study.add(network, "verify", row)
            print(network, json.dumps(row), flush=True)
    while time.monotonic() < end:
        # In turn, so that each network has seen the same hours.
        network = min(subjects, key=lambda name: len(study.of(name)))
        number = len(study.of(network))
        if number >= options.runs:
            break
        row = run_once(subjects[network], make(number), number < options.sequential)
        study.add(network, "run", {"number": number, "cpu": options.cpu, **row})
        print(network, number, json.dumps(row), flush=True)
        if out is not None:
            out.write_text(json.dumps(study.results(), indent=1) + "\n")
    if any(study.of(network) for network in NETWORKS):
        print(json.dumps(study.results(), indent=1))


if __name__ == "__main__":
    main()
