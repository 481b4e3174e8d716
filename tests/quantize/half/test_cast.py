"""Half precision in the graph: what overflows is found and kept, and casts stand at boundaries."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgekit.bench.engine import library
from edgekit.errors import PassError, UsageError
from edgekit.graph.capture import capture
from edgekit.graph.onnx_model import read_onnx, weight_bytes
from edgekit.lower import check
from edgekit.lower.export import export_onnx
from edgekit.lower.tensorrt import build_engine
from edgekit.quantize.half.cast import HalfReport, cast_onnx
from edgekit.quantize.half.config import HalfConfig

needs_builder = pytest.mark.skipif(
    not library.available("tensorrt-rtx")[0], reason="tensorrt-rtx is not installed"
)


class Encoder(nn.Module):
    """A convolution, attention with layer norm, and a head; `loud` plants an overflow."""

    def __init__(self, loud: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)
        with torch.no_grad():
            self.up.weight *= loud
            self.down.weight /= loud

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + torch.softmax(q @ k.transpose(1, 2) / 4.0, -1) @ v
        x = x + self.down(F.relu(self.up(x)))
        return self.head(x.mean(1))


def encoder(folder: Path, loud: float = 1.0) -> Path:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    path = folder / "float32.onnx"
    export_onnx(capture(Encoder(loud).eval(), (torch.randn(2, 3, 16, 16),)), path, atol=1e-3)
    return path


def images(count: int = 4) -> Iterator[dict[str, np.ndarray]]:
    generator = np.random.default_rng(1)
    for _ in range(count):
        yield {"image": generator.standard_normal((1, 3, 16, 16)).astype(np.float32)}


def cast(source: Path, result: Path, **fields: object) -> HalfReport:
    config = HalfConfig.model_validate({"precision": "float16", **fields})
    return cast_onnx(source, result, calibration=images(), config=config)


def reasons(report: HalfReport) -> dict[str, str]:
    return {k.node: k.reason for k in report.kept}


def dtypes(path: Path) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("loud"), loud=1e6)


def test_only_what_is_sensitive_stays_float32(plain: Path, tmp_path: Path) -> None:
    report = cast(plain, tmp_path / "half.onnx")
    assert reasons(report) == {"norm/LayerNormalization": "sensitive", "Softmax": "sensitive"}
    kinds = dtypes(tmp_path / "half.onnx")
    made = {n.output[0]: n for n in onnx.load(tmp_path / "half.onnx").graph.node}
    products = [name for name, node in made.items() if node.op_type in {"MatMul", "Gemm", "Conv"}]
    assert len(products) >= 6
    assert {kinds[name] for name in products} == {TensorProto.FLOAT16}
    # In and out, before and after the two: six casts, and none between half nodes.
    assert report.casts == sum(n.op_type == "Cast" for n in made.values()) == 6
    assert report.size_bytes < 0.75 * report.size_bytes_before
    assert min(report.sqnr_db.values()) > 45


def test_the_file_computes_what_the_float32_one_does(plain: Path, tmp_path: Path) -> None:
    cast(plain, tmp_path / "half.onnx")
    exact, half = check.onnx_runner(plain), check.onnx_runner(tmp_path / "half.onnx")
    difference = check.compare(exact, half, list(images()), atol=5e-3, rtol=0)
    assert difference.max_abs > 0


def test_a_planted_overflow_is_found_and_kept(loud: Path, tmp_path: Path) -> None:
    report = cast(loud, tmp_path / "half.onnx")
    overflowing = {n for n, why in reasons(report).items() if why == "overflow"}
    assert any(n.startswith("up/") for n in overflowing)
    assert all(k.detail for k in report.kept)
    assert not any(n.startswith(("stem", "qkv", "head")) for n in reasons(report))
    exact, half = check.onnx_runner(loud), check.onnx_runner(tmp_path / "half.onnx")
    check.compare(exact, half, list(images()), atol=5e-3, rtol=0)


def test_without_the_guard_it_would_overflow(loud: Path) -> None:
    from edgekit.graph.onnx_model import read_onnx
    from edgekit.quantize.half.decide import halves
    from edgekit.quantize.half.graph import HalfGraph
    from edgekit.quantize.half.write import write_half

    graph = HalfGraph(read_onnx(loud), "float16")
    blind = write_half(graph, halves(graph, {}))
    out = check.onnx_runner(blind.SerializeToString())(next(images()))
    assert not np.isfinite(next(iter(out.values()))).all()


def test_bfloat16_has_the_range(loud: Path, tmp_path: Path) -> None:
    report = cast(loud, tmp_path / "half.onnx", precision="bfloat16", min_sqnr_db=20)
    assert set(report.kept_by_reason) == {"sensitive"}, report.kept
    assert report.opset == 22  # ONNX gives Conv a bfloat16 form since then
    assert "stem/Conv" in {n.name for n in onnx.load(tmp_path / "half.onnx").graph.node}
    assert TensorProto.BFLOAT16 in dtypes(tmp_path / "half.onnx").values()


def test_what_is_asked_for_stays_float32(plain: Path, tmp_path: Path) -> None:
    report = cast(plain, tmp_path / "half.onnx", exclude=["head"])
    assert [n for n, why in reasons(report).items() if why == "asked"] == ["head/Gemm"]


def test_noise_that_cannot_be_had_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(PassError, match=r"No node can compute|asked for"):
        cast(plain, tmp_path / "half.onnx", min_sqnr_db=400)
    assert not (tmp_path / "half.onnx").exists()


def test_noise_is_followed_to_where_it_begins(tmp_path: Path) -> None:
    """Adding 1000 and taking it away loses ten bits, although nothing overflows."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Add", ["a", "k"], ["b"], name="raise"),
        helper.make_node("Sub", ["b", "k"], ["c"], name="lower"),
        helper.make_node("MatMul", ["c", "w"], ["y"], name="last"),
    ]
    data = model_of(nodes, [("y", [3, 8])], {"w": WEIGHT, "k": np.float32(1000)}, [("x", [3, 8])])
    feeds = [{"x": np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)}]
    careless, _ = cast_bytes(data, tmp_path, feeds, min_sqnr_db=0)
    assert careless.sqnr_db["y"] < 35
    report, path = cast_bytes(data, tmp_path, feeds, min_sqnr_db=40)
    assert reasons(report) == {"raise": "precision", "lower": "precision"}
    assert report.sqnr_db["y"] > 55
    check.compare(check.onnx_runner(data), check.onnx_runner(path), feeds, atol=5e-3, rtol=0)


@needs_builder
@pytest.mark.parametrize(
    ("which", "precision", "capabilities"),
    [
        ("plain", "float16", ("7.5",)),  # Turing multiplies no float32 matrices
        ("plain", "float16", ("8.6", "8.9", "12.0")),
        ("loud", "float16", ("8.6", "8.9", "12.0")),
        ("plain", "bfloat16", ("8.6", "8.9", "12.0")),
    ],
)
def test_tensorrt_builds_it_without_a_warning(
    which: str,
    precision: str,
    capabilities: tuple[str, ...],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    source = request.getfixturevalue(which)
    cast(source, tmp_path / "half.onnx", precision=precision, min_sqnr_db=20)
    report = build_engine(
        tmp_path / "half.onnx", tmp_path / "engine", compute_capabilities=capabilities
    )
    assert report.parser_warnings == report.builder_warnings == ()


def model_of(nodes: list, outputs: list, constants: dict, inputs: list, opset: int = 20) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
    ).SerializeToString()


def cast_bytes(data: bytes, folder: Path, feeds: list, **fields: object) -> tuple[HalfReport, Path]:
    (folder / "a.onnx").write_bytes(data)
    config = HalfConfig.model_validate({"precision": "float16", **fields})
    report = cast_onnx(folder / "a.onnx", folder / "b.onnx", calibration=feeds, config=config)
    return report, folder / "b.onnx"


WEIGHT = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)


def test_scales_of_quantized_tensors_and_of_resize_stay_float32(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        helper.make_node("MatMul", ["d", "w"], ["m"], name="int8"),
        helper.make_node("MatMul", ["m", "w"], ["n"], name="float"),
        helper.make_node("Resize", ["n", "", "up"], ["y"], name="resize", mode="nearest"),
    ]
    constants = {"s": np.float32(0.02), "z": np.int8(0), "w": WEIGHT, "up": np.float32([1, 2])}
    data = model_of(nodes, [("y", [3, 16])], constants, [("x", [3, 8])])
    feeds = [{"x": np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)}]
    report, path = cast_bytes(data, tmp_path, feeds)
    assert reasons(report) == {"q": "sensitive", "d": "sensitive", "int8": "quantized"}
    held = {i.name: i.data_type for i in onnx.load(path).graph.initializer}
    assert held["s"] == held["up"] == held["w"] == TensorProto.FLOAT
    assert held["w/float16"] == TensorProto.FLOAT16  # read in both: one copy each
    check.compare(check.onnx_runner(data), check.onnx_runner(path), feeds, atol=5e-3, rtol=0)


def test_what_a_sub_graph_reads_stays_float32(tmp_path: Path) -> None:
    then = helper.make_graph(
        [helper.make_node("Identity", ["m"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, [3, 8])],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["m"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, [3, 8])],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
        helper.make_node("If", ["yes"], ["i"], name="if", then_branch=then, else_branch=other),
        helper.make_node("MatMul", ["i", "w"], ["y"], name="last"),
    ]
    data = model_of(nodes, [("y", [3, 8])], {"w": WEIGHT, "yes": np.bool_(True)}, [("x", [3, 8])])
    feeds = [{"x": np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)}]
    report, path = cast_bytes(data, tmp_path, feeds)
    assert set(reasons(report)) == {"if"}
    assert report.half_nodes == 2
    check.compare(check.onnx_runner(data), check.onnx_runner(path), feeds, atol=1e-2, rtol=0)


def test_a_layer_norm_taken_apart_is_known(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="before"),
        helper.make_node("ReduceMean", ["m", "axes"], ["mean"], name="mean"),
        helper.make_node("Sub", ["m", "mean"], ["c"], name="centre"),
        helper.make_node("Pow", ["c", "two"], ["c2"], name="square"),
        helper.make_node("ReduceMean", ["c2", "axes"], ["v"], name="variance"),
        helper.make_node("Add", ["v", "eps"], ["ve"], name="eps"),
        helper.make_node("Sqrt", ["ve"], ["sd"], name="root"),
        helper.make_node("Div", ["c", "sd"], ["n"], name="divide"),
        helper.make_node("MatMul", ["n", "w"], ["y"], name="after"),
    ]
    constants = {
        "w": WEIGHT,
        "two": np.float32(2),
        "eps": np.float32(1e-12),
        "axes": np.int64([-1]),
    }
    data = model_of(nodes, [("y", [3, 8])], constants, [("x", [3, 8])])
    feeds = [{"x": np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)}]
    report, _ = cast_bytes(data, tmp_path, feeds)
    kept = set(reasons(report))
    assert {"square", "variance", "eps", "root", "divide"} <= kept
    assert not {"before", "after"} & kept


def test_weights_in_constant_nodes_become_half(tmp_path: Path) -> None:
    """As PaddlePaddle's exporter writes them."""
    value = numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, 64), np.float32))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=value),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
    ]
    data = model_of(nodes, [("y", [3, 64])], {}, [("x", [3, 64])])
    feeds = [{"x": np.random.default_rng(1).standard_normal((3, 64), np.float32)}]
    report, path = cast_bytes(data, tmp_path, feeds)
    assert (report.kept, report.nodes, report.casts) == ((), 1, 2)
    assert path.stat().st_size < 0.6 * len(data)
    check.compare(check.onnx_runner(data), check.onnx_runner(path), feeds, atol=5e-2, rtol=0)


@pytest.mark.parametrize(("rows", "half"), [(16, False), (1 << 15, True)])
def test_a_large_table_is_worth_its_casts(tmp_path: Path, rows: int, half: bool) -> None:
    """The embeddings in front of a layer norm are most of a language model's file."""
    table = np.random.default_rng(0).standard_normal((rows, 16)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["id"], name="id", to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "id"], ["e"], name="embed"),
        helper.make_node("LayerNormalization", ["e", "scale"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "w"], ["y"], name="product"),
    ]
    constants = {"table": table, "scale": table[0], "w": table[:8].T.copy()}
    data = model_of(nodes, [("y", [3, 8])], constants, [("x", [3])])
    feeds = [{"x": np.array([0, 3, 9], np.float32)}]
    report, path = cast_bytes(data, tmp_path, feeds)
    assert reasons(report).get("embed") == (None if half else "casts")
    assert (path.stat().st_size < 0.6 * len(data)) == half
    check.compare(check.onnx_runner(data), check.onnx_runner(path), feeds, atol=1e-2, rtol=0)


@pytest.mark.parametrize(("value", "why"), [(1e6, "constant"), (1e-12, "constant"), (1.5, "casts")])
def test_constants_that_half_cannot_hold(tmp_path: Path, value: float, why: str) -> None:
    nodes = [
        helper.make_node("Softmax", ["x"], ["a"], name="softmax"),
        helper.make_node("Mul", ["a", "k"], ["b"], name="scaled"),
        helper.make_node("Softmax", ["b"], ["c"], name="again"),
        helper.make_node("MatMul", ["c", "w"], ["y"], name="last"),
    ]
    constants = {"k": np.float32(value), "w": WEIGHT}
    data = model_of(nodes, [("y", [3, 8])], constants, [("x", [3, 8])])
    feeds = [{"x": np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)}]
    report, _ = cast_bytes(data, tmp_path, feeds, min_sqnr_db=0)
    assert reasons(report)["scaled"] == why


def test_a_sum_that_overflows_before_its_mean(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], name="conv"),
        helper.make_node("GlobalAveragePool", ["a"], ["y"], name="pool"),
    ]
    kernel = np.full((4, 1, 1, 1), 100, np.float32)
    data = model_of(nodes, [("y", [1, 4, 1, 1])], {"k": kernel}, [("x", [1, 1, 32, 32])])
    feeds = [{"x": np.random.default_rng(0).random((1, 1, 32, 32)).astype(np.float32)}]
    report, _ = cast_bytes(data, tmp_path, feeds)
    assert reasons(report) == {"pool": "overflow"}
    assert "1024 terms" in report.kept[0].detail


def test_a_graph_without_anything_to_gain(tmp_path: Path) -> None:
    data = model_of(
        [helper.make_node("Softmax", ["x"], ["y"])], [("y", [3, 8])], {}, [("x", [3, 8])]
    )
    with pytest.raises(PassError, match=r"No node can compute in float16"):
        cast_bytes(data, tmp_path, [{"x": np.zeros((3, 8), np.float32)}])


def test_calibration_data_that_does_not_fit(plain: Path, tmp_path: Path) -> None:
    config = HalfConfig(precision="float16")
    wrong = [{"image": np.zeros((1, 3, 16, 16), np.float64)}]
    with pytest.raises(UsageError, match="float64"):
        cast_onnx(plain, tmp_path / "b.onnx", calibration=wrong, config=config)


def test_more_than_protobuf_holds_is_refused(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size is that of the weights: protobuf fails when it is asked for one over 2 GiB."""
    size = weight_bytes(read_onnx(plain))
    weights = [numpy_helper.to_array(t) for t in onnx.load(plain).graph.initializer]
    assert size == sum(w.nbytes for w in weights)
    monkeypatch.setattr("edgekit.quantize.half.cast._LIMIT", size - 1)
    with pytest.raises(UsageError, match="over 2 GB"):
        cast(plain, tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()
