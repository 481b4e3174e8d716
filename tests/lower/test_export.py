"""Exported files are valid, small, named after the user's layers, and compute the same numbers."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from edgekit.errors import PassError, UsageError
from edgekit.graph.capture import capture
from edgekit.graph.onnx_model import read_onnx, specs
from edgekit.graph.program import Program
from edgekit.lower.export import export_onnx, feeds_of

ATOL, RTOL = 1e-5, 1e-4


def operators(path: Path) -> list[str]:
    return [n.op_type for n in onnx.load(path).graph.node]


def run(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)


def test_a_residual_network(residual: Program, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    report = export_onnx(residual, path, atol=ATOL, rtol=RTOL)
    model = read_onnx(path)
    onnx.checker.check_model(model, full_check=True)
    assert specs(model) == (residual.inputs, residual.outputs)
    assert "BatchNormalization" not in operators(path)
    assert "ReduceMean" not in operators(path)
    assert "GlobalAveragePool" in operators(path)
    assert report.names["stem/Conv"] == "stem"
    assert {"a/Conv", "b/Conv", "short/Conv", "head/Gemm"} <= {n.name for n in model.graph.node}
    assert report.checked_batches == (1, 2, 5)
    assert report.max_abs_error < ATOL
    image = np.random.default_rng(3).standard_normal((7, 1, 12, 12)).astype(np.float32)
    (got,) = run(path, {"image": image})
    with torch.inference_mode():
        (right,) = residual.module()(torch.from_numpy(image))
    np.testing.assert_allclose(got, right.numpy(), atol=ATOL, rtol=RTOL)


def test_the_file_tells_nothing_of_the_machine(residual: Program, residual_onnx: Path) -> None:
    data = residual_onnx.read_bytes()
    for trace in (b"stack_trace", b".py", b"pkg.torch", b"torch.ops", str(Path.cwd()).encode()):
        assert trace not in data
    weights = sum(v.numel() * 4 for k, v in residual.exported.state_dict.items() if "num_" not in k)
    assert len(data) < weights + 4000


@pytest.mark.parametrize("name", ["relu", "stem.weight"])
def test_an_output_may_be_called_as_an_inner_value(
    residual: Program, tmp_path: Path, name: str
) -> None:
    program = replace(residual, outputs=(residual.outputs[0].model_copy(update={"name": name}),))
    path = tmp_path / "model.onnx"
    export_onnx(program, path, atol=ATOL, rtol=RTOL)
    model = read_onnx(path)
    onnx.checker.check_model(model, full_check=True)
    assert [o.name for o in model.graph.output] == [name]


def test_an_input_and_an_output_may_not_share_a_name(residual: Program, tmp_path: Path) -> None:
    program = replace(residual, outputs=(residual.outputs[0].model_copy(update={"name": "image"}),))
    with pytest.raises(PassError, match="share a name"):
        export_onnx(program, tmp_path / "model.onnx")


class Awkward(nn.Module):
    """Outputs that are inputs, the same tensor twice, integers, two inputs, grouped layers."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()
        )
        self.wise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 4, 2, 2, groups=2), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))

    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        y = self.up(F.max_pool2d(self.wise(self.deep(x)), 2)) * mask
        scores = self.head(y.mean((2, 3)))
        return {"same": x, "y": y, "again": y, "scores": scores, "best": scores.argmax(1)}


def test_awkward_outputs_and_dynamic_sizes(
    lively: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    program = capture(
        lively(Awkward()),
        (torch.randn(2, 3, 8, 8), torch.randint(0, 2, (2, 1, 8, 8))),
        dynamic={"x": ["batch", 3, "4*h", "4*w"], "mask": ["batch", 1, "4*h", "4*w"]},
    )
    path = tmp_path / "model.onnx"
    report = export_onnx(program, path, atol=ATOL, rtol=RTOL)
    assert specs(read_onnx(path)) == (program.inputs, program.outputs)
    assert "BatchNormalization" not in operators(path)
    assert len({size.split("]")[0] for size in report.checked}) == 3
    assert {f["x"].shape for f in feeds_of(program, (1, 2))} == {(1, 3, 8, 8), (2, 3, 12, 12)}


class Sequence(nn.Module):
    """Token ids through an embedding, attention, an LSTM and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.encode = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=True)
        self.lstm = nn.LSTM(16, 8, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 4, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        x, _ = self.lstm(self.encode(self.embed(tokens)))
        return self.gru(x)[0][:, -1]


def test_attention_recurrence_and_integer_inputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = capture(Sequence().eval(), (torch.randint(0, 20, (2, 5)),))
    path = tmp_path / "model.onnx"
    report = export_onnx(program, path, atol=ATOL, rtol=RTOL)
    assert {"LSTM", "GRU", "LayerNormalization"} <= set(operators(path))
    assert report.names["lstm/LSTM"] == "lstm"
    assert "embed" in report.names.values()


class BiasedAttention(nn.Module):
    """Attention with a trained table of biases, read by relative position as in Swin or BEiT."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.table = nn.Parameter(torch.randn(9, 4))
        self.register_buffer("places", torch.arange(25).reshape(5, 5) % 9)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], 5, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.places.reshape(-1)].reshape(5, 5, 4).permute(2, 0, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.contiguous().unsqueeze(0))
        return y.transpose(1, 2).reshape(x.shape[0], 5, 16)


def test_attention_with_a_trained_bias(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = capture(BiasedAttention().eval(), (torch.randn(2, 5, 16),))
    report = export_onnx(program, tmp_path / "model.onnx", atol=ATOL, rtol=RTOL)
    assert report.checked_batches == (1, 2, 5)


def test_a_static_batch_is_checked_on_its_own_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = capture(nn.Linear(3, 2).eval(), (torch.randn(4, 3),), dynamic={})
    report = export_onnx(program, tmp_path / "model.onnx", atol=ATOL, rtol=RTOL)
    assert report.checked_batches == (4,)


def test_a_difference_is_an_error_that_names_the_output(residual: Program, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(PassError, match=r"'output' differs by .* allowed"):
        export_onnx(residual, path, atol=1e-12, rtol=1e-12)
    assert not path.exists()


def test_an_unknown_opset_is_refused(residual: Program, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Opset 9"):
        export_onnx(residual, tmp_path / "model.onnx", opset=9)


def test_an_operator_without_translation_is_named(tmp_path: Path) -> None:
    @torch.library.custom_op("edgekit_test::twice", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return x * 2

    @twice.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    class Custom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return twice(x)

    program = capture(Custom(), (torch.randn(2, 3),))
    with pytest.raises(PassError, match="edgekit_test"):
        export_onnx(program, tmp_path / "model.onnx")


def network() -> nn.Module:
    parts = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(1), nn.Linear(144, 5))
    return nn.Sequential(*parts).eval()


SCRIPT = """
import sys, torch, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from edgekit.graph.capture import capture
from edgekit.lower.export import export_onnx
torch.manual_seed(0)
parts = (
    torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.GELU(), torch.nn.Flatten(1),
    torch.nn.Linear(144, 5),
)
net = torch.nn.Sequential(*parts).eval()
export_onnx(capture(net, (torch.randn(2, 1, 8, 8),)), Path(sys.argv[1]))
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "1.onnx")],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
        timeout=300,
    )
    torch.manual_seed(0)
    export_onnx(capture(network(), (torch.randn(2, 1, 8, 8),)), tmp_path / "2.onnx")
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()
