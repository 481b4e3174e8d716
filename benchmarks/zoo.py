"""Prune whole packages of networks, and prove every one: torchvision, and timm's families.

    python benchmarks/zoo.py --work build/zoo [--shard 1/2] [--only 'timm/*'] [--giants]
    python benchmarks/zoo.py --work build/zoo --seed benchmarks/results/zoo.json
    python benchmarks/zoo.py --work build/zoo --table

Each network goes through capture, pruning at sparsity 0.5 (whose zero-mask oracle is part of it),
saving and loading, ONNX export and ONNX Runtime, whose outputs must be those of the pruned graph.
Each runs in a process of its own, so that a crash costs one network, and leaves one record in the
work folder; what has a record there is not run again. A record names the commit and the processor
that made it. `--seed` takes over the records of an earlier run for what has none, as they are.
`--table` writes the records to `results/zoo.json` and `zoo.md`.
"""

import argparse
import fnmatch
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
SPARSITY = 0.5
COMMIT = ""  # of the code that runs; read once, before anything runs
ATOL, RTOL = 1e-4, 1e-3  # of ONNX Runtime against the pruned graph, scaled by edgekit.lower.check


class Clock:
    """Processor seconds of each stage: other work on the machine does not count."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        began = time.process_time()
        try:
            yield
        finally:
            spent = time.process_time() - began
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 2)

    def watch(self, module: Any, function: str, stage: str) -> None:
        """Count a function of a module, wherever the module calls it, towards a stage."""
        original: Callable[..., Any] = getattr(module, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(stage):
                return original(*args, **kwargs)

        setattr(module, function, timed)


def run_one(key: str, work: Path) -> dict[str, Any]:
    """Everything for one network."""
    import torch
    from zoo_models import Entry, enliven

    from edgekit.prune import masks
    from edgekit.prune import prune as pruning

    torch.set_num_threads(1)
    clock, record = Clock(), {"key": key, "status": "build failed"}
    clock.watch(pruning, "decide", "analysis")
    clock.watch(pruning, "shrink", "shrink")
    clock.watch(pruning, "rebuild", "re-export")
    clock.watch(pruning, "_expect", "oracle")
    clock.watch(pruning, "_error", "oracle")
    try:
        net, example = Entry(*key.split("/")).build()
        enliven(net, example)
        record["status"] = "not exportable"
        with clock.stage("capture"):
            program = captured(net, example, record)
        del net
        record["status"] = "prune failed"
        pruned, report = prune(program)
        if pruned.batch_dim() != program.batch_dim():
            record["batch"] = "static after pruning"
        describe(program, report, record)
        record["status"] = "export failed"
        export(pruned, work / f"{key.replace('/', '-')}", record, clock)
        inputs = program.example_inputs(batch=1, seed=1)
        outputs = [masks.plain_outputs(p.module(), inputs) for p in (program, pruned)]
        record["changed"] = masks.difference(*outputs)
        record["largest_output"] = max(float(o.abs().max()) for o in outputs[0])
        record["status"] = "ok"
    except Exception as e:  # noqa: BLE001 - whatever a network does is its record
        record["error"] = f"{type(e).__name__}: {e}"[:1500]
        record["traceback"] = traceback.format_exc()[-4000:]
    record["seconds"] = clock.seconds
    record["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    record |= {"torch": torch.__version__, "commit": COMMIT, "processor": processor()}
    return record


def captured(net: Any, example: tuple[Any, ...], record: dict[str, Any]) -> Any:
    """Capture with a symbolic batch where that goes."""
    from edgekit.graph.capture import capture

    program = capture(net, example, dynamic=None)
    record["inputs"] = {spec.name: list(spec.shape) for spec in program.inputs}
    record["batch"] = "symbolic" if program.batch_dim() else "static"
    record["capture_warnings"] = list(program.warnings)
    return program


def prune(program: Any) -> tuple[Any, Any]:
    """Prune at half of the channels of every layer."""
    from edgekit.prune import prune as pruning
    from edgekit.prune.config import PruneConfig

    return pruning.prune(program, PruneConfig(sparsity=SPARSITY), seed=0)


def describe(program: Any, report: Any, record: dict[str, Any]) -> None:
    """What pruning did."""
    record |= {
        "nodes": len(program.exported.graph.nodes),
        "macs_before": report.macs_before,
        "macs_after": report.macs_after,
        "parameters_before": report.parameters_before,
        "parameters_after": report.parameters_after,
        "frozen_parameters": report.frozen_parameters,
        "frozen": {
            cause: {"parameters": f.parameters, "layers": len(f.layers), "first": f.layers[:3]}
            for cause, f in report.frozen.items()
        },
        "oracle_error": report.zero_mask_max_error,
        "oracle_dtype": report.zero_mask_dtype,
        "prune_warnings": list(report.warnings),
    }


def export(pruned: Any, stem: Path, record: dict[str, Any], clock: Clock) -> None:
    """Save, load, export and run in ONNX Runtime."""
    from edgekit.graph.store import load, save
    from edgekit.lower import export as lowering
    from edgekit.prune import masks

    clock.watch(lowering, "_compare", "onnxruntime")
    saved, onnx = stem.with_suffix(".pt2"), stem.with_suffix(".onnx")
    try:
        with clock.stage("save and load"):
            save(pruned, saved)
            loaded = load(saved)
        inputs = pruned.example_inputs(batch=1, seed=2)
        pair = [masks.plain_outputs(p.module(), inputs) for p in (pruned, loaded)]
        record["loaded_error"] = masks.difference(*pair)
        if record["loaded_error"] != 0:
            raise AssertionError("The loaded program computes something else.")
        with clock.stage("export"):
            found = lowering.export_onnx(loaded, onnx, batches=(1, 2), atol=ATOL, rtol=RTOL)
        clock.seconds["export"] = round(
            clock.seconds["export"] - clock.seconds.get("onnxruntime", 0.0), 2
        )
        record |= {
            "onnx_nodes": found.nodes,
            "onnx_bytes": found.size_bytes,
            "onnx_shapes": list(found.checked),
            "onnx_max_abs_error": found.max_abs_error,
            "onnx_max_rel_error": found.max_rel_error,
        }
    finally:
        saved.unlink(missing_ok=True)
        for part in onnx.parent.glob(f"{onnx.name}*"):
            part.unlink()


def warm_up(work: Path) -> None:
    """Load every library and use it once, so that the processes forked from here need not."""
    import torch
    from torch import nn

    from edgekit.graph.capture import capture

    torch.set_num_threads(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
    record: dict[str, Any] = {}
    program = capture(net, (torch.randn(2, 3, 4, 4),), dynamic=None)
    pruned, _ = prune(program)
    export(pruned, work / f"warm-up-{os.getpid()}", record, Clock())


def _child(key: str, work: Path, log: Path) -> None:
    os.setpgrp()  # not a session of its own: the precedence of this one holds for it too
    with log.open("wb", buffering=0) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    record = run_one(key, work)
    record_path(work, key).write_text(json.dumps(record, indent=1) + "\n")


def run_apart(key: str, options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Run one network in a process of its own, within limits of time and memory."""
    log = path.with_suffix(".log")
    began = time.perf_counter()
    child = multiprocessing.get_context("fork").Process(
        target=_child, args=(key, options.work, log)
    )
    child.start()
    reason = ""
    while child.is_alive():
        child.join(0.2)
        if time.perf_counter() - began > options.time_limit:
            reason = f"more than {options.time_limit:g} s"
        if _resident(child.pid or 0) > options.memory_limit * 1e9:
            reason = f"more than {options.memory_limit:g} GB of memory"
        if reason:
            child.kill()
            child.join()
    if path.exists():
        log.unlink(missing_ok=True)
        return dict(json.loads(path.read_text()))
    said = log.read_text(errors="replace")[-1000:] if log.exists() else ""
    record = {
        "key": key,
        "commit": COMMIT,
        "status": "stopped" if reason else "crashed",
        "error": reason or f"exit {child.exitcode}: {said}",
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    return record


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


def record_path(work: Path, key: str) -> Path:
    """Where a network's record lies."""
    return work / f"{key.replace('/', '-')}.json"


def said_by_git(*words: str) -> str:
    """What git says about this repository, or nothing where there is none."""
    done = subprocess.run(
        ["git", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def processor() -> str:
    """The processor's name, as Linux says it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")


def seed(work: Path, results: Path) -> int:
    """Take over the records of an earlier run for networks that have none; how many."""
    last = said_by_git("log", "-1", "--format=%h", "--", str(results.resolve()))
    taken = 0
    for record in json.loads(results.read_text())["networks"]:
        path = record_path(work, record["key"])
        if not path.exists():
            record.setdefault("commit", f"{last} or before" if last else "")
            path.write_text(json.dumps(record, indent=1) + "\n")
            taken += 1
    return taken


def _line(record: dict[str, Any]) -> str:
    said = f"{record['key']}: {record['status']}"
    if "macs_after" in record:
        left = record["macs_after"] / max(record["macs_before"], 1)
        frozen = record["frozen_parameters"] / max(record["parameters_before"], 1)
        said += f", MACs left {left:.0%}, frozen {frozen:.1%}, {record['batch']}"
    if "seconds" in record:
        said += f", {sum(record['seconds'].values()):.0f} s"
    return said + (f" | {record['error'][:200]}" if "error" in record else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shard", default="1/1", help="the first of two parts: 1/2")
    parser.add_argument("--only", action="append", help="a pattern, such as 'timm/*vit*'")
    parser.add_argument("--giants", action="store_true", help="run the giants, and only them")
    parser.add_argument("--again", action="store_true", help="run what has a record already")
    parser.add_argument("--failed", action="store_true", help="run again what is not ok")
    parser.add_argument("--time-limit", type=float, default=1200, help="seconds for a network")
    parser.add_argument("--memory-limit", type=float, default=10, help="GB for a network")
    parser.add_argument("--seed", type=Path, help="take over the records of this results file")
    parser.add_argument("--table", action="store_true", help="write the committed table")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    if options.seed:
        print(f"{seed(options.work, options.seed)} records taken over.")
        return
    if options.table:
        from zoo_table import write_table

        write_table(options.work)
        return
    global COMMIT
    COMMIT = said_by_git("describe", "--always", "--dirty", "--exclude=*")
    keys = [key for key in chosen(options) if _due(record_path(options.work, key), options)]
    if keys:
        warm_up(options.work)
    for key in keys:
        path = record_path(options.work, key)
        if not _due(path, options):  # another run came first
            continue
        path.unlink(missing_ok=True)
        print(_line(run_apart(key, options, path)), flush=True)


def _due(path: Path, options: argparse.Namespace) -> bool:
    """Whether a network has no record yet, or is to be run again."""
    if not path.exists() or options.again:
        return True
    return bool(options.failed and json.loads(path.read_text())["status"] != "ok")


def chosen(options: argparse.Namespace) -> list[str]:
    """Which networks this call is to run, in the order of their packages."""
    from zoo_models import GIANTS, zoo

    keys = [e.key for e in zoo() if (e.name in GIANTS) == options.giants]
    patterns = options.only or ["*"]
    keys = [k for k in keys if any(fnmatch.fnmatchcase(k, p) for p in patterns)]
    part, _, parts = options.shard.partition("/")
    return keys[int(part) - 1 :: int(parts)]


if __name__ == "__main__":
    main()
