"""`edgekit cast` as a user types it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import RecipeError
from edgekit.passes.cast_half import CastHalf
from edgekit.target import Target
from tests.cli.models import save
from tests.cli.test_bad_input import assert_says
from tests.conftest import Command


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    image = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    np.savez(path, image=image * np.float32(1e5))
    return path


def test_an_overflow_is_told_and_kept(edgekit: Command, tmp_path: Path, data: Path) -> None:
    model = save(tmp_path / "model.onnx", layers=3)
    done = edgekit(
        "cast", model, "--data", data, "--target", "rtx", "-o", tmp_path / "half", "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["pass_config"]["precision"] == "float16"
    assert found["notes"]["kept"][0]["node"] == "layer0"
    assert found["notes"]["kept"][0]["reason"] == "overflow"
    assert "layer0 stays float32: 'image' reaches" in found["warnings"][0]
    assert found["notes"]["half_nodes"] > 0


def test_what_is_kept_is_said(edgekit: Command, tmp_path: Path, data: Path) -> None:
    model = save(tmp_path / "model.onnx", layers=3)
    done = edgekit("cast", model, "--data", data, "--target", "rtx", "-o", tmp_path / "half")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d of \d nodes in float16; float32: \d overflow", done.stdout), done.stdout


def test_what_is_refused(edgekit: Command, tmp_path: Path, data: Path) -> None:
    model = save(tmp_path / "model.onnx")
    out = tmp_path / "half"
    done = edgekit("cast", model, "--data", data, "--target", "x86-avx2", "-o", out)
    assert_says(done, 2, "x86-avx2 computes in int8, float32", "float16 or bfloat16")
    done = edgekit("cast", model, "--data", data, "--precision", "float8", "-o", out)
    assert_says(done, 2, "precision", "--help")
    assert not out.exists()


def test_turing_has_no_bfloat16() -> None:
    turing = Target(
        name="turing",
        title="T4",
        device_class="gpu",
        runtime="tensorrt-rtx",
        precisions=("bfloat16", "float16", "float32"),
        compute_capabilities=("7.5",),
    )
    assert CastHalf().resolve((turing,)).precision == "float16"
    with pytest.raises(RecipeError, match="turing has no bfloat16"):
        CastHalf(precision="bfloat16").resolve((turing,))
