"""What a model computes on a device, over a real SSH server, and through the command."""

import dataclasses
import json
import sys

import numpy as np
import onnxruntime
import pytest

from edgekit.device import infer
from edgekit.errors import DeviceError, UnavailableError, UsageError
from tests.device.conftest import save_network, until
from tests.device.test_session import talk


def test_outputs_of_several_runs_come_back(server, subject):
    generator = np.random.default_rng(0)
    batches = [{"x": generator.standard_normal((1, 16)).astype(np.float32)} for _ in range(3)]
    shown = []
    found = infer(
        server.device(), subject, batches, say=lambda fraction, text: shown.append((fraction, text))
    )
    session = onnxruntime.InferenceSession(str(subject.model), providers=["CPUExecutionProvider"])
    assert len(found) == 3
    for batch, outputs in zip(batches, found, strict=True):
        assert set(outputs) == {"y"}
        np.testing.assert_allclose(outputs["y"], session.run(None, batch)[0], rtol=0, atol=1e-5)
    assert any(text.startswith("sending net.onnx") for _, text in shown)
    until(lambda: not server.left_behind(), "the device is as it was")


def test_external_data_goes_along(server, subject, tmp_path):
    model = save_network(tmp_path / "outside.onnx", external=True)
    found = infer(server.device(), dataclasses.replace(subject, model=model), [subject.feeds])
    assert found[0]["y"].shape == (1, 16)


def test_what_cannot_be_sent(server, subject, monkeypatch):
    with pytest.raises(UsageError, match="cannot go to board at once"):
        infer(server.device(), subject, [])
    monkeypatch.setattr("edgekit.device.outputs.MAX_BYTES", 10)
    with pytest.raises(UsageError, match="cannot go to board at once"):
        infer(server.device(), subject, [subject.feeds])


def test_a_runtime_that_the_device_lacks(server, subject):
    wanted = dataclasses.replace(subject, runtime="tensorrt")
    with pytest.raises(UnavailableError, match="board cannot run tensorrt: "):
        infer(server.device(), wanted, [subject.feeds])


def test_ctrl_c_stops_it(server, subject):
    with pytest.raises(KeyboardInterrupt):
        infer(server.device(), subject, [subject.feeds], stop=lambda: True)
    until(lambda: not server.left_behind(), "the device is as it was")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("hear(); say(type='result', outputs=['y'], size=0); hear()", "outputs are broken"),
        ("hear(); say(type='result', outputs=7, size=0); hear()", "outputs are broken"),
        (
            "hear(); say(type='result', outputs=['y'], size=3); print('abc', end='', flush=True);"
            " hear()",
            "outputs are broken",
        ),
        ("hear(); say(type='result', size=-1); hear()", "no valid size"),
    ],
)
def test_outputs_that_are_none(script, message):
    with pytest.raises(DeviceError, match=message), talk(script) as session:
        session.infer({})


@pytest.fixture
def board(edgekit, server):
    options = ("--python", sys.executable, "--ssh-config", server.config, "--no-probe")
    assert edgekit("device", "add", "board", server.url, *options).returncode == 0
    return "board"


def test_verify_compares_here_with_there(edgekit, board, subject, tmp_path):
    model = subject.model
    same = edgekit("verify", model, "--device", board, "--atol", 1e-5, "--json")
    assert same.returncode == 0, same.stderr
    assert json.loads(same.stdout)["y"]["max_abs"] <= 1e-5
    other = save_network(tmp_path / "other.onnx", seed=1)
    differs = edgekit("verify", model, other, "--device", board)
    assert differs.returncode == 5
    assert "largest difference" in differs.stderr


def test_verify_on_data_of_ones_own(edgekit, board, tmp_path):
    model = save_network(tmp_path / "net.onnx", batch="batch")
    x = np.random.default_rng(3).standard_normal((500, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    # A fifth is for evaluation: a whole batch of 64, and one that is filled up.
    done = edgekit("verify", model, "--device", board, "--data", "data.npz", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["y"]["max_abs"] <= 1e-5


def test_what_verify_cannot_compare_on_a_device(edgekit, board, subject):
    done = edgekit("verify", subject.model)
    assert done.returncode == 2
    assert "--device NAME" in done.stderr
    done = edgekit("verify", subject.model, "--device", "bord")
    assert done.returncode == 2
    assert "Do you mean 'board'?" in done.stderr
