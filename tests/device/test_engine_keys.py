"""An engine of a device is used again while the device is as it was, whatever this machine is."""

import pytest

from edgekit.artifact import Artifact, TensorSpec
from edgekit.bench.engine import library
from edgekit.device import Device, add, builder
from edgekit.errors import DeviceError
from edgekit.manifest import Manifest
from edgekit.metrics import Task
from edgekit.passes.base import Context
from edgekit.passes.build_tensorrt import BuildTensorrt
from edgekit.pipeline import explain, run_recipe
from edgekit.pipeline.step import Made, step_key
from tests.device.conftest import save_network
from tests.device.test_session import DEVICE, HELLO, SHORT, Scripted

SPEC = TensorSpec(name="x", dtype="float32", shape=(1, 16))
BOARD = {
    **HELLO,
    "fingerprint": {"board": "Orin Nano", "digest": "0123456789abcdef"},
    "runtimes": {"tensorrt": {"ok": True, "reason": "tensorrt 10.3.0 on NVIDIA Orin (8.7)."}},
}
BYE = "hear(); say(type='bye')"


@pytest.fixture
def key(tmp_path, monkeypatch):
    """The cache key of a build on a device that says this of itself."""
    artifact = Artifact(
        root=tmp_path,
        format="onnx",
        model="net.onnx",
        files=("net.onnx",),
        inputs=(SPEC,),
        outputs=(SPEC,),
        content_hash="ab",
        made_by="file",
    )
    about = {"step": "file", "pass_config": {}, "cache_key": "", "seed": 0, "versions": {}}
    parent = Made(Manifest(artifact=artifact, seconds=0.0, **about), cached=True)
    context = Context(out=tmp_path, seed=0, task=Task())
    add(DEVICE)

    def key_(hello=BOARD, device="board", here="0"):
        monkeypatch.setattr("edgekit.pipeline.step.fingerprint", lambda: {"digest": here})
        transport = Scripted(BYE, hello=hello)
        monkeypatch.setattr("edgekit.device.session.open_transport", lambda _: transport)
        return step_key(BuildTensorrt(runtime="tensorrt", device=device), parent, context)

    return key_


def test_the_device_decides(key):
    assert key() == key()
    other = {**BOARD, "fingerprint": {"board": "Orin Nano", "digest": "after JetPack's upgrade"}}
    newer = {"tensorrt": {"ok": True, "reason": "tensorrt 10.7.0 on NVIDIA Orin (8.7)."}}
    keys = {key(), key(other), key({**BOARD, "runtimes": newer})}
    assert len(keys) == 3


def test_this_machine_decides_only_what_is_built_here(key):
    assert key(here="a") == key(here="b")
    assert key(device=None, here="a") != key(device=None, here="b")


def test_a_device_that_cannot_say_what_it_is(key, monkeypatch):
    with pytest.raises(DeviceError, match="board does not say what it is") as error:
        key({**BOARD, "fingerprint": {}, "problems": ["Looking at fingerprint failed."]})
    assert "Looking at fingerprint failed." in error.value.message
    gone = Scripted("", prelude="import sys; sys.exit(255)")
    monkeypatch.setattr("edgekit.device.session.open_transport", lambda _: gone)
    with pytest.raises(DeviceError):
        builder(DEVICE, "tensorrt", patience=SHORT)


RECIPE = """
name: on-the-device
model: {file: net.onnx}
branches:
  - name: rtx
    target: rtx
    bench: off
    passes: [{kind: build-tensorrt, device: here}]
"""


@pytest.mark.skipif(not library.available("tensorrt-rtx")[0], reason="tensorrt-rtx is missing")
def test_a_run_asks_the_device(tmp_path, monkeypatch):
    """The agent is a process of its own on this machine; TensorRT-RTX builds there."""
    save_network(tmp_path / "net.onnx")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    add(Device("here", "local://"))
    engine, out = tmp_path / "out/rtx/01-build-tensorrt/model.engine", tmp_path / "out"

    def there():
        return next(step["there"] for step in explain(tmp_path, out) if step["branch"] == "rtx")

    def made():
        before = engine.stat().st_mtime_ns if engine.exists() else 0
        run_recipe(tmp_path, out)
        return engine.stat().st_mtime_ns != before

    assert made()
    assert there()
    assert not made()
    monkeypatch.setattr("edgekit.device.builder", lambda *_: ("another board", ""))
    assert not there()
    assert made()

    def off(*_):
        raise DeviceError("here cannot be reached.", "Switch it on.")

    monkeypatch.setattr("edgekit.device.builder", off)
    assert not there()
    with pytest.raises(DeviceError, match="here cannot be reached"):
        run_recipe(tmp_path, out)
    assert engine.exists()
