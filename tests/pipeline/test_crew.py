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
    if steps == 4 and os.environ["RANK"] == "1" and not Path("again").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args, **kwargs)


torch.optim.AdamW.step = dying
load = whole
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


@pytest.mark.slow  # torchrun starts three processes, twice
def test_a_killed_worker_ends_the_job_and_the_checkpoint_resumes_it(tmp_path) -> None:
    folder = project.write(tmp_path / "project")
    (folder / "dying.py").write_text(DYING)

    def torchrun() -> "subprocess.CompletedProcess[str]":
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = ["-m", "edgekit", "finetune", "net", "-o", "tuned", "--set", "epochs=2"]
        data = ["--data", "python:dying.py:load", "--json"]
        return subprocess.run(
            [sys.executable, *launcher, *command, *data],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    captured = ["-m", "edgekit", "capture", "model.py:build", "-o", "net", "--input"]
    subprocess.run(
        [sys.executable, *captured, "input=batch,8"], cwd=folder, check=True, timeout=120
    )
    first = torchrun()
    assert first.returncode != 0
    assert not (folder / "tuned").exists()
    assert "start the command again" in first.stderr  # edgekit's own message
    assert "Signal 9 (SIGKILL)" in first.stderr  # the launcher's
    assert list((folder / ".tuned.cache" / "training").iterdir())
    (folder / "again").touch()
    second = torchrun()
    assert second.returncode == 0, second.stderr
    history = json.loads(second.stdout)["notes"]["history"]
    assert history["resumed_at"] in (3, 4)  # the other one may have finished the step it died in
    assert history["processes"] == 2
    assert not (folder / ".tuned.cache").exists()
