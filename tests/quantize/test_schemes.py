"""Each scheme's file: the right integers, in the right places, close to float32, and small."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgekit import target
from edgekit.bench.runtimes import openvino
from edgekit.errors import PassError, UsageError
from edgekit.lower import tensorrt
from edgekit.quantize.config import PtqConfig
from edgekit.quantize.graph import Graph
from edgekit.quantize.lint import lint
from edgekit.quantize.ptq import QuantReport, quantize_onnx
from edgekit.target import IntegerScheme

Batches = Callable[..., Iterator[dict[str, np.ndarray]]]


SAMPLES = PtqConfig(samples=24)
SQNR_DB = 30.0


@pytest.fixture(scope="module")
def made(
    residual: Path,
    batches: Batches,
    schemes: dict[str, IntegerScheme],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Path, QuantReport]]:
    folder = tmp_path_factory.mktemp("int8")
    found = {}
    for name, scheme in schemes.items():
        report = quantize_onnx(
            residual, folder / name, scheme=scheme, calibration=batches(), config=SAMPLES
        )
        found[name] = (folder / name, report)
    return found


def optimized(path: Path, tmp_path: Path) -> Counter[str]:
    """Operator types after ONNX Runtime's own fusions."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)


@pytest.mark.parametrize("name", target.dialects())
def test_every_scheme(
    made: dict[str, tuple[Path, QuantReport]],
    schemes: dict[str, IntegerScheme],
    residual: Path,
    name: str,
) -> None:
    path, report = made[name]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [f for f in lint(model, schemes[name]) if f.severity == "error"] == []
    assert (report.quantized, report.total, report.excluded) == (6, 6, ())
    assert report.samples == 24
    noise = report.output_sqnr_db["output"]
    assert noise is not None
    assert noise > SQNR_DB
    for node in model.graph.node:  # weights lie in the file as integers
        if node.op_type in {"Conv", "Gemm"}:
            weight = Graph(model).weight(node)
            assert weight is not None
            value = Graph(model).array(weight[0])
            assert value is not None
            assert value.dtype == np.int8
    assert path.stat().st_size < 0.5 * residual.stat().st_size
    original, copy = onnx.load(residual).graph, model.graph
    assert list(original.input) == list(copy.input)
    assert list(original.output) == list(copy.output)


def test_x86_runs_in_integers(made: dict[str, tuple[Path, QuantReport]], tmp_path: Path) -> None:
    found = optimized(made["ort-x86-avx2"][0], tmp_path)
    assert found["QLinearConv"] == 5
    assert found["QLinearAdd"] == 2
    assert found["QLinearGlobalAveragePool"] == 1
    assert found["Conv"] == found["Add"] == found["Relu"] == 0


def test_openvino_runs_in_integers(made: dict[str, tuple[Path, QuantReport]]) -> None:
    pytest.importorskip("openvino")
    core = openvino.import_openvino().Core()
    compiled = core.compile_model(core.read_model(made["openvino-cpu"][0]), "CPU")
    found: dict[str, set[str]] = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        kind, precision = (info[k].astype(str) for k in ("layerType", "runtimePrecision"))
        found.setdefault(kind, set()).add(precision)
    assert found["Convolution"] == found["FullyConnected"] == found["Eltwise"] == {"u8"}


def test_seven_bits_where_sums_would_saturate(
    made: dict[str, tuple[Path, QuantReport]],
) -> None:
    largest = {}
    for name in ("ort-x86-avx2", "ort-x86-vnni"):
        graph = Graph(onnx.load(made[name][0]))
        dense = [n for n in graph.nodes if n.op_type == "Conv" and not n.name.startswith("wise")]
        held = [graph.weight(n) for n in dense]
        arrays = [graph.array(h[0]) for h in held if h is not None]
        largest[name] = max(int(np.abs(a.astype(int)).max()) for a in arrays if a is not None)
    assert largest["ort-x86-avx2"] <= 64
    assert largest["ort-x86-vnni"] > 64


def test_integer_gemm_where_a_quantized_bias_is_allowed(
    residual: Path, batches: Batches, schemes: dict[str, IntegerScheme], tmp_path: Path
) -> None:
    scheme = schemes["ort-x86-avx2"].model_copy(update={"quantize_bias": True})
    path = tmp_path / "model.onnx"
    report = quantize_onnx(residual, path, scheme=scheme, calibration=batches(), config=SAMPLES)
    assert report.post_passes["Gemm biases to int32"] == 1
    assert report.output_sqnr_db["output"] > SQNR_DB  # type: ignore[operator]
    found = optimized(path, tmp_path)
    assert found["QGemm"] == 1
    assert found["Gemm"] == found["DequantizeLinear"] == 0


def test_tensorrt_placement(made: dict[str, tuple[Path, QuantReport]]) -> None:
    graph = Graph(onnx.load(made["tensorrt"][0]))
    for node in graph.nodes:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            zero = graph.array(node.input[2])
            assert zero is not None
            assert zero.dtype == np.int8
            assert not zero.any()
        if node.op_type in {"Conv", "Gemm"}:
            assert graph.producer(node.input[0]).op_type == "DequantizeLinear"  # type: ignore[union-attr]
            assert len(node.input) < 3 or graph.is_constant(node.input[2])
    adds = {n.name: n for n in graph.nodes if n.op_type == "Add"}
    sources = {k: [graph.producer(i).op_type for i in n.input] for k, n in adds.items()}  # type: ignore[union-attr]
    assert len(sources) == 2
    assert all(sorted(v) == ["Conv", "DequantizeLinear"] for v in sources.values())
    names = {n.name for n in graph.nodes if n.op_type == "Conv"}
    assert names == {"stem/Conv", "a/Conv", "b/Conv", "short/Conv", "wise/Conv"}


def test_tensorrt_scales_are_calibrated_maxima(
    made: dict[str, tuple[Path, QuantReport]], batches: Batches
) -> None:
    graph = Graph(onnx.load(made["tensorrt"][0]))
    (node,) = (n for n in graph.nodes if n.op_type == "QuantizeLinear" and n.input[0] == "image")
    top = max(float(np.abs(b["image"]).max()) for b in batches())
    assert graph.array(node.input[1]) == pytest.approx(np.float32(top / 127), rel=1e-6)


@pytest.mark.skipif(not tensorrt.available("tensorrt-rtx")[0], reason="not installed")
@pytest.mark.parametrize(
    ("network", "dialect"), [("residual", "tensorrt"), ("fork", "tensorrt"), ("residual", "dla")]
)
def test_tensorrt_takes_it_without_a_warning(
    network: str,
    dialect: str,
    request: pytest.FixtureRequest,
    batches: Batches,
    schemes: dict[str, IntegerScheme],
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.onnx"
    quantize_onnx(
        request.getfixturevalue(network),
        path,
        scheme=schemes[dialect],
        calibration=batches(),
        config=SAMPLES,
    )
    report = tensorrt.build_engine(
        path, tmp_path / "engine", compute_capabilities=("8.6", "8.9", "12.0")
    )
    assert report.parser_warnings == ()
    assert report.size_bytes > 0


def test_concat_silu_and_what_has_no_kernel(
    fork: Path, batches: Batches, schemes: dict[str, IntegerScheme], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    report = quantize_onnx(
        fork, path, scheme=schemes["ort-x86-avx2"], calibration=batches(), config=SAMPLES
    )
    assert [node for node, _ in report.excluded] == ["up/ConvTranspose"]
    assert "no int8 kernel" in report.excluded[0][1]
    assert report.output_sqnr_db["output"] > SQNR_DB  # type: ignore[operator]
    found = optimized(path, tmp_path)
    assert found["QLinearConv"] == 4
    assert found["QLinearConcat"] == found["QLinearSigmoid"] == found["QLinearMul"] == 1


def test_one_scale_for_what_a_concat_joins(
    fork: Path, batches: Batches, schemes: dict[str, IntegerScheme], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    quantize_onnx(fork, path, scheme=schemes["tensorrt"], calibration=batches(), config=SAMPLES)
    found = lint(onnx.load(path), schemes["tensorrt"])
    assert {f.rule for f in found if f.severity != "note"} == set()


def test_the_same_seed_gives_the_same_bytes(
    made: dict[str, tuple[Path, QuantReport]],
    residual: Path,
    batches: Batches,
    schemes: dict[str, IntegerScheme],
    tmp_path: Path,
) -> None:
    for name in ("ort-x86-avx2", "tensorrt"):
        path, before = made[name]
        again = tmp_path / name
        report = quantize_onnx(
            residual, again, scheme=schemes[name], calibration=batches(), config=SAMPLES
        )
        assert again.read_bytes() == path.read_bytes()
        assert report == before


def test_excluded_layers_stay_in_float(
    residual: Path, batches: Batches, schemes: dict[str, IntegerScheme], tmp_path: Path
) -> None:
    config = SAMPLES.model_copy(
        update={"exclude": ("short", "Gemm"), "minimum_channels": 4, "bias_correction": False}
    )
    report = quantize_onnx(
        residual,
        tmp_path / "model.onnx",
        scheme=schemes["ort-x86-avx2"],
        calibration=batches(),
        config=config,
    )
    reasons = dict(report.excluded)
    assert set(reasons) == {"short/Conv", "head/Gemm", "stem/Conv", "wise/Conv"}
    assert reasons["short/Conv"] == "excluded by 'short'"
    assert reasons["stem/Conv"] == "1 channels, fewer than 4"
    assert reasons["wise/Conv"] == "1 channels, fewer than 4"  # depthwise: one to a group
    assert report.quantized == 2


def test_a_pattern_that_matches_nothing(
    residual: Path, batches: Batches, schemes: dict[str, IntegerScheme], tmp_path: Path
) -> None:
    config = PtqConfig(exclude=("steem*",))
    with pytest.raises(UsageError, match="steem") as error:
        quantize_onnx(
            residual,
            tmp_path / "model.onnx",
            scheme=schemes["tensorrt"],
            calibration=batches(),
            config=config,
        )
    assert "stem/Conv" in error.value.hint


def test_a_quantized_model_is_refused(
    made: dict[str, tuple[Path, QuantReport]],
    batches: Batches,
    schemes: dict[str, IntegerScheme],
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="quantized already"):
        quantize_onnx(
            made["tensorrt"][0],
            tmp_path / "m.onnx",
            scheme=schemes["tensorrt"],
            calibration=batches(),
        )


def test_a_result_that_breaks_its_scheme_is_not_written(
    residual: Path, batches: Batches, schemes: dict[str, IntegerScheme], tmp_path: Path
) -> None:
    # TensorRT's placement writes int8 alone.
    scheme = schemes["tensorrt"].model_copy(update={"activation": "uint8"})
    path = tmp_path / "model.onnx"
    with pytest.raises(PassError, match="wants uint8"):
        quantize_onnx(residual, path, scheme=scheme, calibration=batches(), config=SAMPLES)
    assert not path.exists()


def test_the_report_is_plain_data(made: dict[str, tuple[Path, QuantReport]]) -> None:
    said = dataclasses.asdict(made["tensorrt"][1])
    assert said["engine"].startswith("nncf ")
    assert said["warnings"] == ()
    assert said["post_passes"]["biases corrected"] == 6
