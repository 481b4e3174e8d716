"""Torch among the runtimes: found by name, told where it is missing, refused on a device."""

import builtins
import sys

import pytest
import torch
from torch import nn

from edgekit.device import registry
from edgekit.errors import UnavailableError, UsageError
from edgekit.graph.capture import capture
from edgekit.graph.store import save
from edgekit.pipeline import BenchRequest, bench_models
from edgekit.pipeline.runtimes import names, probe, runtime_class


def test_a_misspelt_runtime_is_told_the_nearest_torch_included():
    with pytest.raises(UsageError, match="'torch-compiled'") as raised:
        runtime_class("torch-compiled")
    assert "Did you mean 'torch-compile'?" in raised.value.hint
    assert all(name in raised.value.hint for name in names())


def test_without_torch_its_runtimes_say_what_to_install(monkeypatch):
    real = builtins.__import__

    def no_torch(name, *args, **kwargs):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_torch)
    monkeypatch.delitem(sys.modules, "edgekit.graph.runtime", raising=False)
    found = probe("torch")
    assert not found.ok
    assert 'pip install "edgekit[torch]"' in found.fix
    with pytest.raises(UnavailableError, match="needs torch"):
        runtime_class("torch-compile")


def test_a_captured_program_is_not_sent_to_a_device(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CONFIG", str(tmp_path / "config"))
    registry.add(registry.Device(name="board", url="local://", python=sys.executable))
    save(capture(nn.Linear(4, 2).eval(), (torch.zeros(2, 4),)), tmp_path / "net.pt2")
    with pytest.raises(UsageError, match=r"net\.pt2 runs on torch.*device board") as raised:
        bench_models(BenchRequest(models=(tmp_path / "net.pt2",)), devices=("board",))
    assert "edgekit export" in raised.value.hint
