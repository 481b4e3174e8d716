"""Default quantizers side by side on trained networks: is int8 as accurate, and is it faster?

    python benchmarks/quantization.py [--work FOLDER] [--only NAME] [--tool TOOL] [--again TOOL]
        [--olive-python PYTHON] [--mail FOLDER] [--cpu N] [--time]

For each network of `quantization_models.py`: float32; ONNX Runtime's `quantize_static`, NNCF's
`quantize` and Olive's `olive quantize`, each with its defaults and the same calibration samples
where it takes any; and edgekit's `quantize` with its defaults, guard on, for x86-vnni where the
processor has VNNI and x86-avx2 where it has not. Olive is run in an environment of its own, since
it does not install beside NNCF: `--olive-python` names it.

Every tool's file is judged on the same test samples, which no tool has seen, and all files of a
network are timed in one interleaved benchmark, one thread, one sample at a time. Rows are kept as
they come: what the results file has already is not made again, unless `--again` asks for it. A tool
that fails is a row with its error. Each kind of processor has a results file of its own; `--table`
writes the tables of `README.md` from them.

On a busy machine whatever takes longer than the scheduler's slice looks slower than it is: `--time`
times the files once more, where the process has precedence on a processor (`--cpu`).
"""

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EdgekitError, GateError

HERE = Path(__file__).parent
Arrays = dict[str, NDArray[Any]]
Row = dict[str, Any]
SEED = 0
KEPT = 0.01  # of the metric: what a quantizer may lose
RESULTS = {"x86-avx2": "quantization", "x86-vnni": "quantization-vnni"}  # target to file and table


def target() -> str:
    """The target that this processor is."""
    from edgekit.bench.fingerprint import fingerprint

    return "x86-vnni" if "vnni" in fingerprint()["isa"] else "x86-avx2"


@dataclass(frozen=True)
class Job:
    """One network, ready to be quantized.

    Attributes:
        name: of the network.
        source: the float32 file.
        case: what is judged.
        feeds: calibration samples, one a feed.
        folder: to work in.
        options: of the command line.
    """

    name: str
    source: Path
    case: Any
    feeds: list[Arrays]
    folder: Path
    options: argparse.Namespace


# --- the tools: each writes `out`, and says what should be known


def ort_static(job: Job, out: Path) -> Row:
    """ONNX Runtime's `quantize_static`, after the preparation that its manual asks for."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(job.feeds)

        def get_next(self) -> Arrays | None:
            return next(self.rest, None)

    prepared = out.parent / "prepared.onnx"
    said = {}
    try:
        quant_pre_process(job.source, prepared)
    except Exception as e:  # noqa: BLE001 — whatever it is, its manual says to go on without shapes
        said["note"] = f"quant_pre_process without symbolic shapes: {type(e).__name__}"
        quant_pre_process(job.source, prepared, skip_symbolic_shape=True)
    quantize_static(prepared, out, Reader())
    return said


def nncf_default(job: Job, out: Path) -> Row:
    """NNCF's `quantize`."""
    import nncf
    import onnx

    model = nncf.quantize(onnx.load(job.source), nncf.Dataset(job.feeds))
    onnx.save(model, out)
    return {}


def olive_default(job: Job, out: Path) -> Row:
    """Olive's command; without `--implementation ort` it refuses ONNX files in int8."""
    python = job.options.olive_python
    if python is None:
        raise FileNotFoundError("not run: --olive-python was not given")
    folder = out.parent / "olive"
    command = [
        str(python), "-m", "olive", "quantize", "--model_name_or_path", str(job.source),
        "--output_path", str(folder), "--implementation", "ort", "--disable_telemetry",
    ]  # fmt: skip
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        env=own,
        cwd=out.parent,  # it keeps a cache where it runs
    )
    files = sorted(folder.rglob("*.onnx"), key=lambda p: p.stat().st_mtime)
    if done.returncode or not files:
        last = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(last[-1] if last else f"exit code {done.returncode}, no file")
    shutil.copy(files[-1], out)
    return {}


def edgekit_auto(job: Job, out: Path) -> Row:
    """The `quantize` of edgekit, guard on."""
    from edgekit.data import DataConfig
    from edgekit.passes.quantize import Quantize
    from edgekit.pipeline.single import apply

    case, pool = job.case, job.folder / "pool"
    count = len(next(iter(case.pool.values())))
    splits = {"calibration": range(case.calibration), "evaluation": range(case.calibration, count)}
    for name, rows in splits.items():
        (pool / f"{name}.txt").write_text("".join(f"s{i:04d}\n" for i in rows))
    data = DataConfig.model_validate(
        {
            "npz": str(pool / "pool.npz"),
            "split": {"files": {n: str(pool / f"{n}.txt") for n in splits}},
        }
    )
    made = out.parent / "artifact"
    shutil.rmtree(made, ignore_errors=True)
    try:
        found = apply(
            Quantize(), job.source, made, data=data, task=case.task, target=target(), seed=SEED
        )
    except GateError as e:
        shutil.copy(job.source, out)
        return {"refused": True, "note": e.message.splitlines()[0], "tried": e.message}
    shutil.copy(found.artifact.path, out)
    guard = found.notes["guard"]
    back = [f"{r['layer']} ({r['why']})" for r in guard["reverted"]]
    return {"refused": False, "note": guard["kept"], "reverted": back, "tried": guard["tried"]}


TOOLS: dict[str, Callable[[Job, Path], Row]] = {
    "ORT static": ort_static,
    "NNCF": nncf_default,
    "Olive": olive_default,
    "edgekit": edgekit_auto,
}


# --- measuring


def runner(path: Path) -> Callable[[Arrays], list[NDArray[Any]]]:
    """Runs a file on ONNX Runtime, one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def layers(path: Path) -> dict[str, int]:
    """Operators that ONNX Runtime runs in integers, after its fusions, by name."""
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    options.log_severity_level = 4
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found: dict[str, int] = {}
    for node in onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node:
        if re.search("QLinear|Integer|DynamicQuantize", node.op_type):
            found[node.op_type] = found.get(node.op_type, 0) + 1
    Path(options.optimized_model_filepath).unlink()
    return found


def judged(job: Job, path: Path, reference: NDArray[Any]) -> Row:
    """The score of a file, what it lost, and how far its outputs are from float32's."""
    from edgekit.metrics.intervals import tango

    out = job.case.outputs(runner(path))
    score = job.case.score(out) if np.isfinite(out).all() else 0.0
    before = job.case.score(reference)
    noise = float(np.square(out.astype(np.float64) - reference).sum())
    signal = float(np.square(reference.astype(np.float64)).sum())
    row = {
        "score": round(score, 5),
        "drop": round(before - score, 5),
        "sqnr_db": round(float(10 * np.log10(signal / noise)), 2) if noise > 0 else None,
        "size_bytes": path.stat().st_size,
        "integer_kernels": layers(path),
    }
    if job.case.right is not None:
        row["drop_interval"] = [
            round(v, 5) for v in tango(job.case.right(reference), job.case.right(out))
        ]
    return row


def quantized(job: Job, tool: str, reference: NDArray[Any]) -> Row:
    """One tool's row: its file, judged; or its error."""
    folder = job.folder / tool.lower().replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    out, row = folder / "model.onnx", {"network": job.name, "tool": tool}
    began, processor = time.perf_counter(), time.process_time()
    try:
        said = TOOLS[tool](job, out)
        row["seconds"] = round(time.perf_counter() - began, 1)
        row["cpu_seconds"] = round(time.process_time() - processor, 1)
        return {**row, **judged(job, out, reference), **said}
    except (Exception, SystemExit) as e:  # noqa: BLE001 — a tool that fails is a row
        hint = f" {e.hint}" if isinstance(e, EdgekitError) else ""
        text = f"{type(e).__name__}: {' '.join(str(e).split())}{hint}"
        return {**row, "error": text.replace(str(job.folder), "WORK")[:300]}


def timed(folder: Path, rows: list[Row], cpu: int | None) -> None:
    """Time all files of a network beside float32, in one interleaved benchmark."""
    from edgekit.bench import Protocol, Subject, bench

    # Between the quick form and the full one, which takes five minutes for five files.
    protocol = replace(
        Protocol.quick(SEED), min_rounds=40, min_s=3.0, max_s=8.0,
        affinity=None if cpu is None else (cpu,),
    )  # fmt: skip
    files = {"float32": folder / "float32.onnx"}
    for row in rows:
        if "error" not in row and not row.get("refused") and row["tool"] != "float32":
            files[row["tool"]] = folder / row["tool"].lower().replace(" ", "-") / "model.onnx"
    with np.load(folder / "pool/pool.npz") as pool:
        feeds = {k: pool[k][:1] for k in pool.files if k not in {"ids", "target"}}
    subjects = [Subject(n, "onnxruntime", p, feeds, {"threads": 1}) for n, p in files.items()]
    found = bench(subjects, protocol, baseline="float32")
    medians = {s.name: s.p50_ms.value for s in found.subjects}
    for row in rows:
        row["p50_ms"] = medians.get(row["tool"])
        if row["tool"] in found.comparisons:
            each = found.comparisons[row["tool"]]
            # The harness says how many times faster; a ratio of latencies is the inverse.
            times = (each.speedup.value, each.speedup.high, each.speedup.low)
            row["latency_ratio"] = [None if t is None else round(1 / t, 4) for t in times]
            row["verdict"] = each.verdict
        elif row.get("refused") or row["tool"] == "float32":
            row["latency_ratio"], row["verdict"] = [1.0, 1.0, 1.0], "float32"
        row["load"] = round(os.getloadavg()[0], 1)
        print(row["network"], row["tool"], row.get("latency_ratio"), row.get("verdict"), flush=True)


def prepared(name: str, options: argparse.Namespace) -> Job:
    """Make a network's float32 file."""
    import torch
    from quantization_models import CASES

    from edgekit.graph.capture import capture
    from edgekit.lower.export import export_onnx

    case = CASES[name](options)
    folder = options.work / name
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "float32.onnx"
    if isinstance(case.model, Path):
        shutil.copy(case.model, source)
    else:
        example = tuple(torch.from_numpy(np.ascontiguousarray(v[:2])) for v in case.pool.values())
        export_onnx(capture(case.model, example), source)
    import onnx

    wanted = [i.name for i in onnx.load(source, load_external_data=False).graph.input]
    if set(case.pool) != set(wanted):
        raise ValueError(f"{name}: the network takes {wanted}, the data is {list(case.pool)}")
    count = len(next(iter(case.pool.values())))
    arrays = {**case.pool, "ids": np.array([f"s{i:04d}" for i in range(count)])}
    if case.targets is not None:
        arrays["target"] = case.targets
    (folder / "pool").mkdir(exist_ok=True)
    np.savez(folder / "pool/pool.npz", **arrays)
    feeds = [
        {k: np.ascontiguousarray(v[i : i + 1]) for k, v in case.pool.items()}
        for i in range(case.calibration)
    ]
    return Job(name, source, case, feeds, folder, options)


def measured(name: str, options: argparse.Namespace, held: list[Row]) -> Iterator[list[Row]]:
    """Rows of one network, as they come; the last time with latency."""
    if options.time:
        timed(options.work / name, held, options.cpu)
        yield held
        return
    rows = [r for r in held if r["tool"] not in options.again and not again(r, options)]
    missing = [t for t in ("float32", *TOOLS) if t not in {r["tool"] for r in rows}]
    chosen = [t for t in missing if t == "float32" or t in (options.tool or TOOLS)]
    if not chosen:
        return
    job = prepared(name, options)
    reference = job.case.outputs(runner(job.source))
    for tool in chosen:
        if tool == "float32":
            row = {"network": name, "tool": tool, **judged(job, job.source, reference)}
            row["measure"] = job.case.measure
        else:
            row = quantized(job, tool, reference)
        rows.append(row)
        print(json.dumps({k: v for k, v in row.items() if k != "tried"}), flush=True)
        yield rows
        gc.collect()
    if chosen == missing:
        timed(job.folder, rows, options.cpu)
        yield rows


def again(row: Row, options: argparse.Namespace) -> bool:
    """Whether a row was not run for want of Olive's environment, which is there now."""
    return "--olive-python" in row.get("error", "") and options.olive_python is not None


# --- the table


def table(rows: list[Row]) -> str:
    """The networks as lines, the tools as columns."""
    tools = ("float32", *TOOLS)
    lines = [f"| network | {' | '.join(tools)} |", f"|{'---|' * (len(tools) + 1)}"]
    for name in dict.fromkeys(r["network"] for r in rows):
        mine = {r["tool"]: r for r in rows if r["network"] == name}
        lines.append(f"| {name} | {' | '.join(cell(mine.get(t)) for t in tools)} |")
    return "\n".join(lines)


def cell(row: Row | None) -> str:
    """One tool on one network."""
    if row is None:
        return "no result"
    if "error" in row:
        kind = row["error"].partition(":")[0]
        return "not run" if "not run:" in row["error"] else f"fails: `{kind}`"
    size = f"{row['size_bytes'] / 1e6:.2f} MB"
    if row["tool"] == "float32":
        return f"{row['score']:.3f}; {row['p50_ms']:.3g} ms; {size}"
    if row.get("refused"):
        return f"refused: float32 stays; {row['seconds']:.0f} s"
    ratio, low, high = row["latency_ratio"]
    interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
    lost = f"{100 * row['drop']:+.1f}"
    return f"{ratio:.2f}{interval}; {lost}; {size}; {row['seconds']:.0f} s"


def written(text: str, name: str, body: str) -> str:
    """A document with what stands between two marks replaced."""
    return re.sub(
        rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m: m[1] + body + "\n" + m[2], text,
        count=1, flags=re.DOTALL,
    )  # fmt: skip


def main() -> None:
    """Measure what is missing, keep it after every row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=Path("build/quantization"), help="where files are kept"
    )
    parser.add_argument("--only", action="append", help="these networks only")
    parser.add_argument("--tool", action="append", help="these tools only; all are timed together")
    parser.add_argument("--again", action="append", default=[], help="make this tool's rows again")
    parser.add_argument("--olive-python", type=Path, help="a Python that has olive-ai")
    parser.add_argument("--mail", type=Path, help="the data folder of the e-mails")
    parser.add_argument("--cpu", type=int, help="the processor to time on")
    parser.add_argument("--time", action="store_true", help="time the files again, make none")
    parser.add_argument("--table", action="store_true", help="write the tables, measure nothing")
    parser.add_argument("--out", type=Path, help="the results file, if not this processor's own")
    options = parser.parse_args()
    if options.table:
        path = HERE / "README.md"
        for name in RESULTS.values():
            file = HERE / f"results/{name}.json"
            if file.exists():
                rows = json.loads(file.read_text())["rows"]
                path.write_text(written(path.read_text(), name, table(rows)))
        return
    options.out = options.out or HERE / f"results/{RESULTS[target()]}.json"
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"rows": []}
    if options.out.exists():
        found = json.loads(options.out.read_text())
    import torch
    from quantization_models import CASES

    from edgekit.bench.fingerprint import fingerprint

    torch.set_num_threads(1)
    found["device"] = fingerprint()
    for name in options.only or list(CASES):
        held = [r for r in found["rows"] if r["network"] == name]
        if options.time and not held:
            continue
        for rows in measured(name, options, held):
            if options.out.exists():  # another run may have measured another network meanwhile
                found["rows"] = json.loads(options.out.read_text())["rows"]
            others = [r for r in found["rows"] if r["network"] != name]
            order = {each: i for i, each in enumerate(CASES)}
            found["rows"] = sorted([*others, *rows], key=lambda r: order[r["network"]])
            text = json.dumps(found).replace('{"network"', '\n{"network"')
            options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
