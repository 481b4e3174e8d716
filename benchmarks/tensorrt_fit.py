"""Do torchvision's networks fit TensorRT? Parsed and built ahead of time by TensorRT-RTX.

Two stages, since torchvision wants an environment of its own (`make zoo-models` makes it):

    .venv-zoo/bin/python benchmarks/tensorrt_fit.py --work build/fit --export
    .venv/bin/python benchmarks/tensorrt_fit.py --work build/fit > fit.json

Weights are random: whether a network parses and builds does not depend on them. A build is for one
compute capability, 8.6, in float32, and its seconds are of this machine, whatever else it did.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

NETWORKS = {
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


def export(work: Path) -> None:
    import torch
    import torchvision

    from edgekit.graph.capture import capture
    from edgekit.lower.export import export_onnx

    torch.set_num_threads(1)
    for name, size in NETWORKS.items():
        path = work / f"{name}.onnx"
        if path.exists():
            continue
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None).eval()
        export_onnx(capture(network, (torch.randn(2, 3, size, size),)), path, batches=(1,))
        print("exported", name, flush=True)


def fit(path: Path, capability: str) -> dict[str, object]:
    from edgekit.errors import EdgekitError
    from edgekit.lower.preflight import preflight
    from edgekit.lower.tensorrt import build_engine
    from edgekit.target import load

    said = preflight(path, load("rtx"))
    found: dict[str, object] = {
        "nodes": len(said.placements),
        "errors": [f"{f.operator}: {f.message}" for f in said.findings if f.severity == "error"],
        "warnings": [f.message for f in said.findings if f.severity == "warning"],
        "built": [],
        "build_s": [],
    }
    if found["errors"]:
        return found
    for _ in range(2 if path.stem == "resnet50" else 1):
        started = time.perf_counter()
        try:
            report = build_engine(
                path, path.with_suffix(".engine"), compute_capabilities=(capability,)
            )
        except EdgekitError as e:
            found["errors"] = [e.message]
            return found
        found["build_s"].append(round(time.perf_counter() - started, 2))  # type: ignore[attr-defined]
        found["built"] = [capability]
        found["engine_bytes"] = report.size_bytes
        found["warnings"] = [*report.parser_warnings, *report.builder_warnings]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--capability", default="8.6")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.export:
        export(options.work)
        return
    import tensorrt_rtx

    networks = {
        name: fit(options.work / f"{name}.onnx", options.capability)
        for name in NETWORKS
        if (options.work / f"{name}.onnx").exists()
    }
    print(
        json.dumps(
            {
                "tensorrt_rtx": tensorrt_rtx.__version__,
                "capability": options.capability,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "load_average": round(os.getloadavg()[0], 1),
                "parsed": sum(not n["errors"] for n in networks.values()),
                "built": sum(bool(n["built"]) for n in networks.values()),
                "with_warnings": sum(bool(n["warnings"]) for n in networks.values()),
                "networks": networks,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
