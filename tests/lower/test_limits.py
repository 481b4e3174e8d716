"""What TensorRT-RTX's builder does not take: told before it is asked, and asked again here."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import target as targets
from edgekit.bench.engine import library
from edgekit.errors import PassError
from edgekit.lower.limits import TRIED, known_here
from edgekit.lower.preflight import preflight
from edgekit.lower.tensorrt import build_engine

AVAILABLE, VERSION, _ = library.available("tensorrt-rtx")
needs_builder = pytest.mark.skipif(
    not AVAILABLE or not known_here(), reason="tensorrt-rtx 1.7 is not installed"
)
TURING = targets.load("rtx-turing")
RTX = targets.load("rtx")
KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
KINDS["bfloat16"] = TensorProto.BFLOAT16
SIZES = {
    "Gemm": ([4, 16], [16, 8]),
    "MatMul": ([2, 5, 16], [16, 8]),
    "Einsum": ([2, 5, 16], [16, 8]),
    "LSTM": ([5, 1, 16], [1, 32, 16]),
    "GRU": ([5, 1, 16], [1, 24, 16]),
    "RNN": ([5, 1, 16], [1, 8, 16]),
    "Conv": ([1, 8, 12, 12], [16, 8, 3, 3]),
    "ConvTranspose": ([1, 8, 12, 12], [8, 16, 2, 2]),
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """One operator with random weights, between float32 inputs and outputs."""

    def make(operator: str, kind: str) -> Path:
        shape, weight = SIZES[operator]
        random, half = np.random.default_rng(0), KINDS[kind]
        weights = {"w": weight}
        attributes: dict[str, object] = {}
        if operator in {"LSTM", "GRU", "RNN"}:
            weights["r"], attributes = [*weight[:2], 8], {"hidden_size": 8}
        if operator == "Einsum":
            attributes = {"equation": "bij,jk->bik"}
        constants = [
            helper.make_tensor(n, half, s, random.standard_normal(int(np.prod(s))).tolist())
            for n, s in weights.items()
        ]
        nodes = [
            helper.make_node("Cast", ["x"], ["a"], name="in", to=half),
            helper.make_node(operator, ["a", *weights], ["b"], name="net/it", **attributes),
            helper.make_node("Cast", ["b"], ["y"], name="out", to=TensorProto.FLOAT),
        ]
        return save(tmp_path, nodes, {"x": shape}, constants, 22 if kind == "bfloat16" else 20)

    return make


def save(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int]],
    constants: list[onnx.TensorProto],
    opset: int,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    path = folder / "model.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


@pytest.mark.parametrize(
    ("operator", "kind", "target", "said"),
    [
        *((o, "float32", TURING, "multiplies no float32 matrices") for o in SIZES if "C" not in o),
        *((o, "float16", TURING, "") for o in SIZES),
        ("Conv", "float32", TURING, ""),
        ("ConvTranspose", "float32", TURING, ""),
        ("Conv", "bfloat16", TURING, "has no bfloat16"),
        ("MatMul", "bfloat16", TURING, "has no bfloat16"),
        ("MatMul", "float32", RTX, ""),
        ("Conv", "bfloat16", RTX, ""),
        ("ConvTranspose", "bfloat16", RTX, "no bfloat16 ConvTranspose"),
    ],
)
def test_preflight_and_the_builder_say_the_same(
    write: Write, tmp_path: Path, operator: str, kind: str, target: targets.Target, said: str
) -> None:
    path = write(operator, kind)
    found = preflight(path, target)
    named = {f.node: f.message for f in found.findings if f.rule == "builder"}
    assert ("net/it" in named) == bool(said), named
    assert said in named.get("net/it", "")
    if not known_here():
        return
    assert found.fit == (not said)
    if not AVAILABLE:
        return
    one = target.compute_capabilities[:1]
    if said:
        with pytest.raises(PassError, match="could not build"):
            build_engine(path, tmp_path / "e", compute_capabilities=one)
    else:
        build_engine(path, tmp_path / "e", compute_capabilities=one)


def attention(folder: Path, *inputs: str) -> Path:
    node = helper.make_node("Attention", inputs, ["y"], name="block/attention")
    return save(folder, [node], {n: [1, 2, 8, 16] for n in sorted(set(inputs))}, [], 23)


@needs_builder
def test_what_the_builder_dies_of_is_refused_before(tmp_path: Path) -> None:
    path = attention(tmp_path, "x", "x", "x")
    with pytest.raises(PassError, match=r"block/attention.*one tensor") as error:
        build_engine(path, tmp_path / "e", compute_capabilities=("8.6",))
    assert "--opset 22" in error.value.hint
    assert [f.severity for f in preflight(path, RTX).findings if f.rule == "builder"] == ["error"]
    code = (
        "import sys\nfrom pathlib import Path\nfrom edgekit.bench.engine.build import Plan, build\n"
        "build(Path(sys.argv[1]), Plan('tensorrt-rtx', compute_capabilities=('8.6',)))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=False, capture_output=True)
    assert done.returncode < 0, "it no longer dies: see `limits.py`"


@needs_builder
def test_attention_in_float32_has_no_kernel(tmp_path: Path) -> None:
    path = attention(tmp_path, "q", "k", "v")
    (found,) = (f for f in preflight(path, RTX).findings if f.rule == "builder")
    assert "no float32 kernel for Attention" in found.message
    with pytest.raises(PassError, match="could not build"):
        build_engine(path, tmp_path / "e", compute_capabilities=("8.6",))


@needs_builder
def test_suppression_has_no_kernel(tmp_path: Path) -> None:
    most = numpy_helper.from_array(np.array([5], np.int64), "most")
    nodes = [
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["n"], name="nms"),
        helper.make_node("Cast", ["n"], ["y"], name="out", to=TensorProto.FLOAT),
    ]
    path = save(tmp_path, nodes, {"boxes": [1, 9, 4], "scores": [1, 2, 9]}, [most], 20)
    (found,) = (f for f in preflight(path, RTX).findings if f.rule == "builder")
    assert (found.node, found.severity) == ("nms", "error")
    with pytest.raises(PassError, match="could not build"):
        build_engine(path, tmp_path / "e", compute_capabilities=("8.6",))


def test_a_newer_builder_makes_it_a_warning(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = ".".join(map(str, (TRIED[0], TRIED[1] + 1, 0)))
    monkeypatch.setattr(library, "available", lambda _: (True, newer, ""))
    monkeypatch.setattr(
        "edgekit.lower.preflight._parsed", lambda *_: library.Parsed(None, None, (), ())
    )
    found = preflight(write("MatMul", "float32"), TURING)
    assert found.fit
    assert [f.severity for f in found.findings] == ["warning"]


def test_jetsons_are_another_builders(write: Write) -> None:
    found = preflight(write("MatMul", "float32"), targets.load("jetson-orin"))
    assert found.fit
