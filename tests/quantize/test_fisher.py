"""The Fisher ranking against backpropagation written out in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekit.data import DataConfig
from edgekit.errors import UsageError
from edgekit.graph.capture import capture
from edgekit.graph.store import save
from edgekit.lower.export import export_onnx
from edgekit.metrics import Task
from edgekit.passes.quantize import Quantize
from edgekit.pipeline.sensitivity import sensitivities
from edgekit.quantize import fisher

SAMPLES, WIDTH, HIDDEN, CLASSES = 24, 16, 20, 5


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(WIDTH, HIDDEN), nn.BatchNorm1d(HIDDEN)
        self.last = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    made = Network().eval()
    rng = torch.Generator().manual_seed(1)
    made.norm.weight.data = torch.rand(HIDDEN, generator=rng) * 5 + 0.1
    made.norm.running_var = torch.rand(HIDDEN, generator=rng) + 0.5
    return made


def by_hand(net: Network, x: np.ndarray, y: np.ndarray, top: int) -> dict[str, float]:
    """½ Σ E[g²] Δw² of both layers, with gradients by the chain rule."""
    held = {k: v.detach().numpy().astype(np.float64) for k, v in net.state_dict().items()}
    gain = held["norm.weight"] / np.sqrt(held["norm.running_var"] + net.norm.eps)
    a = x @ held["first.weight"].T + held["first.bias"]
    z = (a - held["norm.running_mean"]) * gain + held["norm.bias"]
    h = np.maximum(z, 0)
    logits = h @ held["last.weight"].T + held["last.bias"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    wrong = p - np.eye(CLASSES)[y]
    back = (wrong @ held["last.weight"]) * (z > 0) * gain
    gradients = {
        "last": np.einsum("nc,nh->nch", wrong, h),
        "first": np.einsum("nh,nw->nhw", back, x),
    }
    found = {}
    for name, each in gradients.items():
        w = held[f"{name}.weight"]
        scale = np.abs(w).max(1, keepdims=True) / top
        lost = w - np.rint(w / scale) * scale
        found[name] = 0.5 * float((np.square(each).mean(0) * np.square(lost)).sum())
    return found


@pytest.mark.parametrize(("target", "top"), [("x86-vnni", 127), ("x86-avx2", 64)])
@pytest.mark.parametrize("labels", [True, False])
def test_layers_are_ranked_by_the_loss_that_rounding_adds(
    network: Network, tmp_path: Path, labels: bool, target: str, top: int
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, WIDTH)).astype(np.float32)
    with torch.no_grad():
        own = network(torch.from_numpy(x)).argmax(1).numpy()
    y = rng.integers(0, CLASSES, SAMPLES) if labels else own
    np.savez(tmp_path / "d.npz", x=x, **({"y": y} if labels else {}))
    save(capture(network, (torch.from_numpy(x[:2]),)), tmp_path / "m.pt2")
    config = {"npz": str(tmp_path / "d.npz"), "split": {"calibration": SAMPLES, "evaluation": 0}}
    data = DataConfig.model_validate(config)
    found = sensitivities(
        Quantize(), tmp_path / "m.pt2", data=data, target=target, by="fisher",
        task=Task(kind="classification"),
    )  # fmt: skip
    assert found["by"] == "fisher"
    right = by_hand(network, x.astype(np.float64), y, top)
    got = {row["layer"]: row["fisher"] for row in found["layers"]}
    assert set(got) == {"first", "last"}
    for name, value in right.items():
        assert got[name] == pytest.approx(value, rel=1e-4)
    assert list(got.values()) == sorted(got.values(), reverse=True)


def test_an_onnx_file_has_no_gradients(network: Network, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(SAMPLES, WIDTH)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    export_onnx(capture(network, (torch.from_numpy(x[:2]),)), tmp_path / "m.onnx")
    config = {"npz": str(tmp_path / "d.npz"), "split": {"calibration": SAMPLES, "evaluation": 0}}
    with pytest.raises(UsageError, match="needs gradients") as caught:
        sensitivities(
            Quantize(), tmp_path / "m.onnx", data=DataConfig.model_validate(config),
            target="x86-avx2", by="fisher",
        )  # fmt: skip
    assert ".pt2" in caught.value.hint
    assert caught.value.exit_code == 2


def test_layers_of_a_stacked_lstm_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    names = [f"rnn.weight_{part}_l{i}" for i in range(2) for part in ("ih", "hh")]
    weights = {n: rng.normal(size=(16, 4)) for n in names}
    squares = {n: rng.random((16, 4)) for n in names}
    layers = [("a", "rnn", "LSTM"), ("b", "rnn", "LSTM"), ("c", "other", "MatMul")]
    found = fisher.by_layer(weights, squares, layers)
    for node, i in (("a", 0), ("b", 1)):
        parts = [fisher.added_loss(weights[n], squares[n]) for n in names if f"_l{i}" in n]
        assert found[node] == pytest.approx(sum(parts))
    assert found["c"] is None


def test_rounding_is_what_the_engine_writes() -> None:
    """Symmetric, a scale for each output channel; a channel of zeros stays."""
    w = np.array([[1.0, -0.5, 0.26], [0.0, 0.0, 0.0], [-127.0, 3.4, 3.6]])
    np.testing.assert_allclose(
        fisher.rounded(w), [[1.0, -64 / 127, 33 / 127], [0, 0, 0], [-127, 3, 4]], atol=1e-12
    )
    np.testing.assert_allclose(fisher.rounded(w.T, axis=1), fisher.rounded(w).T)
