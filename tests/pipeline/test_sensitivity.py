"""`edgekit sensitivity`, without its command: what ranks the layers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekit.data import DataConfig
from edgekit.errors import UsageError
from edgekit.lower import check
from edgekit.metrics import Task
from edgekit.passes.quantize import Quantize
from edgekit.pipeline.sensitivity import sensitivities
from edgekit.quantize.guard import Judge
from edgekit.quantize.verdict import Latency

WIDTH, FACTOR = 16, 3000.0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two matrix products; the second reads one channel that is far out."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(WIDTH, n)).astype(np.float32) for n in (WIDTH, 4)]
    weights[0][:, 0] *= FACTOR
    weights[1][0] /= FACTOR
    arrays = [numpy_helper.from_array(w, f"fc{i}.weight") for i, w in enumerate(weights)]
    nodes = [
        helper.make_node("MatMul", ["x", "fc0.weight"], ["h"], name="fc0/MatMul"),
        helper.make_node("LeakyRelu", ["h"], ["a"], name="act"),
        helper.make_node("MatMul", ["a", "fc1.weight"], ["y"], name="fc1/MatMul"),
    ]
    ends = [
        [helper.make_tensor_value_info(name, 1, ["batch", size])]
        for name, size in (("x", WIDTH), ("y", 4))
    ]
    graph = helper.make_graph(nodes, "g", *ends, arrays)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def found(model: Path, monkeypatch: pytest.MonkeyPatch, by: str, *, labels: bool = True):
    faster = Latency("measured", passed=True, said="faster: 2.00x", p50_ms=1.0, parent_p50_ms=2.0)
    monkeypatch.setattr(Judge, "_measured", lambda *_: faster)
    monkeypatch.setattr(Judge, "layer_ms", lambda *given: dict.fromkeys(given[2], 0.5))
    x = np.random.default_rng(1).normal(size=(300, WIDTH)).astype(np.float32)
    classes = check.onnx_runner(model)({"x": x})["y"].argmax(1)
    npz = model.parent / "d.npz"
    np.savez(npz, x=x, **({"y": classes} if labels else {}))
    split = {"calibration": 32, "evaluation": 200}
    data = DataConfig.model_validate({"npz": str(npz), "split": split})
    step = Quantize(method="static", bias_correction=False)
    return sensitivities(step, model, data=data, target="x86-avx2", by=by, task=Task())


def test_the_metric_ranks_layers_where_there_are_labels(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = found(model, monkeypatch, "metric")
    assert told["by"] == "accuracy"
    assert [r["node"] for r in told["layers"]] == ["fc1/MatMul", "fc0/MatMul"]
    assert told["layers"][0]["drop"] > max(told["layers"][1]["drop"], 0.01)
    by_noise = found(model, monkeypatch, "sqnr")
    assert by_noise["by"] == "sqnr"
    assert [r["drop"] for r in by_noise["layers"]] == [None, None]


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("metric", "no targets"),
        ("fisher", "needs gradients"),
        ("hessian", "cannot be ranked by 'hessian'"),
    ],
)
def test_what_cannot_rank_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, by: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        found(model, monkeypatch, by, labels=False)
    assert "sqnr" in caught.value.hint
