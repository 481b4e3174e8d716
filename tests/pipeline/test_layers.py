"""`--layers` speaks of the user's modules, whatever the runtime fused."""

import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgekit.bench import Figure, Subject
from edgekit.bench.runtimes.openvino import OpenVino
from edgekit.device import registry
from edgekit.errors import UsageError
from edgekit.graph.capture import capture
from edgekit.graph.store import save
from edgekit.lower.export import export_onnx
from edgekit.pipeline import BenchRequest, bench_models
from edgekit.pipeline.layers import check_layered, layer_rows, layer_times
from edgekit.pipeline.limits import Roofline

FEEDS = {"image": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.skip = nn.Conv2d(3, 8, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.conv2(self.relu(self.bn1(self.conv1(image))))
        x = torch.relu(x + self.skip(image))
        return torch.nn.functional.gelu(self.fc(x.flatten(2).transpose(1, 2))).mean(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(Block())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.stem(image)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    program = capture(Net().eval(), {"image": torch.randn(2, 3, 16, 16)})
    save(program, folder / "net.pt2")
    export_onnx(program, folder / "net.onnx")
    return folder


def test_an_exported_model_is_timed_in_module_paths_and_no_node_is_lost(files):
    rows = layer_times(files / "net.onnx", FEEDS, {"threads": 1})
    layers = {layer for row in rows for layer in row["layers"]}
    paths = {f"stem.0.{name}" for name in ("conv1", "relu", "conv2", "skip", "fc")}
    assert layers >= paths
    assert all(layer.startswith("stem.0") for layer in layers)
    fused = next(row for row in rows if "stem.0.conv1" in row["layers"])
    assert "stem.0.relu" in fused["layers"] or any(r["layer"] == "stem.0.relu" for r in rows)
    nodes = [node for row in rows for node in row["nodes"]]
    assert len(nodes) == len(set(nodes))  # each node's time is counted once
    computing = {n.name for n in onnx.load(files / "net.onnx").graph.node}
    assert computing >= set(nodes)
    assert {n for n in computing if n.endswith(("/Conv", "/Relu", "/Gelu", "/Add"))} <= set(nodes)
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)


def test_torchs_own_export_is_timed_in_the_paths_of_its_metadata(files, tmp_path):
    model = onnx.load(files / "net.onnx")
    model.producer_name = "pytorch"
    for number, node in enumerate(model.graph.node):
        path = node.name.rpartition("/")[0]
        node.name = f"node_{number}"
        entry = node.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.name_scopes", str(["", "stem", path, "aten"])
    onnx.save(model, tmp_path / "torch.onnx")
    rows = layer_times(tmp_path / "torch.onnx", FEEDS, {"threads": 1})
    assert "stem.0.conv2" in {layer for row in rows for layer in row["layers"]}


def test_a_plain_file_is_timed_in_the_names_of_its_nodes_or_outputs(files, tmp_path):
    model = onnx.load(files / "net.onnx")
    model.producer_name = "other"
    for node in model.graph.node:
        node.name = "" if node.op_type == "Gelu" else f"n/{node.name}"
    onnx.save(model, tmp_path / "plain.onnx")
    rows = layer_times(tmp_path / "plain.onnx", FEEDS, {"threads": 1})
    layers = {layer for row in rows for layer in row["layers"]}
    gelu = next(n for n in model.graph.node if n.op_type == "Gelu")
    assert "n/stem.0.conv1/Conv" in layers
    assert gelu.output[0] in layers


def test_eager_torch_is_timed_in_module_paths(files):
    rows = layer_times(files / "net.pt2", FEEDS, {"threads": 1}, runtime="torch")
    found = {(row["layer"], row["op"]) for row in rows}
    assert {("stem.0.conv1", "conv2d"), ("stem.0.bn1", "batch_norm"), ("stem.0.fc", "linear")} <= (
        found
    )
    assert all(row["ms"] > 0 for row in rows)


@pytest.mark.skipif(not OpenVino.probe().ok, reason=OpenVino.probe().reason)
def test_openvino_is_timed_in_module_paths(files):
    rows = layer_times(files / "net.onnx", FEEDS, {"threads": 1}, runtime="openvino")
    layers = {layer for row in rows for layer in row["layers"]}
    assert {"stem.0.conv1", "stem.0.conv2", "stem.0.skip", "stem.0.fc"} <= layers
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)


def test_a_runtime_without_layer_times_is_refused_with_those_that_have_them():
    with pytest.raises(UsageError, match="torch-compile gives no layer times") as raised:
        check_layered("torch-compile", "net.pt2")
    assert "onnxruntime" in raised.value.hint


def test_many_layers_in_one_kernel_are_named_in_short_and_listed_in_full():
    nodes = [f"n{i}" for i in range(9)]
    kernel = {"name": "k", "op": "Attention", "ms": 1.0, "share": 1.0, "nodes": nodes, "after": []}
    (row,) = layer_rows([kernel], None)
    assert row["layer"] == "n0 + … + n8 (9 layers)"
    assert row["layers"] == nodes
    moved = {**kernel, "nodes": [], "after": ["n3"]}
    assert layer_rows([moved], None)[0]["layer"] == "after n3"


def test_layers_and_limits_of_a_device_come_back_in_the_users_names(files, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CONFIG", str(tmp_path / "config"))
    registry.add(registry.Device(name="board", url="local://", python=sys.executable))
    np.savez(tmp_path / "in.npz", **FEEDS)
    request = BenchRequest(
        models=(files / "net.onnx",),
        inputs=tmp_path / "in.npz",
        layers=True,
        roofline=True,
        quick=True,
    )
    (outcome,) = bench_models(request, devices=("board",))
    rows = outcome.extras["layers"]["net.onnx"]
    assert "stem.0.conv1" in {layer for row in rows for layer in row["layers"]}
    roofline = outcome.result.subject("net.onnx").roofline
    assert roofline["macs"] == {"float32": sum(row["macs"] for row in rows)}
    assert roofline["share"]["value"] > 0
    assert roofline["bound"] in {"compute", "memory"}
    assert "peaks" not in outcome.extras


def test_what_no_limits_are_known_of_says_why(files):
    subject = Subject("p", "torch", files / "net.pt2", FEEDS)
    roofline = Roofline([subject])
    assert roofline.precisions() == {}
    entry = roofline.entry("p", Figure(1.0, None, None, "ms", "measured"), None)
    assert entry["share"]["label"] == "unavailable"
    assert ".pt2" in entry["share"]["note"]
