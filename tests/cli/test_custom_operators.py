"""A network with a custom operator goes through the commands when its module is named."""

import json
from pathlib import Path

from tests.conftest import Command

OPERATORS = """\
import torch


@torch.library.custom_op("edgekit_test::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x):
    return torch.empty_like(x)


twice.register_autograd(lambda context, gradient: gradient * 2)
"""

MODEL = """\
import torch
from torch import nn

import operators_of_mine


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)

    def forward(self, x):
        return torch.ops.edgekit_test.twice(self.attention(x, x, x)[0])
"""

RECIPE = """\
name: custom
model: {file: net/model.pt2, imports: [operators_of_mine]}
data: {python: "data.py:load"}
task: {kind: regression}
passes: [{kind: fine-tune, epochs: 1}, {kind: fine-tune, name: again, epochs: EPOCHS}]
branches: [{name: x86, target: x86-avx2, bench: off}]
"""

DATA = """\
import numpy as np


def load():
    x = np.random.default_rng(0).normal(size=(300, 4, 8)).astype("float32")
    return {"x": x}, x
"""


def test_the_module_of_a_custom_operator_is_named_at_every_command(
    edgekit: Command, tmp_path: Path
) -> None:
    (tmp_path / "operators_of_mine.py").write_text(OPERATORS)
    (tmp_path / "model.py").write_text(MODEL)
    named = ("--import", "operators_of_mine")
    captured = edgekit(
        "capture", "model.py:Net", "--input", "x=batch,4,8", "-o", "net", *named, "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert captured.returncode == 0, captured.stderr

    # The file's own list of imports is never followed.
    alone = edgekit("inspect", "net/model.pt2", cwd=tmp_path)
    assert alone.returncode == 2
    assert "edgekit_test" in alone.stderr
    assert "--import" in alone.stderr

    inspected = edgekit("inspect", "net/model.pt2", *named, "--json", cwd=tmp_path)
    assert inspected.returncode == 0, inspected.stderr
    assert json.loads(inspected.stdout)["macs"] > 0
    same = edgekit("verify", "net", "net", *named, "--json", cwd=tmp_path)
    assert same.returncode == 0, same.stderr
    assert json.loads(same.stdout)["output"]["max_abs"] == 0


def test_capture_tells_which_train_time_behaviour_is_gone(edgekit: Command, tmp_path: Path) -> None:
    (tmp_path / "operators_of_mine.py").write_text(OPERATORS)
    (tmp_path / "model.py").write_text(MODEL)
    captured = edgekit(
        "capture", "model.py:Net", "--input", "x=batch,4,8", "-o", "net", "--json",
        "--import", "operators_of_mine", cwd=tmp_path,
    )  # fmt: skip
    manifest = json.loads(captured.stdout)
    assert manifest["notes"]["train_time_behaviour_dropped"]
    assert any("attention" in w and "dropout" in w for w in manifest["warnings"])


def test_a_run_that_goes_on_finds_operators_beside_its_recipe(
    edgekit: Command, tmp_path: Path
) -> None:
    (tmp_path / "operators_of_mine.py").write_text(OPERATORS)
    (tmp_path / "model.py").write_text(MODEL)
    captured = edgekit(
        "capture", "model.py:Net", "--input", "x=batch,4,8", "-o", "net",
        "--import", "operators_of_mine", cwd=tmp_path,
    )  # fmt: skip
    assert captured.returncode == 0, captured.stderr
    (tmp_path / "data.py").write_text(DATA)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for epochs in ("1", "2"):
        (tmp_path / "recipe.yaml").write_text(RECIPE.replace("EPOCHS", epochs))
        run = edgekit("run", tmp_path / "recipe.yaml", "-o", tmp_path / "out", cwd=elsewhere)
        assert "No module named" not in run.stderr
        assert run.returncode == 0, run.stderr
    assert "original: already there" in run.stderr
