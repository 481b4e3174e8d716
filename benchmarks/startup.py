"""How long the command takes to start, and how long until a model has run for the first time.

`edgekit --help` stands beside a bare Typer program, interleaved in one run, in processor time (user
and system), since wall time depends on what else runs.

The first inference is that of `edgekit bench MODEL.onnx`, from the start of the process to the end
of the first run of the model, in an environment with edgekit's base installation and nothing else:
no torch. It is made anew in a temporary folder, unless --python names the Python of one.

    python benchmarks/startup.py [--python BASE/bin/python]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import models

from edgekit.bench.fingerprint import fingerprint

ROOT = Path(__file__).parents[1]
BARE = """
import typer
app = typer.Typer()

@app.command()
def one(name: str, count: int = 1) -> None:
    "Say something."

@app.command()
def two(name: str) -> None:
    "Say something else."

app()
"""
# The command itself; the first run of the model tells the time, and ends it all.
FIRST = """
import os, sys, time
from edgekit.bench.runtimes.onnxruntime import OnnxRuntime

model, began = sys.argv[1], float(sys.argv[2])
out, bind = os.dup(1), OnnxRuntime.bind  # edgekit keeps stdout for its result

def telling(self, feeds):
    run = bind(self, feeds)

    def once():
        run()
        spent = os.times()
        wall = time.monotonic() - began
        os.write(out, f"{wall} {spent.user + spent.system}".encode())
        os._exit(0)

    return once

OnnxRuntime.bind = telling
sys.argv = ["edgekit", "bench", model]
from edgekit.cli.app import main
main()
"""
ROUNDS = 20


def cost(command: list[str]) -> float:
    """Processor seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def starts(folder: Path) -> dict[str, object]:
    """Processor time of the two programs' help."""
    edgekit = [str(Path(sys.executable).with_name("edgekit")), "--help"]
    program = folder / "bare.py"
    program.write_text(BARE)
    bare = [sys.executable, str(program), "--help"]
    cost(edgekit), cost(bare)
    times = [(cost(edgekit), cost(bare)) for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(t) for t in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    return {"edgekit_help_s": ours, "bare_typer_help_s": theirs, "ratio": ratio, "rounds": ROUNDS}


def base_python(folder: Path) -> Path:
    """Make an environment with edgekit and what it cannot do without."""
    venv.create(folder / "base", with_pip=True)
    python = folder / "base" / "bin" / "python"
    wanted = ["-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(ROOT)]
    subprocess.run([str(python), *wanted], check=True)
    return python


def first_inference(python: Path, model: Path, folder: Path) -> dict[str, object]:
    """Wall and processor seconds from the start of the process to the end of the first run."""
    packages = subprocess.check_output([str(python), "-m", "pip", "list"], text=True)
    if "torch" in packages.split():
        raise SystemExit(f"{python} has torch: name an environment with the base installation.")
    program = folder / "first.py"
    program.write_text(FIRST)
    times = []
    for _ in range(ROUNDS + 1):
        command = [str(python), str(program), str(model), str(time.monotonic())]
        said = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)
        times.append(tuple(map(float, said.split())))
    walls, spent = zip(*times[1:], strict=True)  # the first one fills the disk's cache
    return {
        "wall_s": statistics.median(walls),
        "slowest_wall_s": max(walls),
        "processor_s": statistics.median(spent),
        "model_bytes": model.stat().st_size,
        "rounds": ROUNDS,
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    """Measure, print and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, help="of an environment with the base installation")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = starts(folder)
        python = given.python or base_python(folder)
        model = models.write_large(folder / "model.onnx")
        found["first_inference"] = first_inference(python, model, folder)
    found["device"] = fingerprint()
    print(json.dumps(found, indent=2))
    results = Path(__file__).parent / "results"
    (results / "startup.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
