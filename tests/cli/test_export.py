"""`edgekit export` with what deployment wants, as a user types it."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from tests.cli.models import save
from tests.cli.test_bad_input import assert_says
from tests.conftest import Command


def test_an_onnx_file_for_deployment(edgekit: Command, tmp_path: Path) -> None:
    model = save(tmp_path / "model.onnx", layers=2)
    options = ["--shape", "image=3x16", "--append", "logits=softmax", "--rename", "logits=p"]
    out = tmp_path / "out"
    done = edgekit("export", model, "-o", out, "--opset", 20, *options, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["notes"]["opset"] == 20
    assert found["notes"]["deployment"]["checked"] == ["image[3, 16]"]
    made = onnx.load(out / "model.onnx")
    assert made.opset_import[0].version == 20
    run = ort.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    (p,) = run.run(["p"], {"image": np.ones((3, 16), np.float32)})
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)


def test_what_is_refused(edgekit: Command, tmp_path: Path) -> None:
    model, out = save(tmp_path / "model.onnx"), tmp_path / "out"
    done = edgekit("export", model, "-o", out, "--shape", "image=axb")
    assert_says(done, 2, "--shape image=axb", "1x3x224x224")
    done = edgekit("export", model, "-o", out, "--opset", 13)
    assert_says(done, 2, "Opset 13 cannot be written", "from 17")
    done = edgekit("export", model, "-o", out, "--append", "logits=gelu")
    assert_says(done, 2, "append", "--help")
    assert not out.exists()
