"""Equalization: the float network computes what it did, and the ranges agree."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekit.graph.onnx_model import read_onnx
from edgekit.lower import check
from edgekit.quantize import equalize
from edgekit.quantize.graph import Graph


class Chain(nn.Module):
    """Convolution, depthwise, convolution: a triple; then a pair with a dead channel."""

    def __init__(self, act: type[nn.Module]) -> None:
        super().__init__()
        self.a, self.d = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
        self.b, self.c = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.act = act()
        with torch.no_grad():
            self.a.weight.mul_(torch.logspace(-2, 2, 8).reshape(8, 1, 1, 1))
            self.a.bias.mul_(torch.logspace(-2, 2, 8))
            self.d.weight.mul_(torch.logspace(1, -1, 8).reshape(8, 1, 1, 1))
            self.b.weight.mul_(torch.logspace(2, -2, 8).reshape(1, 8, 1, 1))
            self.c.weight[:, 3] = 0

    def forward(self, image):
        return self.c(self.act(self.b(self.act(self.d(self.act(self.a(image)))))))


def exported(act: type[nn.Module], path: Path):
    from edgekit.graph.capture import capture
    from edgekit.lower.export import export_onnx

    torch.manual_seed(0)
    torch.set_num_threads(1)
    export_onnx(capture(Chain(act).eval(), (torch.randn(2, 1, 8, 8),)), path)
    return read_onnx(path)


def feeds(scale: float = 1.0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"image": (rng.normal(size=(2, 1, 8, 8)) * scale).astype(np.float32)} for _ in range(3)]


def test_outputs_stay_and_ranges_agree(tmp_path: Path) -> None:
    model = exported(nn.ReLU, tmp_path / "m.onnx")
    made, done = equalize.equalize(model)
    assert done == {"layer pairs equalized": 3}
    before, after = (check.onnx_runner(m.SerializeToString()) for m in (model, made))
    for feed in feeds():
        right = before(feed)["output"]
        np.testing.assert_allclose(
            after(feed)["output"], right, atol=1e-5 * np.abs(right).max(), rtol=0
        )
    graph = Graph(made)
    nodes = {n.name: n for n in graph.nodes}
    for pair in equalize.pairs(graph):
        r1, r2 = equalize._ranges(graph, nodes[pair.first], nodes[pair.second])
        alive = (r1 > 0) & (r2 > 0)
        assert alive.sum() >= 7
        np.testing.assert_allclose(r1[alive], r2[alive], rtol=5e-3)
    assert read_onnx(tmp_path / "m.onnx") == model  # the source is not touched


def test_relu6_goes_only_where_it_changes_nothing(tmp_path: Path) -> None:
    model = exported(nn.ReLU6, tmp_path / "m.onnx")
    assert any(n.op_type == "Clip" for n in model.graph.node)
    _, quiet = equalize.equalize(model, feeds(0.01))
    assert quiet["ReLU6 replaced"] == 3
    made, loud = equalize.equalize(model, feeds(100.0))
    assert loud == {}
    assert made.graph == model.graph


def test_a_reader_more_or_a_shared_weight_is_left_alone(residual: Path) -> None:
    """Both convolutions behind the stem read it, and a skip: nothing there can be scaled."""
    found = equalize.pairs(Graph(read_onnx(residual)))
    assert "stem/Conv" not in {p.first for p in found}
