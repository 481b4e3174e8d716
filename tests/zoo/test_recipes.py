"""The committed recipes, whole."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.zoo.projects import EDGEKIT

pytestmark = pytest.mark.zoo
RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def run(name, out):
    command = [str(EDGEKIT), "run", str(RECIPES / name), "-o", str(out), "--threads", "1", "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.parametrize(
    ("name", "package"),
    [("digits-mlp", "sklearn"), ("rapidocr-direction", "rapidocr_onnxruntime")],
)
def test_a_recipe_holds_its_gates(name, package, tmp_path):
    pytest.importorskip(package)
    out = tmp_path / "out"
    done = run(name, out)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verdict"] == "passed"
    assert all(g["passed"] for b in report["branches"] for g in b["gates"])
    for file in ("report.json", "report.md", "report.html"):
        assert (out / file).stat().st_size > 0
    shutil.rmtree(out)
