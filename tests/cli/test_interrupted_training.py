"""Ctrl-C in the middle of the commands around training: what is left, and how they go on."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.project import write
from tests.conftest import EDGEKIT, Command

STOP = """\
import os
import signal
from pathlib import Path

import torch

import edgekit.train.checkpoint

edgekit.train.checkpoint.EVERY_S = 0.0


def stopping(owner, name, after):
    plain, calls = getattr(owner, name), 0

    def call(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == after and not Path("again").exists():
            os.kill(os.getpid(), signal.SIGINT)
        return plain(*args, **kwargs)

    setattr(owner, name, call)


stopping(torch.optim.Adam, "step", 5)
stopping(torch.optim.AdamW, "step", 5)
stopping(torch.export, "save", 1)
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captured network in the folder of its project."""
    folder = write(tmp_path_factory.mktemp("project"))
    (folder / "stop.py").write_text(STOP)
    capture = [str(EDGEKIT), "capture", "model.py:build", "-o", "net", "--input", "input=batch,8"]
    subprocess.run(capture, cwd=folder, check=True, timeout=300, capture_output=True)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["synthesize", "net", "-o", "out.npz", "--samples", "64", "--steps", "20"],
        ["shrink", "net", "-o", "out", "--width", "0.5"],
        ["distill", "net", "--teacher", "net", "-o", "out", "--data", "python:data.py:load"],
    ],
    ids=lambda command: command[0],
)
def test_ctrl_c_leaves_nothing_half_written(
    net: Path, tmp_path: Path, edgekit: Command, command: list[str]
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(net, folder)

    def run() -> "subprocess.CompletedProcess[str]":
        found = edgekit(
            *command, "--import", "stop", "--json", cwd=folder, env={"PYTHONPATH": str(folder)}
        )
        assert "Traceback" not in found.stderr
        return found

    def made() -> set[str]:
        return {p.name for p in folder.iterdir()} - {p.name for p in net.iterdir()}

    trains = command[0] == "distill"
    stopped = run()
    assert stopped.returncode == 130, stopped.stderr
    assert "Interrupted" in stopped.stderr
    assert stopped.stdout == ""
    assert made() - {"__pycache__"} == ({".out.cache"} if trains else set())
    (folder / "again").touch()
    done = run()
    assert done.returncode == 0, done.stderr
    assert made() - {"__pycache__", "again"} == {command[command.index("-o") + 1]}
    if trains:
        assert json.loads(done.stdout)["notes"]["history"]["resumed_at"] == 4
