"""Hostile model files through the installed command: refused with exit 2, and nothing of them runs.

`tests/graph/test_store.py` holds the whole list of attacks; this is the way in that users take.
"""

import io
import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.project import write
from tests.conftest import EDGEKIT, Command

WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
MODEL = "models/model.json"


class Payload:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("open('pwned', 'w').close()",))


def pickled() -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(Payload(), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The members of an honest `.pt2`."""
    folder = write(tmp_path_factory.mktemp("honest"))
    subprocess.run(
        [str(EDGEKIT), "capture", "model.py:build", "--input", "input=batch,8", "-o", "out"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    with zipfile.ZipFile(folder / "out/model.pt2") as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def pickle_payload(members: dict[str, bytes]) -> None:
    config = json.loads(members[WEIGHTS])
    entry = next(iter(config["config"].values()))
    config["config"]["evil"] = {**entry, "use_pickle": True, "path_name": "weight_77"}
    members[WEIGHTS] = json.dumps(config).encode()
    members["data/weights/weight_77"] = pickled()


def script_object(members: dict[str, bytes]) -> None:
    entry = next(iter(json.loads(members[WEIGHTS])["config"].values()))
    config = {"config": {"evil": {**entry, "path_name": "custom_obj_0"}}}
    members[CONSTANTS] = json.dumps(config).encode()
    members["data/constants/custom_obj_0"] = pickled()


def shape_expression(members: dict[str, bytes]) -> None:
    model = json.loads(members[MODEL])
    tensors = model["graph_module"]["graph"]["tensor_values"]
    evil = "__import__('pathlib').Path('pwned').touch()"
    next(iter(tensors.values()))["sizes"][0] = {"as_expr": {"expr_str": evil, "hint": None}}
    members[MODEL] = json.dumps(model).encode()


@pytest.mark.parametrize("attack", [pickle_payload, script_object, shape_expression])
@pytest.mark.parametrize("command", ["inspect", "run"])
def test_a_hostile_pt2(
    edgekit: Command,
    tmp_path: Path,
    members: dict[str, bytes],
    attack: Callable[[dict[str, bytes]], None],
    command: str,
) -> None:
    content = dict(members)
    attack(content)
    with zipfile.ZipFile(tmp_path / "evil.pt2", "w") as archive:
        for name, data in content.items():
            archive.writestr(f"evil/{name}", data)
    (tmp_path / "recipe.yaml").write_text(
        "name: evil\nmodel: evil.pt2\nbranches: [{name: x86, target: x86-avx2}]\n"
    )
    args = ("inspect", "evil.pt2") if command == "inspect" else ("run", ".", "-o", "out")
    done = edgekit(*args)
    assert done.returncode == 2, done.stderr
    assert "evil.pt2" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin"])
@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_external_data_outside_the_models_folder(
    edgekit: Command, tmp_path: Path, location: str, command: str
) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    (tmp_path / "secret.bin").write_bytes(b"\0" * 64)
    folder = tmp_path / "models"
    folder.mkdir()
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [weight],
    )
    onnx.save(helper.make_model(graph), folder / "model.onnx")
    done = edgekit(command, folder / "model.onnx")
    assert done.returncode == 2, done.stderr
    assert location in done.stderr
    assert "Traceback" not in done.stderr
