"""The README's first command, from a fresh clone: how long it takes, and what comes out.

Clones this repository into a temporary folder, runs `make demo` there twice, and keeps what the
report of the first run says.

    python benchmarks/demo.py
"""

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def timed(command: list[str], cwd: Path) -> tuple[float, str]:
    """Run a command; its wall seconds and what it said."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    return round(time.perf_counter() - started, 1), done.stdout + done.stderr


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """What the x86 branch gained and lost."""
    x86 = report["branches"][0]
    original, last = x86["original"], x86["steps"][-1]
    steps = [original, *x86["shared"], *x86["steps"]]
    return {
        "device": report["device"],
        "versions": report["versions"],
        "macs_ratio": original["macs"] / last["macs"],
        "size_ratio": original["size_bytes"] / last["size_bytes"],
        "original_size_bytes": original["size_bytes"],
        "size_bytes": last["size_bytes"],
        "speedup": last["speedup"],
        "accuracy": last["metric"],
        "original_accuracy": original["metric"],
        "accuracy_drop": last["metric_drop"],
        "latency_p50_ms": {s["name"]: s["latency_p50_ms"] for s in steps},
        "step_seconds": {s["name"]: s["seconds"] for s in steps},
        "gates": {g["name"]: g["passed"] for b in report["branches"] for g in b["gates"]},
        "branches": {b["name"]: b["status"] for b in report["branches"]},
    }


def main() -> None:
    """Measure, print and keep."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "edgekit"
        subprocess.run(["git", "clone", "-q", str(HERE.parent), str(clone)], check=True)
        first, _ = timed(["make", "demo"], clone)
        second, said = timed(["make", "demo"], clone)
        report = json.loads((clone / "runs/mnist-resnet8/report.json").read_text())
    found = {
        "from_nothing_s": first,
        "second_time_s": second,
        "second_time_did_nothing": "Nothing to do" in said,
        **figures(report),
    }
    text = json.dumps(found, indent=2) + "\n"
    (HERE / "results" / "demo.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
