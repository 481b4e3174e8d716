"""A real aarch64 ONNX Runtime on an emulated board, reached as any other board is."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.arm64 import networks


def save_trained(path):
    """A trained classifier of text direction, from an OCR package."""
    folder = Path(importlib.util.find_spec("rapidocr_onnxruntime").origin).parent
    shutil.copy(folder / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx", path)
    return path


NETWORKS = {
    "trained": save_trained,
    "convolutions": networks.save_convolutions,
    "recurrent": networks.save_recurrent,
    "int8": networks.save_int8,
}


@pytest.fixture
def board(edgekit, tmp_path, monkeypatch):
    """Add the board under its name, without asking it anything."""
    monkeypatch.setenv("EDGEKIT_CONFIG", str(tmp_path / "config"))
    done = edgekit(
        *("device", "add", "board", os.environ["EDGEKIT_ARM64_URL"], "--no-probe"),
        *("--ssh-config", os.environ["EDGEKIT_ARM64_SSH_CONFIG"]),
        *("--python", "~/edgekit-venv/bin/python"),
    )
    assert done.returncode == 0, done.stderr
    return "board"


def printed(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def figures(data):
    """Every figure of a result, wherever it stands."""
    if isinstance(data, list):
        return [figure for each in data for figure in figures(each)]
    if not isinstance(data, dict):
        return []
    own = [data] if {"value", "unit", "label"} <= data.keys() else []
    return own + [figure for each in data.values() for figure in figures(each)]


def test_the_board_is_an_emulated_arm64_with_a_runtime(edgekit, board):
    found = printed(edgekit("device", "probe", board, "--json"))["probe"]
    assert found["fingerprint"]["architecture"] == "aarch64"
    assert found["runtimes"]["onnxruntime"]["ok"]
    assert found["missing"] == []
    assert found["problems"] == []
    # Nobody said so when the board was added: the agent has found it out.
    assert found["emulated"] is True


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_computes_there_what_it_computes_here(edgekit, board, tmp_path, kind):
    model = NETWORKS[kind](tmp_path / f"{kind}.onnx")
    found = printed(edgekit("verify", model, "--device", board, "--atol", 1e-5, "--json"))
    assert found
    for output, parity in found.items():
        assert parity["max_abs"] <= 1e-5, output
    # The same tolerance tells another network apart.
    other = tmp_path / "other.onnx"
    changed = onnx.load(model)
    constants = [node.attribute[0].t for node in changed.graph.node if node.op_type == "Constant"]
    for weight in (*changed.graph.initializer, *constants):
        if weight.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(changed, other)
    assert edgekit("verify", model, other, "--atol", 1e-5).returncode == 5


def test_every_figure_of_a_benchmark_there_is_labelled_emulated(edgekit, board, tmp_path):
    models = [NETWORKS[kind](tmp_path / f"{kind}.onnx") for kind in ("convolutions", "int8")]
    done = edgekit("bench", *models, "--device", board, "--quick", "--layers", "--json")
    result = printed(done)
    assert result["device"]["architecture"] == "aarch64"
    assert result["complete"]
    there = [figure for figure in figures(result) if figure["value"] is not None]
    assert len(there) >= 3
    assert {figure["label"] for figure in there} == {"emulated"}
    assert any("emulated" in warning for warning in result["warnings"])
