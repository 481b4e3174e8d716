"""Captured programs in torch: the numbers of the module, its threads, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.bench import Subject
from edgekit.bench.runtimes.onnxruntime import OnnxRuntime
from edgekit.errors import UnavailableError, UsageError
from edgekit.graph.capture import capture
from edgekit.graph.runtime import Torch, TorchCompile, torch_opener
from edgekit.graph.store import save


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.conv(image)).mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def model(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.pt2"
    save(capture(net, {"image": torch.randn(2, 3, 8, 8)}), path)
    return path


def test_it_computes_what_the_module_does_in_eval_mode(net, model):
    feeds = {"image": np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)}
    with Torch(model, {}) as runtime:
        (found,) = runtime.infer(feeds).values()
    with torch.no_grad():
        expected = net(torch.from_numpy(feeds["image"])).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_threads_are_set_while_it_runs_recorded_and_put_back(model):
    before = torch.get_num_threads()
    feeds = {"image": np.zeros((1, 3, 8, 8), np.float32)}
    seen = []
    with Torch(model, {"threads": before + 1}) as runtime:
        run = runtime.bind(feeds)
        torch.set_num_threads(before + 2)  # as another subject would
        hook = torch.nn.modules.module.register_module_forward_pre_hook(
            lambda *_: seen.append(torch.get_num_threads())
        )
        try:
            run()
        finally:
            hook.remove()
        assert runtime.options["threads"] == before + 1
    assert seen
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_outputs_carry_no_gradient(model):
    with Torch(model, {}) as runtime:
        (output,) = runtime.bind({"image": np.zeros((1, 3, 8, 8), np.float32)})()
    assert output.is_inference()


def test_a_shape_that_the_graph_refuses_is_an_error_of_use(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, torch.ones(2, dtype=torch.long).cumsum(0) * 2]

    save(capture(Fixed(), {"x": torch.zeros(2, 5)}), tmp_path / "f.pt2")
    with Torch(tmp_path / "f.pt2", {}) as runtime:
        runtime.infer({"x": np.zeros((1, 5), np.float32)})
        with pytest.raises(UsageError, match=r"'x' of f\.pt2 has the shape"):
            runtime.bind({"x": np.zeros((1, 3), np.float32)})


def test_without_a_compiler_only_the_compiled_runtime_is_unavailable(model, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = TorchCompile.probe()
    assert not found.ok
    assert "'no-such-compiler'" in found.reason
    with pytest.raises(UnavailableError, match="no-such-compiler"):
        TorchCompile(model, {}).__enter__()
    assert Torch.probe().ok


def test_a_file_that_could_run_code_is_refused(tmp_path):
    torch.save({"a": 1}, tmp_path / "pickle.pt2")
    with pytest.raises(UsageError, match=r"pickle\.pt2"):
        Torch(tmp_path / "pickle.pt2", {}).__enter__()


def test_the_opener_makes_torch_and_leaves_the_rest_to_the_benchmark(model):
    opener = torch_opener()
    for name, kind in (("torch", Torch), ("torch-compile", TorchCompile)):
        assert type(opener(Subject("a", name, model, {}))) is kind
    assert isinstance(opener(Subject("a", "onnxruntime", Path("m.onnx"), {})), OnnxRuntime)
