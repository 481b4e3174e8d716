"""Files of other tools: each fault named, mended, and the output where it was."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekit.errors import GateError, UsageError
from edgekit.graph.onnx_model import write_onnx
from edgekit.lower import tensorrt
from edgekit.lower.check import onnx_runner
from edgekit.pipeline import lint_model, sarif_from_report
from edgekit.pipeline.lint import LABEL, LintReport
from edgekit.quantize import fidelity
from edgekit.quantize.engine import load_nncf
from edgekit.quantize.graph import Graph
from edgekit.quantize.lint import lint
from edgekit.quantize.mend import mend
from edgekit.quantize.rules import RULES
from edgekit.target import IntegerScheme
from tests.quantize.test_lint import ARRAYS, conv, model, pair, relu, weight

Batches = Callable[..., Iterator[dict[str, np.ndarray]]]


@pytest.fixture(scope="module")
def foreign(
    residual: Path, batches: Batches, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The residual network by NNCF's defaults and by ONNX Runtime's."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    folder = tmp_path_factory.mktemp("foreign")
    samples = [{"image": b["image"][i : i + 1]} for b in batches(2) for i in range(8)]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    nncf = load_nncf()
    made = nncf.quantize(onnx.load(residual), nncf.Dataset(samples), subset_size=16)
    onnx.save(made, folder / "nncf.onnx")
    quantize_static(str(residual), str(folder / "ort.onnx"), Reader())
    return {name: folder / f"{name}.onnx" for name in ("nncf", "ort")}


def fixed(path: Path, target: str, out: Path) -> LintReport:
    report = lint_model(path, target, out=out)
    assert report.fix is not None
    assert report.ok
    assert [f for f in report.fix.left if f.severity != "note" and f.kinds] == []
    return report


@pytest.mark.parametrize(
    ("tool", "rules"),
    [
        ("nncf", {"activation-dtype", "activation-per-channel", "conv-add"}),
        ("ort", {"zero-point", "bias-quantized", "conv-add", "output-quantized"}),
    ],
)
def test_a_foreign_file_for_tensorrt(
    foreign: dict[str, Path], tool: str, rules: set[str], tmp_path: Path
) -> None:
    out = tmp_path / "mended.onnx"
    report = fixed(foreign[tool], "rtx", out)
    assert {f.rule for f in report.findings if RULES[f.rule].kinds} == rules
    assert {m.rule for m in report.fix.mends} == rules  # type: ignore[union-attr]
    assert report.fix.lossy  # type: ignore[union-attr]
    assert 0 < report.fix.fidelity.worst_steps <= 2  # type: ignore[union-attr]
    held = onnx.load(out)
    onnx.checker.check_model(held, full_check=True)
    label = {p.key: p.value for p in held.metadata_props}[LABEL]
    assert '"lossy": true' in label
    if tensorrt.available("tensorrt-rtx")[0]:
        built = tensorrt.build_engine(out, tmp_path / "e", compute_capabilities=("8.6",))
        assert built.parser_warnings == ()


def test_a_folded_relu_is_written_again(foreign: dict[str, Path], tmp_path: Path) -> None:
    """ONNX Runtime's quantizer lets a zero point of -128 do a ReLU's work; 0 cannot."""
    before = Counter(n.op_type for n in onnx.load(foreign["ort"]).graph.node)
    fixed(foreign["ort"], "rtx", tmp_path / "m.onnx")
    after = Counter(n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node)
    assert before["Relu"] == 0
    assert after["Relu"] == 4


def test_a_foreign_file_for_x86(foreign: dict[str, Path], tmp_path: Path) -> None:
    report = fixed(foreign["ort"], "x86-avx2", tmp_path / "m.onnx")
    kinds = {(m.rule, m.kind) for m in report.fix.mends}  # type: ignore[union-attr]
    assert kinds == {
        ("activation-dtype", "exact"),
        ("weight-bits", "lossy"),
        ("output-quantized", "rounding"),
    }


PT2E = Path(__file__).parent / "files" / "pt2e-x86.onnx"  # torch 2.13, torchao 0.18, X86Inductor


@pytest.mark.parametrize(
    ("target", "named", "mended"),
    [
        ("rtx", {"activation-dtype", "zero-point"}, {"activation-dtype"}),
        (
            "x86-avx2",
            {"weight-bits", "gemm-bias", "unfused-layer"},
            {"weight-bits", "gemm-bias"},
        ),
    ],
)
def test_a_file_of_pytorchs_pt2e_flow(
    target: str, named: set[str], mended: set[str], tmp_path: Path
) -> None:
    """Its scales are initializers, its weights int8 without a bias pair, its activations uint8."""
    out = tmp_path / "m.onnx"
    report = fixed(PT2E, target, out)
    assert {f.rule for f in report.findings if f.severity != "note"} == named
    assert {m.rule for m in report.fix.mends} == mended  # type: ignore[union-attr]
    assert report.fix.fidelity.worst_steps <= 2  # type: ignore[union-attr]
    if target == "rtx" and tensorrt.available("tensorrt-rtx")[0]:
        built = tensorrt.build_engine(out, tmp_path / "e", compute_capabilities=("8.6",))
        assert built.parser_warnings == ()


def test_a_file_in_model_optimizers_layout(
    schemes: dict[str, IntegerScheme], tmp_path: Path
) -> None:
    """Float weights with a pair of their own, all int8 around 0, scales in Constant nodes."""
    scale = numpy_helper.from_array(VALUES["s4"])
    nodes = [
        *X,
        helper.make_node("Constant", [], ["ws"], "ws", value=scale),
        helper.make_node("QuantizeLinear", ["wf", "ws", "i04"], ["wq"], "wq", axis=0),
        helper.make_node("DequantizeLinear", ["wq", "ws", "i04"], ["wd"], "wd", axis=0),
        conv("d", "wd", "c"),
        relu("c"),
    ]
    made = model(nodes, VALUES)
    found = [f for f in lint(made, schemes["tensorrt"]) if f.severity != "note"]
    assert [(f.rule, f.severity) for f in found] == [("float-weight", "warning")]
    mended, done = mend(made, schemes["tensorrt"])
    assert [(m.rule, m.kind) for m in done] == [("float-weight", "exact")]
    right, got = outputs(made, mended)
    np.testing.assert_array_equal(got, right)


def outputs(before: onnx.ModelProto, after: onnx.ModelProto) -> tuple[np.ndarray, np.ndarray]:
    """Both on the same inputs, as they are written."""
    feeds = list(fidelity.inputs(before, 4, 0))
    runners = [onnx_runner(m.SerializeToString(), optimize=False) for m in (before, after)]
    right, got = (np.stack([run(feed)["y"] for feed in feeds]) for run in runners)
    return right, got


X = pair("x", "s", "i0", "d")
EXACT = {
    "contrib-qdq": ("tensorrt", [*pair("x", "s", "i0", "d"), relu("d")]),
    "float-weight": (
        "tensorrt",
        [*X, *pair("wf", "s", "i0", "wd"), conv("d", "wd", "c"), relu("c")],
    ),
    "bias-quantized": (
        "tensorrt",
        [
            *X,
            weight("w", "wd"),
            helper.make_node("DequantizeLinear", ["bias", "s4"], ["bd"], "bd", axis=0),
            conv("d", "wd", "c", "bd"),
            relu("c"),
        ],
    ),
    "activation-dtype": ("tensorrt", [*pair("x", "s", "u128", "d"), relu("d")]),
    "weight-dtype": (
        "tensorrt",
        [
            *X,
            helper.make_node("DequantizeLinear", ["wu", "s", "u128"], ["wd"], "wd"),
            conv("d", "wd", "c"),
            relu("c"),
        ],
    ),
    "activation-per-channel": ("tensorrt", [*pair("x", "s4", "i04", "d"), relu("d")]),
    "conv-activation": (
        "tensorrt",
        [
            *X,
            weight("w", "wd"),
            conv("d", "wd", "c"),
            *pair("c", "s9", "i0", "e"),
            helper.make_node("Relu", ["e"], ["r"], "r"),
            helper.make_node("Neg", ["r"], ["y"], "y"),
        ],
    ),
    "several-pairs": (
        "tensorrt",
        [
            helper.make_node("Neg", ["x"], ["m"], "m"),
            *pair("m", "s", "i0", "d"),
            *pair("m", "s", "i0", "e"),
            helper.make_node("Add", ["d", "e"], ["y"], "y"),
        ],
    ),
    "opset": ("tensorrt", []),
}
for each in EXACT["contrib-qdq"][1][:2]:
    each.domain = "com.microsoft"
VALUES = {
    **ARRAYS,
    "u128": np.array(128, np.uint8),
    "bias": np.arange(4, dtype=np.int32) * 1000,
    "w": np.random.default_rng(0).integers(-127, 128, (4, 4, 1, 1)).astype(np.int8),
    "wu": np.random.default_rng(0).integers(0, 256, (4, 4, 1, 1)).astype(np.uint8),
    "wf": np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32),
}


@pytest.mark.parametrize("rule", EXACT)
def test_exact_mends_are_bit_equal(schemes: dict[str, IntegerScheme], rule: str) -> None:
    name, nodes = EXACT[rule]
    made = model(nodes, VALUES)
    if rule == "opset":
        plain = [
            helper.make_node("QuantizeLinear", ["x", "s", "i0"], ["q"], "q"),
            helper.make_node("DequantizeLinear", ["q", "s", "i0"], ["d"], "dq"),
            relu("d"),
        ]
        made = model(plain, VALUES, 11)
    assert rule in [f.rule for f in lint(made, schemes[name])]
    mended, done = mend(made, schemes[name])
    assert (rule, "exact") in [(m.rule, m.kind) for m in done]
    onnx.checker.check_model(mended, full_check=True)
    assert [f.rule for f in lint(mended, schemes[name]) if f.severity != "note"] == []
    right, got = outputs(made, mended)
    assert right.std() > 0
    np.testing.assert_array_equal(got, right)


LAYER = [weight("w", "wd"), conv("d", "wd", "c")]
ROUNDED = {
    "conv-add": [
        *X,
        *LAYER,
        *pair("c", "s9", "i0", "e"),
        helper.make_node("Add", ["e", "d"], ["y"], "y"),
    ],
    "skip-input": [*X, *LAYER, helper.make_node("Add", ["c", "x"], ["y"], "y")],
    "output-quantized": [*X, *LAYER, *pair("c", "s9", "i0", "y")],
    "high-precision": [
        *pair("x", "s01", "i0", "e"),
        helper.make_node("Erf", ["e"], ["y"], "y"),
    ],
    "shared-scale": [
        *X,
        helper.make_node("Neg", ["x"], ["m"], "m"),
        *pair("m", "s15", "i0", "e"),
        helper.make_node("Concat", ["d", "e"], ["y"], "y", axis=1),
    ],
}
VALUES["s01"] = np.array(0.01, np.float32)
VALUES["s15"] = np.array(0.15, np.float32)


@pytest.mark.parametrize("rule", ROUNDED)
def test_rounding_mends_move_an_output_by_less_than_a_step(
    schemes: dict[str, IntegerScheme], rule: str, tmp_path: Path
) -> None:
    scales = {**VALUES, "s9": np.array(2.3, np.float32)}  # of what the convolution gives
    made = model(ROUNDED[rule], scales)
    assert rule in [f.rule for f in lint(made, schemes["tensorrt"])]
    mended, done = mend(made, schemes["tensorrt"])
    assert {(m.rule, m.kind) for m in done} == {(rule, "rounding")}
    assert rule not in [f.rule for f in lint(mended, schemes["tensorrt"])]
    for held, name in ((made, "a"), (mended, "b")):
        write_onnx(held, tmp_path / name)
    found = fidelity.compare(tmp_path / "a", tmp_path / "b", made)
    assert 0 < found.worst_steps <= 1


@pytest.mark.parametrize("zero", ["u0", "i3", "u7"])
def test_a_symmetric_range_covers_the_old_one(
    schemes: dict[str, IntegerScheme], zero: str, tmp_path: Path
) -> None:
    """Whatever the old quantizer let through comes through, within two of its steps."""
    values = {**VALUES, "u7": np.array(7, np.uint8)}
    made = model([*pair("x", "s", zero, "d"), helper.make_node("Neg", ["d"], ["y"], "y")], values)
    mended, done = mend(made, schemes["tensorrt"])
    assert [m.kind for m in done] == ["lossy"]
    for held, name in ((made, "a"), (mended, "b")):
        write_onnx(held, tmp_path / name)
    assert 0 < fidelity.compare(tmp_path / "a", tmp_path / "b", made).worst_steps <= 2
    (quantize,) = Graph(mended).activation_quantizers()
    levels = Graph(mended).levels(quantize)
    assert levels is not None
    low, high = np.iinfo(values[zero].dtype).min, np.iinfo(values[zero].dtype).max
    top = 0.1 * max(int(values[zero]) - low, high - int(values[zero]))
    np.testing.assert_allclose(levels[0] * 127, top, rtol=1e-6)


def test_lossy_mends_of_weights(schemes: dict[str, IntegerScheme]) -> None:
    """Quantized again along the right axis: each number within half a new step."""
    dq = helper.make_node("DequantizeLinear", ["wu", "s4", "u3"], ["wd"], "wd", axis=1)
    values = {
        **VALUES,
        "u3": np.array([3, 100, 128, 250], np.uint8),
        "s4": np.array([0.1, 0.2, 0.05, 0.3], np.float32),
    }
    made = model([*X, dq, conv("d", "wd", "c"), relu("c")], values)
    mended, done = mend(made, schemes["tensorrt"])
    assert [(m.rule, m.kind) for m in done] == [("weight-axis", "lossy")]
    graph = Graph(mended)
    node = graph.producer(next(n for n in graph.nodes if n.op_type == "Conv").input[1])
    assert node is not None
    levels, held = graph.levels(node), graph.array(node.input[0])
    assert levels is not None
    assert held is not None
    right = (values["wu"].astype(float) - values["u3"].reshape(1, 4, 1, 1)) * values["s4"].reshape(
        1, 4, 1, 1
    )
    got = held * levels[0].reshape(4, 1, 1, 1)
    assert (np.abs(got - right) <= levels[0].reshape(4, 1, 1, 1) * 0.5001).all()
    assert not levels[1].any()


def test_gemm_biases_for_onnxruntime(schemes: dict[str, IntegerScheme]) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], "f"),
        *pair("f", "s", "u0", "d"),
        helper.make_node("DequantizeLinear", ["wg", "s4", "i04"], ["wd"], "wd", axis=1),
        helper.make_node("Gemm", ["d", "wd", "bf"], ["y"], "y"),
    ]
    values = {
        **VALUES,
        "wg": np.random.default_rng(1).integers(-60, 61, (144, 4)).astype(np.int8),
        "bf": np.array([0.1, -2.0, 3.0, 0.0], np.float32),
    }
    made = model(nodes, values)
    made.graph.output[0].type.tensor_type.shape.dim.pop()
    made.graph.output[0].type.tensor_type.shape.dim.pop()
    assert "gemm-bias" in [f.rule for f in lint(made, schemes["ort-x86-vnni"])]
    mended, done = mend(made, schemes["ort-x86-vnni"])
    assert [(m.rule, m.kind) for m in done] == [("gemm-bias", "rounding")]
    right, got = outputs(made, mended)
    np.testing.assert_allclose(got, right, atol=0.1 * 0.1)  # one step of the int32 bias


def test_a_mend_too_far_from_the_original_writes_nothing(
    foreign: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "m.onnx"
    with pytest.raises(GateError, match="8-bit steps") as error:
        lint_model(foreign["nncf"], "rtx", out=out, max_steps=0.01)
    assert "--max-steps" in error.value.hint
    assert error.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_mend(residual: Path, tmp_path: Path) -> None:
    report = lint_model(residual, "rtx", out=tmp_path / "m.onnx")
    assert report.ok
    assert report.quantized == ""
    assert report.fix is not None
    assert report.fix.mends == ()
    assert report.fix.fidelity is None


@pytest.mark.parametrize("out", ["other.txt", "ort.onnx"])
def test_bad_places_to_write(foreign: dict[str, Path], out: str) -> None:
    with pytest.raises(UsageError, match="--out"):
        lint_model(foreign["ort"], "rtx", out=foreign["ort"].with_name(out))


def test_sarif(foreign: dict[str, Path]) -> None:
    report = lint_model(foreign["ort"], "rtx")
    (run,) = sarif_from_report(report)["runs"]
    assert len(run["results"]) == len(report.findings)
    names = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result, finding in zip(run["results"], report.findings, strict=True):
        assert names[result["ruleIndex"]] == result["ruleId"] == finding.rule
        assert result["level"] in {"error", "warning", "note"}
        (place,) = result["locations"]
        assert place["logicalLocations"][0]["name"] == finding.node
        assert place["physicalLocation"]["artifactLocation"]["uri"].startswith("file:///")
