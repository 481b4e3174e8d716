"""The original's key changes with all that decides it: code, packages, weights, external data."""

from pathlib import Path

import numpy as np
import pytest

from edgekit.passes.capture import ModelConfig


@pytest.mark.parametrize(
    ("spec", "changed"),
    [
        ("model.py:build", "model.py"),
        ("model.py:build", "layers.py"),
        ("model.py:build", "blocks/conv.py"),
        ("nets.resnet:build", "nets/resnet.py"),
        ("../shared/net.py:build", "../shared/net.py"),
        ("../shared/net.py:build", "../shared/part.py"),
    ],
)
def test_code(tmp_path: Path, spec: str, changed: str) -> None:
    base = tmp_path / "recipe"
    for name in (
        "model.py",
        "layers.py",
        "blocks/__init__.py",
        "blocks/conv.py",
        "nets/resnet.py",
        "../shared/net.py",
        "../shared/part.py",
    ):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("x = 1\n")
    config = ModelConfig(python=spec)
    before = config.fingerprint(base)
    assert config.fingerprint(base) == before
    (base / changed).write_text("x = 2\n")
    assert config.fingerprint(base) != before


def test_weights(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("")
    (tmp_path / "w.safetensors").write_bytes(b"1")
    config = ModelConfig(python="model.py:build", weights="w.safetensors")
    before = config.fingerprint(tmp_path)
    (tmp_path / "w.safetensors").write_bytes(b"2")
    assert config.fingerprint(tmp_path) != before


def test_external_data_of_an_onnx_file(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from edgekit.evaluate import open_artifact

    def write(value: float) -> None:
        weight = numpy_helper.from_array(np.full(256, value, np.float32), "w")
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [256])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [256])],
            [weight],
        )
        model = helper.make_model(graph)
        onnx.save(
            model,
            tmp_path / "m.onnx",
            save_as_external_data=True,
            location="m.bin",
            size_threshold=0,
        )

    write(1.0)
    config = ModelConfig(file="m.onnx")
    before, artifact = config.fingerprint(tmp_path), open_artifact(tmp_path / "m.onnx")
    assert artifact.files == ("m.onnx", "m.bin")
    assert artifact.size_bytes > 1024
    (tmp_path / "m.bin").unlink()
    write(2.0)
    assert config.fingerprint(tmp_path) != before
    assert open_artifact(tmp_path / "m.onnx").content_hash != artifact.content_hash
