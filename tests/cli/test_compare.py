"""`edgekit compare`: the verdict, and the gate."""

import json
from pathlib import Path

import pytest

from tests.cli.models import save
from tests.cli.test_bad_input import assert_says
from tests.conftest import Command


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    save(tmp_path / "small.onnx")
    save(tmp_path / "deep.onnx", layers=40)
    return "small.onnx", "deep.onnx"


def test_a_slower_model_is_exit_5_and_its_figures_are_shown(edgekit: Command, models):
    done = edgekit("compare", *models, "--quick", "--max-slowdown", "5%")
    assert_says(done, 5, "deep.onnx against small.onnx takes +", "at most +5.0% is allowed", "[")
    assert "slower: deep.onnx runs at 0." in done.stdout


def test_a_faster_model_passes_even_strictly(edgekit: Command, models):
    small, deep = models
    done = edgekit(
        "compare", deep, small, "--quick", "--max-slowdown", "0.05", "--strict", "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["comparisons"]["small.onnx"]["verdict"] == "faster"
    assert found["baseline"] == "deep.onnx"


def test_a_model_can_be_compared_with_itself(edgekit: Command, models):
    done = edgekit("compare", "small.onnx", "small.onnx", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    names = [s["name"] for s in json.loads(done.stdout)["subjects"]]
    assert names == ["small.onnx", "small.onnx (2)"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("small.onnx",), ("Missing argument 'B'",)),
        (("small.onnx", "gone.onnx"), ("gone.onnx does not exist",)),
        (("small.onnx", "deep.onnx", "--strict"), ("--strict", "--max-slowdown")),
    ],
)
def test_bad_input(edgekit: Command, models, args: tuple[str, ...], words: tuple[str, ...]):
    done = edgekit("compare", *args)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
