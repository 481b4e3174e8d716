"""SmoothQuant: an attention block whose norm plants an outlier channel, before and after."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekit.artifact import Artifact
from edgekit.data import DataConfig, open_data
from edgekit.graph.capture import capture
from edgekit.graph.onnx_model import read_onnx, specs
from edgekit.lower.export import export_onnx
from edgekit.metrics import Task
from edgekit.quantize import repair
from edgekit.quantize.config import GuardGate, Place, PtqConfig
from edgekit.quantize.guard import Judge
from edgekit.quantize.ladder import Ladder
from edgekit.quantize.verdict import Latency

WIDTH, FACTOR = 16, 60.0
FASTER = Latency("measured", passed=True, said="faster: 2.00x", speedup=2.0)


class Attention(nn.Module):
    """One channel of what the norm gives is far out; the projection reads it as it does others."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 4)
        with torch.no_grad():
            self.norm.weight[3] *= FACTOR
            self.qkv.weight[:, 3] /= FACTOR

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return self.out(torch.softmax(q @ k.transpose(1, 2) / WIDTH**0.5, -1) @ v)


@pytest.fixture
def ladder(tmp_path: Path, schemes, monkeypatch: pytest.MonkeyPatch) -> Ladder:
    monkeypatch.setattr(Judge, "_measured", lambda *_: FASTER)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    path = tmp_path / "m.onnx"
    export_onnx(capture(Attention().eval(), (torch.randn(2, 6, WIDTH),)), path)
    x = np.random.default_rng(0).normal(size=(32, 6, WIDTH)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    config = {"npz": str(tmp_path / "d.npz"), "split": {"calibration": 16, "evaluation": 16}}
    data = open_data(DataConfig.model_validate(config), tmp_path)
    inputs, outputs = specs(read_onnx(path))
    parent = Artifact.create(
        tmp_path, model=path.name, format="onnx", inputs=inputs, outputs=outputs, made_by="file"
    )
    gate, place = GuardGate(sqnr_db=25.0), Place(runtime="onnxruntime")
    (tmp_path / "work").mkdir()
    return Ladder(
        source=path,
        scheme=schemes["ort-x86-avx2"],
        calibration=lambda: (b.inputs for b in data.batches("calibration", 1)),
        judge=Judge(parent, data, Task(kind="none"), gate, place),
        config=PtqConfig(),
        folder=tmp_path / "work",
    )


def test_the_rung_mends_what_no_range_does_and_the_ladder_ends_there(ladder: Ladder) -> None:
    kept = ladder.climb("static")
    assert kept.rung == "SmoothQuant"
    assert kept.passed
    assert kept.report.quantized == 2  # no layer went back
    others = [a for a in ladder.tried if a is not kept]
    tried = [a.rung for a in others]
    assert tried[0] == "as configured"
    assert len(tried) <= 2  # the best of the ranges, where one is better than none
    assert max(a.accuracy.sqnr_db for a in others) < kept.accuracy.sqnr_db - 15
    (softmax,) = (n for n in ladder.reference.graph.node if n.op_type == "Softmax")
    del softmax.attribute[:]
    softmax.op_type = "Sigmoid"  # no attention: nothing to smooth for
    assert "SmoothQuant" not in dict(repair._settings(ladder, others[0]))
