"""Do networks fit TensorRT? In float32, float16 and int8, parsed and built by TensorRT-RTX.

Two stages, since torchvision wants an environment of its own (`make zoo-models` makes it):

    .venv-zoo/bin/python benchmarks/tensorrt_fit.py --work build/fit --export
    .venv/bin/python benchmarks/tensorrt_fit.py --work build/fit > fit.json

float16 is what `edgekit cast` writes, int8 what `edgekit quantize --no-guard` writes for `rtx`,
both with eight random samples. Weights are random: whether a network parses and builds depends on
them only where the guard of `cast` keeps layers. Engines are built ahead of time, each for one
compute capability. Seconds are of this machine, whatever else it did. What is done is kept in the
work folder, so that an interrupted run goes on.

`--time resnet50` builds that network for 8.6 alone, each precision in a process of its own, then
once more into the same folder, and prints the seconds: run it where nothing else runs.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
CLASSIFIERS = {
    "resnet18": 224,
    "resnet50": 224,
    "mobilenet_v2": 224,
    "mobilenet_v3_small": 224,
    "squeezenet1_1": 224,
    "shufflenet_v2_x0_5": 224,
    "mnasnet0_5": 224,
    "regnet_y_400mf": 224,
    "efficientnet_b0": 224,
}
# Turing has no int8 path and no float32 products in TensorRT-RTX: it is built in float16 alone.
CAPABILITIES = {
    "float32": ("8.6", "8.9", "12.0"),
    "float16": ("7.5", "8.6", "8.9", "12.0"),
    "int8": ("8.6", "8.9", "12.0"),
}
SAMPLES = 8


def export(work: Path, only: list[str]) -> None:
    import torch
    import torchvision

    from edgekit.graph.capture import capture
    from edgekit.lower.export import export_onnx

    torch.set_num_threads(1)
    for name, size in CLASSIFIERS.items():
        path = work / f"{name}.onnx"
        if path.exists() or (only and name not in only):
            continue
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None).eval()
        export_onnx(capture(network, (torch.randn(2, 3, size, size),)), path, batches=(1,))
        print("exported", name, flush=True)


def lower(path: Path, precision: str, work: Path) -> tuple[Path, dict[str, object]]:
    """The file in a precision, and what is to be said of it."""
    if precision == "float32":
        return path, {}
    import numpy as np

    from edgekit.data import DataConfig
    from edgekit.graph.onnx_model import read_onnx, specs
    from edgekit.lower.clean import random_feed
    from edgekit.passes.cast_half import CastHalf
    from edgekit.passes.quantize import Quantize
    from edgekit.pipeline import apply

    out, data = work / f"{path.stem}-{precision}", work / f"{path.stem}.npz"
    np.savez(data, **random_feed(specs(read_onnx(path))[0], SAMPLES + 4, 0))
    split = {"calibration": SAMPLES, "evaluation": 2}
    step = CastHalf() if precision == "float16" else Quantize(guard=False)
    made = apply(
        step,
        path,
        out,
        data=DataConfig.model_validate({"npz": str(data), "split": split}),
        target="rtx",
        threads=1,
    )
    nodes = [n.op_type for n in read_onnx(made.artifact.path).graph.node]
    if precision == "int8":
        return made.artifact.path, {"quantize_linear": nodes.count("QuantizeLinear")}
    return made.artifact.path, {"kept_float32": len(made.notes["kept"]), "of_nodes": len(nodes)}


def fit(
    path: Path, capabilities: tuple[str, ...], engine: Path, shapes: Shapes | None = None
) -> dict[str, object]:
    """Parse and build a file; `shapes` are of dynamic inputs, where more than the batch is."""
    from edgekit.errors import EdgekitError
    from edgekit.lower.preflight import preflight
    from edgekit.lower.tensorrt import build_engine
    from edgekit.target import load

    said = preflight(path, load("rtx"))
    errors = {
        "parser": [f"{f.operator}: {f.message}" for f in said.findings if f.severity == "error"]
    }
    built: dict[str, dict[str, object]] = {}
    warnings = [f.message for f in said.findings if f.severity == "warning"]
    for each in capabilities if not errors["parser"] else ():
        started = time.perf_counter()
        try:
            report = build_engine(path, engine, compute_capabilities=(each,), shapes=shapes)
        except EdgekitError as e:
            errors[each] = [e.message]
            continue
        seconds = round(time.perf_counter() - started, 2)
        built[each] = {"build_s": seconds, "engine_bytes": report.size_bytes}
        warnings += [*report.parser_warnings, *report.builder_warnings]
    return {
        "nodes": len(said.placements),
        "errors": {where: said for where, said in errors.items() if said},
        "warnings": sorted(set(warnings)),
        "built": built,
    }


def row(path: Path, precision: str, work: Path) -> dict[str, object]:
    """One network in one precision; kept in the work folder."""
    from edgekit.errors import EdgekitError

    kept = work / f"{path.stem}-{precision}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    try:
        model, about = lower(path, precision, work)
        found = {**about, **fit(model, CAPABILITIES[precision], work / "engine")}
    except EdgekitError as e:
        found = {"errors": {precision: [e.message]}, "warnings": [], "built": {}}
    kept.write_text(json.dumps(found))
    return found


def timed(name: str, precisions: list[str], work: Path) -> dict[str, object]:
    """Wall seconds of `edgekit build` for one capability: the first time, and again."""
    found: dict[str, object] = {"compute_capability": "8.6"}
    for precision in precisions:
        path = work / f"{name}-{precision}/model.onnx"
        if not path.exists():
            path = lower(work / f"{name}.onnx", precision, work)[0]
        out = work / f"{name}-{precision}-timed"
        shutil.rmtree(out, ignore_errors=True)
        command = [
            sys.executable, "-m", "edgekit", "build", str(path), "--target", "rtx",
            "--set", "compute_capabilities=['8.6']", "-o", str(out),
        ]  # fmt: skip
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(round(time.perf_counter() - started, 2))
        inside = json.loads((out / "model.engine.json").read_text())["seconds"]
        found[precision] = {"first_s": seconds[0], "builder_s": inside, "again_s": seconds[1]}
        print(name, precision, found[precision], file=sys.stderr, flush=True)
    return found


def summary(networks: dict[str, dict[str, dict[str, object]]]) -> dict[str, object]:
    """By precision: how many parse, warn, and build for each capability."""
    found = {}
    for precision, capabilities in CAPABILITIES.items():
        rows = [each[precision] for each in networks.values() if precision in each]
        found[precision] = {
            "networks": len(rows),
            "parsed": sum("parser" not in r["errors"] and "nodes" in r for r in rows),
            "with_warnings": sum(bool(r["warnings"]) for r in rows),
            "built": {c: sum(c in r["built"] for r in rows) for c in capabilities},
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--only", nargs="*", help="names of networks")
    parser.add_argument("--time", help="a network to time")
    parser.add_argument("--precision", nargs="*", default=list(CAPABILITIES), help="to time")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.export:
        export(options.work, options.only or [])
        return
    if options.time:
        print(json.dumps(timed(options.time, options.precision, options.work), indent=1))
        return
    import tensorrt_rtx
    from tensorrt_networks import NETWORKS, export_networks

    export_networks(options.work)
    names = [n for n in (*NETWORKS, *CLASSIFIERS) if (options.work / f"{n}.onnx").exists()]
    networks: dict[str, dict[str, dict[str, object]]] = {}
    for name in options.only or names:
        path = options.work / f"{name}.onnx"
        networks[name] = {p: row(path, p, options.work) for p in CAPABILITIES}
    print(
        json.dumps(
            {
                "tensorrt_rtx": tensorrt_rtx.__version__,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "load_average": round(os.getloadavg()[0], 1),
                "summary": summary(networks),
                "networks": networks,
            },
            indent=1,
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
