"""Architectures that people use: pruned by half, stored, loaded elsewhere, trained, exported."""

import json
import os
import subprocess
import sys

import architectures
import onnxruntime as ort
import prune_nets as nets
import pytest
import torch

from edgekit.graph import store
from edgekit.lower.export import export_onnx
from edgekit.prune.config import PruneConfig
from edgekit.prune.prune import prune

HALF = PruneConfig(sparsity=0.5, minimum_channels=1)
OTHERS = ("unet", "autoencoder", "generator", "tagger")
NAMES = (*architectures.ARCHITECTURES, *OTHERS)
TO_ONNX = ("yolo", "conformer", "tcn", "bert", "vit", "gru", "llama", *OTHERS)

# Share of the parameters that operators may freeze: what an output or an input touches, and no
# more.
FROZEN = 0.03

# Runs without this file and the networks' sources: loads each program, answers, trains one step.
ELSEWHERE = """
import json, sys
from pathlib import Path
import torch
from edgekit.graph import modes, store
found = {}
for path in sorted(Path(sys.argv[1]).glob("*.pt2")):
    program = store.load(path)
    module, inputs = program.module(), torch.load(path.with_suffix(".inputs"), weights_only=True)
    with torch.no_grad():
        torch.save(list(module(*inputs)), path.with_suffix(".outputs"))
    modes.set_training(module, training=True)
    optimiser = torch.optim.SGD(module.parameters(), lr=1e-3)
    torch.manual_seed(0)
    loss = sum(out.square().mean() for out in module(*inputs))
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimiser.step()
    finite = all(bool(torch.isfinite(p).all()) for p in module.parameters())
    found[path.stem] = [float(norm), finite]
assert "architectures" not in sys.modules and "prune_nets" not in sys.modules
print(json.dumps(found))
"""


def _program(name):
    return nets.program(name) if name in OTHERS else architectures.program(name)


@pytest.fixture(scope="module")
def pruned():
    return {name: (_program(name), *prune(_program(name), HALF, seed=0)) for name in NAMES}


@pytest.fixture(scope="module")
def elsewhere(pruned, tmp_path_factory):
    """What another process makes of the stored programs."""
    folder = tmp_path_factory.mktemp("stored")
    for name, (_, small, _) in pruned.items():
        store.save(small, folder / f"{name}.pt2")
        torch.save(list(small.example_inputs(batch=3, seed=5)), folder / f"{name}.inputs")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_half_of_every_width_goes(name, pruned):
    program, small, report = pruned[name]
    assert report.zero_mask_dtype == "float64"
    assert report.zero_mask_max_error <= 1e-12
    assert all(g.after * 2 == g.before for g in report.groups)
    assert report.frozen_parameters <= FROZEN * report.parameters_before
    assert report.parameters_after < 0.45 * report.parameters_before
    assert report.macs_after < 0.45 * report.macs_before
    assert (small.inputs, small.outputs) == (program.inputs, program.outputs)
    assert small.ties == program.ties
    assert set(small.name_map().values()) == set(program.name_map().values())


@pytest.mark.parametrize("name", NAMES)
def test_the_result_lives_without_its_source(name, pruned, elsewhere):
    folder, found = elsewhere
    norm, finite = found[name]
    assert norm > 0
    assert finite
    _, small, _ = pruned[name]
    inputs = small.example_inputs(batch=3, seed=5)
    with torch.no_grad():
        expected = small.module()(*inputs)
    outputs = torch.load(folder / f"{name}.outputs", weights_only=True)
    for a, b in zip(outputs, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TO_ONNX)
def test_onnx_runtime_computes_the_same(name, pruned, tmp_path):
    _, small, _ = pruned[name]
    path = tmp_path / "model.onnx"
    export_onnx(small, path, batches=(2,), atol=1e-5, rtol=1e-4)
    inputs = small.example_inputs(batch=5, seed=9)
    feeds = {s.name: t.numpy() for s, t in zip(small.inputs, inputs, strict=True)}
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = small.module()(*inputs)
    names = [s.name for s in small.outputs]
    for a, b in zip(session.run(names, feeds), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b, rtol=1e-4, atol=2e-5)
