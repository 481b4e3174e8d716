"""A small real project for the command line's tests: a network, its weights, data and a recipe."""

from pathlib import Path

MODEL = """\
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(),
        nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3),
    )
"""

DATA = """\
import numpy as np


def load():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 8)) * 2
    targets = np.arange(300) % 3
    x = (centres[targets] + rng.normal(size=(300, 8))).astype(np.float32)
    return {"input": x}, targets
"""

RECIPE = """\
name: little
model: {python: "model.py:build"}
data: {python: "data.py:load", split: {calibration: 30, evaluation: 90}}
task: {kind: classification}
passes:
  - kind: prune
    sparsity: 0.5
    multiple: 1
  - kind: distill
    epochs: 2
branches:
  - name: x86
    target: x86-avx2
    bench: off
    passes:
      - kind: export-onnx
      - {kind: quantize, guard: false}  # a network this small is slower in int8
    gates: {size_mb: 1.0}
"""


def write(folder: Path, *, recipe: str = RECIPE, model: str = MODEL, data: str = DATA) -> Path:
    """Write the project into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(model)
    (folder / "data.py").write_text(data)
    (folder / "recipe.yaml").write_text(recipe)
    return folder
