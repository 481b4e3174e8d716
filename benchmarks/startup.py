"""How long `edgekit --help` takes beside a bare Typer program, interleaved in one run.

Processor time (user and system) of each process, since wall time depends on what else runs.

    python benchmarks/startup.py
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

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
ROUNDS = 20


def cost(command: list[str]) -> float:
    """Processor seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure both, print the medians and their ratio, and keep them."""
    edgekit = [str(Path(sys.executable).with_name("edgekit")), "--help"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "bare.py"
        program.write_text(BARE)
        bare = [sys.executable, str(program), "--help"]
        cost(edgekit), cost(bare)
        times = [(cost(edgekit), cost(bare)) for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(t) for t in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    found = {"edgekit_help_s": ours, "bare_typer_help_s": theirs, "ratio": ratio, "rounds": ROUNDS}
    print(json.dumps(found, indent=2))
    results = Path(__file__).parent / "results"
    (results / "startup.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
