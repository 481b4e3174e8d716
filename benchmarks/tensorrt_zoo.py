"""Does every network of torchvision fit TensorRT? Exported, parsed and built by TensorRT-RTX.

    .venv-zoo/bin/python benchmarks/tensorrt_zoo.py --work build/fit [--only NAME ...]

The environment is that of `make zoo-models`, with `tensorrt-rtx` beside it. Each network, with
random weights and one sample at a time, is captured, exported in float32, parsed, and built for one
compute capability (8.6), in a process of its own. What fails is a row with the step that failed and
what was said. Rows are kept in the work folder as they come, so that an interrupted run goes on;
`--table` writes `results/tensorrt_zoo.json`.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CAPABILITY = "8.6"
LIMIT_S = 900
Row = dict[str, Any]


def measured(name: str, work: Path) -> Row:
    """One network, from the module to the engine."""
    import torch
    from zoo_models import Entry

    from edgekit.errors import EdgekitError
    from edgekit.graph.capture import capture
    from edgekit.lower.export import export_onnx
    from edgekit.lower.preflight import preflight
    from edgekit.lower.tensorrt import build_engine
    from edgekit.target import load

    torch.set_num_threads(1)
    path, engine, row = work / f"{name}.onnx", work / f"{name}.engine", {"network": name}
    step, began = "capture", time.process_time()
    try:
        net, example = Entry("torchvision", name).build()
        program = capture(net, tuple(t[:1] for t in example))
        step = "export"
        export_onnx(program, path, batches=(1,))
        step = "parse"
        said = preflight(path, load("rtx"))
        row["nodes"] = len(said.placements)
        errors = [f"{f.operator}: {f.message}" for f in said.findings if f.severity == "error"]
        row["warnings"] = [f.message for f in said.findings if f.severity == "warning"]
        if errors:
            return {**row, "failed": step, "said": errors[:5]}
        step, started = "build", time.perf_counter()
        report = build_engine(path, engine, compute_capabilities=(CAPABILITY,))
        row["build_s"] = round(time.perf_counter() - started, 1)
        row["engine_bytes"] = report.size_bytes
        row["warnings"] += [*report.parser_warnings, *report.builder_warnings]
    except EdgekitError as e:
        return {**row, "failed": step, "said": [e.message]}
    except Exception as e:  # noqa: BLE001 - whatever it is, it is a row
        return {**row, "failed": step, "said": [f"{type(e).__name__}: {e}".splitlines()[0]]}
    finally:
        row["cpu_s"] = round(time.process_time() - began, 1)
        for file in work.glob(f"{name}.*"):
            file.unlink()
    return row


def in_a_process(name: str, work: Path) -> Row:
    """The same, where a crash or a hang is a row too."""
    command = [sys.executable, __file__, "--work", str(work), "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"network": name, "failed": "time", "said": [f"not done after {LIMIT_S} s"]}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {"network": name, "failed": "crash", "said": [f"{done.returncode}: {last}"[:300]]}
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def table(rows: list[Row]) -> Row:
    """Counts, and what failed."""
    import tensorrt_rtx

    built = [r for r in rows if "build_s" in r]
    return {
        "tensorrt_rtx": tensorrt_rtx.__version__,
        "compute_capability": CAPABILITY,
        "networks": len(rows),
        "captured": sum(r.get("failed") != "capture" for r in rows),
        "exported": sum(r.get("failed") not in {"capture", "export"} for r in rows),
        "parsed": sum("nodes" in r and r.get("failed") != "parse" for r in rows),
        "with_warnings": sum(bool(r.get("warnings")) for r in rows),
        "built": len(built),
        "rows": rows,
    }


def main() -> None:
    """Measure what the work folder does not have yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of networks")
    parser.add_argument("--skip", nargs="*", default=[], help="names of networks")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="write the results, measure nothing")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.one:
        print(json.dumps(measured(options.one, options.work)))
        return
    from zoo_models import zoo

    kept, rows = options.work / "rows", []
    kept.mkdir(exist_ok=True)
    for entry in zoo():
        file = kept / f"{entry.name}.json"
        wanted = not options.only or entry.name in options.only
        wanted = wanted and entry.source == "torchvision" and entry.name not in options.skip
        if wanted and not file.exists() and not options.table:
            row = in_a_process(entry.name, options.work)
            file.write_text(json.dumps(row))
            print(json.dumps(row)[:200], flush=True)
        if entry.source == "torchvision" and file.exists():
            rows.append(json.loads(file.read_text()))
    if options.table:
        text = json.dumps(table(rows)).replace('{"network"', '\n{"network"')
        (HERE / "results/tensorrt_zoo.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
