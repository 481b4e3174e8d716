"""The same commands under a launcher: one process runs them, the others help where it trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import project
from tests.train.test_together import launch

pytest.importorskip("accelerate")
ROOT = Path(__file__).parents[2]

DYING = """\
import os
import signal
from pathlib import Path

import torch

import edgekit.train.checkpoint
from data import load as whole

edgekit.train.checkpoint.EVERY_S = 0.0
step, steps = torch.optim.AdamW.step, 0


def dying(self, *args, **kwargs):
    global steps
    steps += 1
    now = steps == int(os.environ.get("DIES_AT", 4)) and os.environ["RANK"] == "1"
    if now and not Path("again").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    Path("steps-" + os.environ["RANK"]).write_text(str(steps))
    return step(self, *args, **kwargs)


torch.optim.AdamW.step = dying
load = whole
"""

SHARES = """\
name: sharded
model: {python: "model.py:build"}
data: {python: "DATA:load", split: {calibration: 30, evaluation: 90}}
task: {kind: classification}
passes:
  - {kind: prune, sparsity: 0.5, multiple: 1}
  - {kind: fine-tune, epochs: 2, batch_size: 16, parallel: sharded, data_shares: [0.2, 0.5]}
  - {kind: distill, epochs: 1, batch_size: 16, parallel: sharded, data_shares: [0.5]}
branches:
  - {name: x86, target: x86-avx2, bench: off, passes: [{kind: export-onnx}]}
"""


def test_a_recipe_is_run_once_and_trained_by_both(tmp_path) -> None:
    folder = project.write(tmp_path / "project")
    out = tmp_path / "run"
    processes = launch("edgekit", "run", str(folder), "-o", str(out), "--json")
    told = [process.communicate(timeout=300) for process in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(text for _, text in told)
    assert json.loads(told[0][0])["verdict"] == "passed"
    assert told[1][0] == ""
    manifest = json.loads((out / "02-distill" / "manifest.json").read_text())
    assert manifest["notes"]["history"]["processes"] == 2
    assert manifest["notes"]["history"]["batch_size"] == 128
    assert not list(out.glob(".cache/training/*"))


def test_an_error_of_the_command_ends_all_processes(tmp_path) -> None:
    processes = launch("edgekit", "run", str(tmp_path / "nothing"), "-o", str(tmp_path / "run"))
    told = [process.communicate(timeout=300)[1] for process in processes]
    assert [p.returncode for p in processes] == [2, 0], "\n".join(told)
    assert "nothing" in told[0]


def torchrun(folder: Path, *command: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run edgekit in two processes under torch's own launcher."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = f"{ROOT}{os.pathsep}{folder}"
    return subprocess.run(
        [sys.executable, *launcher, "-m", "edgekit", *command, "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow  # torchrun starts three processes, three times
def test_a_recipe_with_cut_weights_and_shares_goes_on_after_a_killed_worker(tmp_path) -> None:
    folder = project.write(tmp_path / "project", recipe=SHARES.replace("DATA", "data.py"))
    plain = torchrun(folder, "run", str(folder), "-o", "plain")
    assert plain.returncode == 0, plain.stderr
    (folder / "dying.py").write_text(DYING)
    (folder / "recipe.yaml").write_text(SHARES.replace("DATA", "dying.py"))
    # 180 samples are 6 steps of 2 x 16 an epoch: 12 with each share, and the 15th in the second.
    first = torchrun(folder, "run", str(folder), "-o", "run", DIES_AT="15")
    assert first.returncode != 0
    assert "start the command again" in first.stderr
    (folder / "again").touch()
    second = torchrun(folder, "run", str(folder), "-o", "run")
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["verdict"] == "passed"
    steps = 3 * 12 + 2 * 6 - int((folder / "steps-1").read_text())
    assert steps in (14, 15)  # were not taken again; the other one may have finished its last
    for step in ("02-fine-tune", "03-distill"):
        notes, wanted = (
            json.loads((folder / out / step / "manifest.json").read_text())["notes"]
            for out in ("run", "plain")
        )
        assert notes["history"]["processes"] == 2
        assert notes["data_shares"] == wanted["data_shares"]
    shares = [row["share"] for row in notes["data_shares"]["rows"]]
    assert shares == [0.5, 1.0]
    assert not list((folder / "run").glob(".cache/training/*"))


@pytest.mark.slow  # torchrun starts three processes, twice
def test_a_killed_worker_ends_the_job_and_the_checkpoint_resumes_it(tmp_path) -> None:
    folder = project.write(tmp_path / "project")
    (folder / "dying.py").write_text(DYING)
    # The 4th of 12 steps: whoever is left after the last one has all that it needs, and ends well.
    command = ["finetune", "net", "-o", "tuned", "--set", "epochs=6"]
    command += ["--data", "python:dying.py:load"]
    captured = ["-m", "edgekit", "capture", "model.py:build", "-o", "net", "--input"]
    subprocess.run(
        [sys.executable, *captured, "input=batch,8"], cwd=folder, check=True, timeout=120
    )
    first = torchrun(folder, *command)
    assert first.returncode != 0
    assert not (folder / "tuned").exists()
    assert "start the command again" in first.stderr  # edgekit's own message
    assert "Signal 9 (SIGKILL)" in first.stderr  # the launcher's
    assert list((folder / ".tuned.cache" / "training").iterdir())
    (folder / "again").touch()
    second = torchrun(folder, *command)
    assert second.returncode == 0, second.stderr
    history = json.loads(second.stdout)["notes"]["history"]
    assert history["resumed_at"] in (3, 4)  # the other one may have finished the step it died in
    assert history["processes"] == 2
    assert not (folder / ".tuned.cache").exists()
