"""What edgekit's own code adds to a latency: its median against a bare ONNX Runtime loop.

Both time the same session, so that nothing differs but the code around it: where a model lies in
memory makes more of a difference between two loads than either loop does. They take turns in one
process, in random order, each for a second, on a model of about 20 microseconds and on one of
about 20 milliseconds.

    taskset -c 0 python benchmarks/harness.py

The difference of a round is within 1 % or 1 microsecond, or it is too much; the interval is a
bootstrap over rounds.
"""

import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path

import models
import numpy as np
import onnxruntime

from edgekit.bench import Protocol, Subject, bench
from edgekit.bench.fingerprint import fingerprint
from edgekit.bench.runtimes.onnxruntime import OnnxRuntime

ROUNDS = 16
SECONDS = 1.0
ALLOWED_SHARE, ALLOWED_US = 0.01, 1.0
PROTOCOL = dataclasses.replace(
    Protocol.full(),
    warmup_s=0.3,
    warmup_block_s=0.1,
    warmup_max_s=1.0,
    min_rounds=10,
    loads=1,
    min_s=SECONDS,
    max_s=SECONDS,
    quantile=0.9,
    above=0,
    resamples=200,
)


class Loaded(OnnxRuntime):
    """A runtime that stays loaded: entering and leaving it costs nothing and changes nothing."""

    def __enter__(self) -> "Loaded":
        """Load at the first time only."""
        if self._session is None:
            super().__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stay loaded."""


def bare(session: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray], how: str) -> float:
    """Median microseconds of a loop that a user would write."""
    if how == "bound":
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for output in session.get_outputs():
            binding.bind_output(output.name)
        run, arguments = session.run_with_iobinding, (binding,)
    else:
        run, arguments = session.run, ([each.name for each in session.get_outputs()], feeds)
    clock = time.perf_counter_ns
    warm_until = clock() + int(0.3e9)
    while clock() < warm_until:
        run(*arguments)
    times = []
    end = clock() + int(SECONDS * 1e9)
    while (began := clock()) < end:
        run(*arguments)
        times.append(clock() - began)
    return float(np.median(times)) / 1e3


def ours(runtime: Loaded, feeds: dict[str, np.ndarray], seed: int) -> float:
    """Median microseconds that edgekit reports."""
    subject = Subject("m", "onnxruntime", runtime._model, feeds)
    protocol = dataclasses.replace(PROTOCOL, seed=seed)
    found = bench([subject], protocol, opener=lambda _: runtime).subject("m").p50_ms.value
    return 1e3 * (found or float("nan"))


def compare(path: Path, how: str, random: np.random.Generator) -> dict[str, object]:
    """Let the two take turns on one model."""
    with Loaded(path, {"bound": how == "bound"}) as runtime:
        feeds = {
            spec.name: random.standard_normal(spec.shape).astype(spec.dtype)
            for spec in runtime.inputs
        }
        pairs = []
        for number in range(ROUNDS):
            pair = {}
            for side in random.permutation(["edgekit", "bare"]):
                if side == "bare":
                    pair[side] = bare(runtime._session, feeds, how)
                else:
                    pair[side] = ours(runtime, feeds, number)
            pairs.append((pair["edgekit"], pair["bare"]))
    edgekit, loop = np.array(pairs).T
    difference = edgekit - loop
    draws = random.integers(0, ROUNDS, (10_000, ROUNDS))
    low, high = np.quantile(np.median(difference[draws], axis=1), [0.025, 0.975])
    allowed = max(ALLOWED_US, ALLOWED_SHARE * float(np.median(loop)))
    return {
        "call": "run_with_iobinding" if how == "bound" else "run",
        "edgekit_us": float(np.median(edgekit)),
        "bare_us": float(np.median(loop)),
        "difference_us": float(np.median(difference)),
        "difference_95_us": [float(low), float(high)],
        "allowed_us": allowed,
        "within": bool(abs(np.median(difference)) <= allowed),
        "rounds_us": [[round(a, 4), round(b, 4)] for a, b in pairs],
    }


def main() -> None:
    """Compare on both models and both ways to call, print it and keep it."""
    random = np.random.default_rng(0)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, write in (("20 us", models.write_small), ("20 ms", models.write_large)):
            path = write(Path(folder) / f"{write.__name__}.onnx")
            for how in ("bound", "run"):
                found[f"{name}, {how}"] = compare(path, how, random)
                shown = {k: v for k, v in found[f"{name}, {how}"].items() if k != "rounds_us"}
                print(f"{name}, {how}", json.dumps(shown, indent=2), flush=True)
    result = {
        "device": fingerprint(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "rounds": ROUNDS,
        "models": found,
    }
    results = Path(__file__).parent / "results"
    (results / "harness.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
