"""AdaRound: never worse than rounding to nearest, and near the best of every combination."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.graph.onnx_model import read_onnx
from edgekit.quantize import adaround
from edgekit.quantize.config import PtqConfig
from edgekit.quantize.graph import Graph
from edgekit.quantize.ptq import quantize_onnx


def problem(seed: int, n: int = 8) -> tuple[np.ndarray, list[np.ndarray], adaround.Rounding]:
    """A layer of n weights whose inputs go together, so that rounding errors can cancel."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(n, 1)).astype(np.float32)
    common = rng.normal(size=(64, 1))
    x = (common + 0.05 * rng.normal(size=(64, n))).astype(np.float32)
    scale = np.full((1, 1), np.abs(weight).max() / 3, np.float32)  # coarse: 3 levels a side
    return weight, [x], adaround.Rounding(scale, -3, 3)


def squared(x: np.ndarray, weight: np.ndarray, q: np.ndarray, scale: np.ndarray) -> float:
    return float(np.square(x @ weight - x @ (q * scale)).sum())


def test_it_closes_most_of_the_gap_between_nearest_and_all_combinations() -> None:
    """Each problem has 256 roundings. It is a relaxation, so that it misses the best of some."""
    torch.manual_seed(0)
    totals = np.zeros(3)
    for seed in range(4):
        weight, inputs, rounding = problem(seed)
        outputs = [inputs[0] @ weight]
        made = adaround.choose(weight, rounding, inputs, outputs, torch.matmul, seed=0)
        floor = np.floor(weight / rounding.scale)
        assert np.isin(made - floor, (0, 1)).all()
        ups = (np.reshape(up, weight.shape) for up in product((0, 1), repeat=weight.size))
        every = (np.clip(floor + up, rounding.low, rounding.high) for up in ups)
        best = min(squared(inputs[0], weight, q, rounding.scale) for q in every)
        found = squared(inputs[0], weight, made, rounding.scale)
        nearest = squared(inputs[0], weight, rounding.nearest(weight), rounding.scale)
        assert best * (1 - 1e-5) <= found <= nearest * (1 + 1e-5)
        totals += best, found, nearest
    assert totals[2] - totals[1] > 0.5 * (totals[2] - totals[0])


def test_a_network_rounds_its_weights_within_one_step(
    residual: Path, batches, schemes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"seed": 0, "steps": 20, "advance": lambda _: None}
    monkeypatch.setattr(adaround.adaround, "__kwdefaults__", quick)
    found = {}
    for on in (False, True):
        path = tmp_path / f"{on}.onnx"
        config = PtqConfig(adaround=on, bias_samples=8)
        report = quantize_onnx(
            residual, path, scheme=schemes["tensorrt"], calibration=batches(1), config=config
        )
        graph = Graph(read_onnx(path))
        weights = (graph.weight(n) for n in graph.nodes if n.op_type in {"Conv", "Gemm"})
        found[on] = [graph.array(w[0]).astype(int) for w in weights if w]
    assert report.post_passes["layers rounded by their output"] > 0
    difference = [np.abs(a - b).max() for a, b in zip(found[False], found[True], strict=True)]
    assert max(difference) == 1
