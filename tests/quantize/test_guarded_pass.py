"""The pass as the command line runs it: what the manifest says, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekit.data import DataConfig
from edgekit.errors import GateError, UsageError
from edgekit.graph.capture import capture
from edgekit.graph.onnx_model import read_onnx
from edgekit.graph.store import save
from edgekit.metrics import Task
from edgekit.passes.quantize import Quantize
from edgekit.pipeline.single import apply
from edgekit.quantize import prepare
from edgekit.quantize.config import GuardGate
from edgekit.quantize.guard import Judge
from edgekit.quantize.verdict import Latency

SLOWER = Latency("measured", passed=False, said="slower: 0.50x", speedup=0.5)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    images = np.random.default_rng(0).normal(size=(40, 1, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "d.npz", image=images)
    split = {"calibration": 16, "evaluation": 16}
    return DataConfig.model_validate({"npz": str(tmp_path / "d.npz"), "split": split})


def run(step: Quantize, model: Path, out: Path, data: DataConfig):
    return apply(step, model, out, data=data, task=Task(kind="none"), target="x86-avx2")


def test_without_the_guard_the_manifest_says_so_and_quantizing_again_is_asked_for(
    residual: Path, data: DataConfig, tmp_path: Path
) -> None:
    first = run(Quantize(guard=False), residual, tmp_path / "a", data)
    assert first.notes["guard"]["held"] is None
    assert "off" in first.notes["guard"]["said"]
    again = tmp_path / "a" / "model.onnx"
    with pytest.raises(UsageError, match="quantized already: it holds") as caught:
        run(Quantize(guard=False), again, tmp_path / "b", data)
    assert "--requantize" in caught.value.hint
    step = Quantize(guard=False, requantize=True)
    second = run(step, tmp_path / "a", tmp_path / "b", data)
    assert any("quantized already" in w for w in second.warnings)
    assert second.notes["quantized"] == first.notes["quantized"]


def test_with_the_guard_the_manifest_has_every_attempt(
    residual: Path, data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster = Latency("measured", passed=True, said="faster: 2.00x", speedup=2.0)
    monkeypatch.setattr(Judge, "_measured", lambda *_: faster)
    made = run(Quantize(), residual, tmp_path / "a", data)
    guard = made.notes["guard"]
    assert guard["held"] is True
    assert [t["passed"] for t in guard["tried"]] == [True]
    assert guard["tried"][0]["speedup"] == 2.0
    assert guard["judged_on"] == "evaluation"
    assert guard["reverted"] == []
    assert made.artifact.path.is_file()


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 16, 3), nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.stem(image)).mean((2, 3)))


def test_a_pt2_is_lowered_and_its_layers_keep_their_names(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    save(capture(Small().eval(), (torch.randn(2, 1, 12, 12),)), tmp_path / "m.pt2")
    seen: list[str] = []

    def measured(judge: Judge, path: Path) -> Latency:
        seen.append(judge.parent.format)
        speedup = 3.0 - sum(i.data_type == 3 for i in read_onnx(path).graph.initializer) / 100
        return Latency("measured", passed=True, said="faster", speedup=speedup, p50_ms=1.0)

    def layer_ms(_judge: Judge, path: Path, layers: tuple[str, ...], _: float) -> dict[str, float]:
        slow = 0.0 if path.name == "float32.onnx" else 0.2  # int8 slows the convolution down
        return {n: slow if "stem" in n else 0.5 - slow for n in layers}

    monkeypatch.setattr(Judge, "_measured", measured)
    monkeypatch.setattr(Judge, "layer_ms", layer_ms)
    made = run(Quantize(gate=GuardGate(sqnr_db=5)), tmp_path / "m.pt2", tmp_path / "a", data)
    assert set(seen) == {"onnx"}  # the parent that was timed is what the .pt2 lowers to
    guard = made.notes["guard"]
    assert guard["held"] is True
    assert [t["layers_int8"] for t in guard["tried"]] == [2, 1]
    assert [(r["layer"], r["why"]) for r in guard["reverted"]] == [("stem", "latency")]
    why = dict(made.notes["excluded"])["stem/Conv"]
    assert why == "int8 made the network no faster there: the guard left it in float"
    assert made.artifact.format == "onnx"
    assert [p.name for p in (tmp_path / "a").glob(".*")] == []
    assert any(n.op_type == "QuantizeLinear" for n in read_onnx(made.artifact.path).graph.node)


def test_a_slower_model_leaves_nothing_behind(
    residual: Path, data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "_measured", lambda *_: SLOWER)
    monkeypatch.setattr(Judge, "layer_ms", lambda *given: dict.fromkeys(given[2], 1.0))
    with pytest.raises(GateError, match=r"static: as configured .* 0\.50x"):
        run(Quantize(gate=GuardGate(sqnr_db=0)), residual, tmp_path / "a", data)
    assert not (tmp_path / "a").exists()


def test_more_weights_than_onnx_can_run_in_memory_are_refused(
    residual: Path, data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "LARGEST_BYTES", 1000)
    with pytest.raises(UsageError, match="GiB of weights"):
        run(Quantize(guard=False), residual, tmp_path / "a", data)
