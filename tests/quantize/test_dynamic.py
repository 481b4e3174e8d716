"""Dynamic quantization: which layers it takes, why it leaves the others, and what it computes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgekit.errors import UsageError
from edgekit.graph.onnx_model import read_onnx
from edgekit.lower import check
from edgekit.quantize import dynamic, methods
from edgekit.quantize.config import PtqConfig
from edgekit.quantize.graph import Graph


class Mixed(nn.Module):
    """A convolution, two LSTM layers, a GRU and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.lstm = nn.LSTM(8, 24, 2, batch_first=True)
        self.gru = nn.GRU(24, 12, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x, _ = self.lstm(torch.relu(self.conv(x)).transpose(1, 2))
        x, _ = self.gru(x)
        return self.head(x[:, -1])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgekit.graph.capture import capture
    from edgekit.lower.export import export_onnx

    torch.manual_seed(0)
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("mixed") / "model.onnx"
    export_onnx(capture(Mixed().eval(), (torch.randn(2, 6, 10),)), path)
    return path


def samples(count: int = 12) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(1, 6, 10)).astype(np.float32)} for _ in range(count)]


def test_recurrent_and_product_layers_go_to_int8_and_the_others_say_why(
    mixed: Path, schemes, tmp_path: Path
) -> None:
    path = tmp_path / "q.onnx"
    scheme = schemes["ort-x86-avx2"]
    report = dynamic.quantize_dynamic(mixed, path, scheme=scheme, calibration=samples())
    assert set(report.layers) == {"lstm/LSTM", "lstm/LSTM_2", "head/Gemm"}
    reasons = dict(report.excluded)
    assert "slower" in reasons["conv/Conv"]
    assert reasons["gru/GRU"] == "ONNX Runtime has no int8 GRU: it stays in float32"
    model = read_onnx(path)
    operators = [n.op_type for n in model.graph.node]
    assert operators.count("DynamicQuantizeLSTM") == 2
    assert operators.count("MatMulInteger") == 1
    assert {"Conv", "GRU"} <= set(operators)
    weights = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT8]
    assert max(int(np.abs(onnx.numpy_helper.to_array(w).astype(int)).max()) for w in weights) <= 64
    assert report.output_sqnr_db["output"] > 25
    assert report.size_bytes < report.float_size_bytes


def test_excluded_layers_stay(mixed: Path, schemes, tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    config = PtqConfig(exclude=("lstm/LSTM_2", "Gemm"))
    report = dynamic.quantize_dynamic(
        mixed, path, scheme=schemes["ort-x86-vnni"], calibration=samples(), config=config
    )
    assert report.layers == ("lstm/LSTM",)
    assert dict(report.excluded)["head/Gemm"] == "excluded by 'Gemm'"
    assert "LSTM" in {n.op_type for n in read_onnx(path).graph.node}


def test_folding_and_splitting_change_no_number(mixed: Path) -> None:
    model = read_onnx(mixed)
    _in_halves(model, "lstm/LSTM")
    before = check.onnx_runner(model.SerializeToString())
    graph = Graph(model)
    assert dynamic.layers(model)[0].name != "lstm/LSTM"
    assert dynamic.fold_weights(graph) == 1
    assert dynamic.split_gemms(graph, {"head/Gemm"}) == 1
    assert [n.name for n in dynamic.layers(model)] == ["lstm/LSTM", "lstm/LSTM_2", "head/Gemm"]
    after = check.onnx_runner(model.SerializeToString())
    for feed in samples(3):
        np.testing.assert_allclose(after(feed)["output"], before(feed)["output"], atol=1e-6, rtol=0)


def _in_halves(model: onnx.ModelProto, name: str) -> None:
    """Put the weight of a layer together from two halves, as torch's exporter does with gates."""
    node = next(n for n in model.graph.node if n.name == name)
    held = next(i for i in model.graph.initializer if i.name == node.input[1])
    halves = np.split(onnx.numpy_helper.to_array(held), 2, axis=1)
    names = [f"{held.name}.half{i}" for i in range(2)]
    model.graph.initializer.extend(map(onnx.numpy_helper.from_array, halves, names))
    joined = onnx.helper.make_node("Concat", names, [f"{held.name}.whole"], name="join", axis=1)
    node.input[1] = joined.output[0]
    model.graph.node.insert(0, joined)


def test_only_onnxruntime_quantizes_at_run_time(mixed: Path, schemes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ONNX Runtime's; the integer scheme is tensorrt"):
        dynamic.quantize_dynamic(
            mixed, tmp_path / "q.onnx", scheme=schemes["tensorrt"], calibration=samples()
        )


def test_auto_takes_what_has_the_weights(mixed: Path, residual: Path, schemes) -> None:
    scheme = schemes["ort-x86-avx2"]
    assert methods.suited(read_onnx(mixed), scheme) == ("dynamic", "static")
    assert methods.suited(read_onnx(residual), scheme) == ("static",)
    assert methods.suited(read_onnx(mixed), schemes["tensorrt"]) == ("static",)
