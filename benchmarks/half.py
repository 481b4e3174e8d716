"""Half precision of trained networks: what `edgekit cast` keeps in float32, what it costs.

    python benchmarks/half.py --work build/half [--only NAME] [--again] [--mail FOLDER]

Trained networks of `quantization_models.py`, cast to float16 for `rtx` with `cast`'s defaults, then
judged on test samples that it has not seen, by ONNX Runtime on the processor, which computes what
it has no float16 kernel for in float32. Each is cast once more with an overflow planted: the
weights in front of a linear stretch are multiplied until something there is beyond float16, and
those behind it divided by as much, so that float32 computes what it did. "Blind" is that network
with every node in float16, as a converter without a guard would write it.

Every float16 file is parsed and built by TensorRT-RTX, ahead of time, for one compute capability
after the other. Rows are kept as they come; `--table` writes the table of `README.md`.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quantization import Job, Row, prepared, runner, written
from tensorrt_fit import CAPABILITIES, fit

HERE = Path(__file__).parent
NETWORKS = (
    "efficientnet-lite0",
    "minilm",
    "silero-vad",
    "crepe-tiny",
    "resemblyzer",
    "mnist-resnet8",
    "rapidocr-direction",
)
LINEAR = frozenset(
    {"Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Transpose", "Flatten"}
)
LOUD = 4.0  # times what float16 holds


def planted(source: Path, out: Path, feeds: list[dict[str, NDArray[Any]]]) -> dict[str, Any]:
    """Write the network with an overflow, and say where; empty where it has no linear stretch."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    nodes = list(model.graph.node)
    values = {t.name: t for t in model.graph.initializer}
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        for name in node.input:
            readers.setdefault(name, []).append(place)
    ends = {o.name for o in model.graph.output}

    def weights(place: int) -> list[str]:
        node = nodes[place]
        if node.op_type in {"Conv", "Gemm", "MatMul"} and node.input[1] in values:
            return [n for n in node.input[1:] if n]
        return []

    def behind(place: int) -> tuple[list[str], int] | None:
        """Constants that are scaled too, and the next node with weights."""
        added: list[str] = []
        name = nodes[place].output[0]
        while True:
            following = readers.get(name, [])
            if len(following) != 1 or name in ends:
                return None
            nxt = nodes[following[0]]
            if weights(following[0]) and nxt.input[0] == name:
                return added, following[0]
            other = [n for n in nxt.input if n != name]
            if nxt.op_type == "Add" and other and other[0] in values:
                added.append(other[0])
            elif nxt.op_type not in LINEAR and not (
                nxt.op_type == "MatMul" and other and other[0] not in values
            ):
                return None
            name = nxt.output[0]

    for place in range(len(nodes)):
        if not weights(place) or (found := behind(place)) is None:
            continue
        added, last = found
        loud = [*weights(place), *added]
        if any(len(readers[n]) > 1 for n in (*loud, nodes[last].input[1])):
            continue
        peak = largest(model, nodes[place].output[0], feeds)
        factor = float(2.0 ** np.ceil(np.log2(LOUD * 65504 / peak)))
        for name, by in [*((n, factor) for n in loud), (nodes[last].input[1], 1 / factor)]:
            scaled = numpy_helper.to_array(values[name]) * np.float32(by)
            values[name].CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), name))
        onnx.save(model, out)
        return {"from": nodes[place].name, "to": nodes[last].name, "factor": factor}
    return {}


def largest(model: Any, name: str, feeds: list[dict[str, NDArray[Any]]]) -> float:
    """The largest magnitude of a tensor."""
    import onnx
    import onnxruntime as ort

    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = ort.InferenceSession(seen.SerializeToString(), providers=["CPUExecutionProvider"])
    return max(float(np.abs(session.run([name], feed)[0]).max()) for feed in feeds)


def cast(
    job: Job, source: Path, folder: Path, target: str = "rtx"
) -> tuple[Path, dict[str, Any], float]:
    """The float16 file, what `cast` says of it, and the seconds that it took."""
    from edgekit.data import DataConfig
    from edgekit.passes.cast_half import CastHalf
    from edgekit.pipeline.single import apply

    pool = job.folder / "pool"
    count = len(next(iter(job.case.pool.values())))
    splits = {
        "calibration": range(job.case.calibration),
        "evaluation": range(job.case.calibration, count),
    }
    for name, rows in splits.items():
        (pool / f"{name}.txt").write_text("".join(f"s{i:04d}\n" for i in rows))
    files = {name: str(pool / f"{name}.txt") for name in splits}
    data = DataConfig.model_validate({"npz": str(pool / "pool.npz"), "split": {"files": files}})
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    made = apply(
        CastHalf(), source, folder, data=data, task=job.case.task, target=target, threads=1
    )
    return made.artifact.path, dict(made.notes), round(time.perf_counter() - started, 1)


def judged(job: Job, path: Path, reference: NDArray[Any]) -> dict[str, Any]:
    """The score, and how far the outputs are from float32's."""
    out = job.case.outputs(runner(path)).astype(np.float64)
    if not np.isfinite(out).all():
        return {"score": None, "finite": round(float(np.isfinite(out).mean()), 4)}
    noise = float(np.square(out - reference).sum())
    signal = float(np.square(reference.astype(np.float64)).sum())
    return {
        "score": round(job.case.score(out), 5),
        "sqnr_db": round(float(10 * np.log10(signal / noise)), 1) if noise else None,
    }


def blind(source: Path, out: Path) -> None:
    """Every node in float16 that has such a form, whatever it holds."""
    from edgekit.graph.onnx_model import read_onnx, write_onnx
    from edgekit.quantize.half.decide import halves
    from edgekit.quantize.half.graph import HalfGraph
    from edgekit.quantize.half.write import write_half

    graph = HalfGraph(read_onnx(source), "float16")
    write_onnx(write_half(graph, halves(graph, {})), out)


def row(job: Job, source: Path, folder: Path, reference: NDArray[Any]) -> dict[str, Any]:
    """One network cast, judged and built."""
    path, said, seconds = cast(job, source, folder)
    kept = [f"{k['node']} ({k['operator']}): {k['reason']}: {k['detail']}" for k in said["kept"]]
    sizes = {name: (v.shape,) * 3 for name, v in job.feeds[0].items()}
    built = fit(path, CAPABILITIES["float16"], job.folder / "engine", sizes)
    return {
        "cast_s": seconds,
        "nodes": said["nodes"],
        "half_nodes": said["half_nodes"],
        "casts": said["casts"],
        "kept_by_reason": said["kept_by_reason"],
        "kept": kept,
        "bytes": said["size_bytes"],
        **judged(job, path, reference),
        "errors": built["errors"],
        "warnings": built["warnings"],
        "built": built["built"],
        **({} if "7.5" in built["built"] else turing(job, source, folder.with_name("turing"))),
    }


def turing(job: Job, source: Path, folder: Path) -> dict[str, Any]:
    """What did not build for 7.5 beside the others, cast for it alone."""
    from edgekit.errors import PassError

    try:
        path, said, _ = cast(job, source, folder, "rtx-turing")
    except PassError as e:
        return {"turing": {"refused": e.message}}
    sizes = {name: (v.shape,) * 3 for name, v in job.feeds[0].items()}
    built = fit(path, ("7.5",), job.folder / "engine", sizes)
    return {"turing": {"kept_by_reason": said["kept_by_reason"], **built}}


def measured(name: str, options: argparse.Namespace) -> Row:
    """One network: as it is, and with an overflow planted."""
    job = prepared(name, options)
    reference = job.case.outputs(runner(job.source))
    found: Row = {
        "network": name,
        "measure": job.case.measure,
        "float32": {
            "score": round(job.case.score(reference), 5),
            "bytes": job.source.stat().st_size,
        },
        "float16": row(job, job.source, job.folder / "half", reference),
    }
    loud = job.folder / "loud.onnx"
    where = planted(job.source, loud, job.feeds[:16])
    if where:
        blind(loud, job.folder / "blind.onnx")
        same = judged(job, loud, reference)
        found["planted"] = {
            **where,
            "float32": same,
            "blind": judged(job, job.folder / "blind.onnx", reference),
            **row(job, loud, job.folder / "loud-half", reference),
        }
    return found


def main() -> None:
    """Measure what is missing, keep it after every row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where files are kept")
    parser.add_argument("--only", action="append", help="these networks only")
    parser.add_argument("--again", action="store_true", help="make rows again that are there")
    parser.add_argument("--mail", type=Path, help="the data folder of the e-mails")
    parser.add_argument("--table", action="store_true", help="write the table, measure nothing")
    parser.add_argument("--out", type=Path, default=HERE / "results/half.json")
    options = parser.parse_args()
    found: dict[str, Any] = {"rows": []}
    if options.out.exists():
        found = json.loads(options.out.read_text())
    if options.table:
        path = HERE / "README.md"
        path.write_text(written(path.read_text(), "half", table(found["rows"])))
        return
    import onnxruntime
    import tensorrt_rtx
    import torch

    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found["tensorrt_rtx"] = tensorrt_rtx.__version__
    found["onnxruntime"] = onnxruntime.__version__
    for name in options.only or NETWORKS:
        if not options.again and any(r["network"] == name for r in found["rows"]):
            continue
        made = measured(name, options)
        found["rows"] = [*(r for r in found["rows"] if r["network"] != name), made]
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        print(name, made["float16"]["score"], made["float16"]["kept_by_reason"], flush=True)


def table(rows: list[Row]) -> str:
    """The networks as lines."""
    lines = [
        "| network | score: float32, float16 | SQNR | kept float32, of nodes | size |"
        " built for 7.5, 8.6, 8.9, 12.0 |",
        "|---|---|---|---|---|---|",
    ]
    for each in sorted(rows, key=lambda r: NETWORKS.index(r["network"])):
        half, full = each["float16"], each["float32"]
        lines.append(
            f"| {each['network']} | {full['score']:.4f}, {half['score']:.4f} |"
            f" {half['sqnr_db']:.0f} dB | {reasons(half)}, of {half['nodes']} |"
            f" {full['bytes'] / 1e6:.2f} → {half['bytes'] / 1e6:.2f} MB | {builds(half)} |"
        )
    lines += [
        "",
        "| overflow planted in | score: blind, guarded | SQNR | kept for it | built |",
        "|---|---|---|---|---|",
    ]
    for each in sorted(rows, key=lambda r: NETWORKS.index(r["network"])):
        if "planted" not in each:
            continue
        loud = each["planted"]
        alone = loud["blind"]
        without = "not finite" if alone["score"] is None else f"{alone['score']:.4f}"
        more = len(loud["kept"]) - len(each["float16"]["kept"])
        lines.append(
            f"| {each['network']}, `{loud['from']}` to `{loud['to']}` |"
            f" {without}, {loud['score']:.4f} | {loud['sqnr_db']:.0f} dB |"
            f" {loud['kept_by_reason'].get('overflow', 0)}, {more:+d} in all | {builds(loud)} |"
        )
    return "\n".join(lines)


def reasons(half: dict[str, Any]) -> str:
    """How many nodes stay, and why."""
    if not half["kept_by_reason"]:
        return "0"
    return ", ".join(f"{n} {why}" for why, n in half["kept_by_reason"].items())


def builds(half: dict[str, Any]) -> str:
    """Where it builds."""
    wanted = CAPABILITIES["float16"]
    missing = [c for c in wanted if c not in half["built"]]
    return "all" if not missing else f"not for {', '.join(missing)}"


if __name__ == "__main__":
    main()
