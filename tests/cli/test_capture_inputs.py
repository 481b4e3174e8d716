"""What `capture --input` says of a network's inputs: their names are kept, their sizes held."""

import json
from pathlib import Path

import pytest

from tests.conftest import Command

NET = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def test_an_input_keeps_the_name_that_it_was_given(edgekit: Command, folder: Path) -> None:
    given = ("net.py:Net", "--input", "image=batch,3,32,32")
    done = edgekit("capture", *given, "-o", "captured", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [s["name"] for s in json.loads(done.stdout)["artifact"]["inputs"]] == ["image"]
    done = edgekit("export", "captured", "-o", "onnx", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [s["name"] for s in json.loads(done.stdout)["artifact"]["inputs"]] == ["image"]
    assert edgekit("verify", "captured", "onnx", cwd=folder).returncode == 0


def test_sizes_that_the_network_does_not_take_are_exit_2_and_name_the_option(
    edgekit: Command, folder: Path
) -> None:
    given = ("net.py:Net", "--input", "image=batch,1,32,32")
    done = edgekit("capture", *given, "-o", "captured", cwd=folder)
    assert done.returncode == 2, done.stderr
    assert "image: [2, 1, 32, 32]" in done.stderr
    assert "to have 3 channels" in done.stderr
    assert "--input" in done.stderr
    assert not (folder / "captured").exists()


def test_an_input_cannot_have_the_name_of_an_output(edgekit: Command, folder: Path) -> None:
    given = ("net.py:Net", "--input", "output=batch,3,32,32")
    done = edgekit("capture", *given, "-o", "captured", cwd=folder)
    assert done.returncode == 2, done.stderr
    assert "An input cannot be called 'output'" in done.stderr
