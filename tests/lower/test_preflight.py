"""Preflight: the real parser where it is installed, tables where not; where layers run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import target as targets
from edgekit.bench.engine import library
from edgekit.errors import UsageError
from edgekit.lower import dla, operators
from edgekit.lower.preflight import preflight

HERE = library.available("tensorrt-rtx")[0]
needs_parser = pytest.mark.skipif(not HERE, reason="tensorrt-rtx is not installed")

RTX = targets.load("rtx")
ORIN = targets.load("jetson-orin")
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write nodes from `x` to `y` as a file."""

    def write(*nodes: onnx.NodeProto, shape=(1, 16, 16, 16), dtype=TensorProto.FLOAT, **arrays):
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", dtype, shape)],
            [helper.make_tensor_value_info("y", dtype, list("abcd"))],
            [numpy_helper.from_array(v, k) for k, v in arrays.items()],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("my.domain", 1)]
        path = tmp_path / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path

    return write


def without_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in library.MODULES:
        monkeypatch.setitem(library.MODULES, kind, "no_such_tensorrt")


@needs_parser
def test_the_targets_own_parser_is_exact(residual_onnx: Path) -> None:
    found = preflight(residual_onnx, RTX)
    assert (found.fit, found.evidence, found.findings) == (True, "exact", ())
    assert found.checked_by.startswith("tensorrt-rtx ")
    assert found.devices == {"gpu": len(found.placements)}
    assert {p.layer for p in found.placements if p.operator == "Conv"} == {
        "stem",
        "a",
        "b",
        "short",
    }


@needs_parser
def test_another_parser_is_a_proxy(residual_onnx: Path) -> None:
    found = preflight(residual_onnx, ORIN)
    assert (found.fit, found.evidence) == (True, "proxy")
    assert any("build there" in note for note in found.notes)


def test_operators_that_a_jetson_may_be_too_old_for(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_parsers(monkeypatch)
    node = helper.make_node("HannWindow", ["size"], ["y"], name="front/HannWindow")
    path = save(node, size=np.array(16))
    found = preflight(path, ORIN)
    (finding,) = found.findings
    assert (finding.severity, finding.rule, finding.layer) == ("warning", "since", "front")
    assert "from 10.4 on; jetson-orin may have 10.3" in finding.message
    assert found.fit
    assert preflight(path, RTX).findings == ()
    newer = ORIN.model_copy(update={"tensorrt": "10.15"})
    assert preflight(path, newer).findings == ()


def test_a_jetson_of_before_tensorrt_10_is_told_to_update(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_parsers(monkeypatch)
    path = save(helper.make_node("Hardmax", ["x"], ["y"], name="top/Hardmax"))
    old = ORIN.model_copy(update={"tensorrt": "8.6"})
    found = preflight(path, old)
    assert not found.fit
    assert [(f.rule, f.node) for f in found.findings] == [("version", ""), ("since", "top/Hardmax")]
    assert "JetPack 6.1" in found.findings[0].mend
    assert "from 9.2 on" in found.findings[1].message
    assert preflight(path, ORIN).findings == ()


def test_dtypes_that_a_jetson_may_be_too_old_for(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_parsers(monkeypatch)
    path = save(
        helper.make_node("Cast", ["x"], ["b"], name="in", to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["b"], ["y"], name="out", to=TensorProto.FLOAT),
    )
    found = preflight(path, ORIN.model_copy(update={"tensorrt": "8.6"}))
    assert [f.node for f in found.findings if "bfloat16 from 9.0 on" in f.message] == ["in"]
    assert preflight(path, ORIN).findings == ()


@pytest.mark.parametrize(
    ("operator", "opset", "since"),
    [
        ("Attention", 23, "10.14"),
        ("GroupNormalization", 21, "10.9"),
        ("GroupNormalization", 18, ""),
        ("Conv", 21, ""),
    ],
)
def test_since_when_the_parser_takes_an_operator(operator: str, opset: int, since: str) -> None:
    assert operators.since(operator, opset, "10.3") == since


@pytest.mark.parametrize("parser", [pytest.param(True, marks=needs_parser), False])
def test_every_refused_node_is_named_with_its_layer(
    save: Save, monkeypatch: pytest.MonkeyPatch, parser: bool
) -> None:
    if not parser:
        without_parsers(monkeypatch)
    path = save(
        helper.make_node("Relu", ["x"], ["r"], name="enc/Relu"),
        helper.make_node("Det", ["r"], ["d"], name="enc/stage/Det"),
        helper.make_node("Mine", ["d"], ["y"], name="head/Mine", domain="my.domain"),
    )
    found = preflight(path, RTX)
    assert not found.fit
    assert found.evidence == ("exact" if parser else "proxy")
    errors = [(f.node, f.operator, f.layer) for f in found.findings]
    assert errors == [("enc/stage/Det", "Det", "enc.stage"), ("head/Mine", "Mine", "head")]
    assert all(f.mend for f in found.findings)
    assert [p.device for p in found.placements] == ["gpu", "none", "none"]


@needs_parser
def test_the_table_of_operators_is_what_the_parser_says() -> None:
    trt = library.load("tensorrt-rtx")
    log = library.logger(trt)
    builder = library.make_builder(trt, "tensorrt-rtx", log)
    parser = trt.OnnxParser(builder.create_network(0), log)
    known = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ""}
    refused = {o for o in known if not parser.supports_operator(o)}
    assert refused == set(operators.UNSUPPORTED) & known


def test_a_newer_opset_is_a_warning(save: Save) -> None:
    path = save(helper.make_node("Relu", ["x"], ["y"], name="Relu"))
    model = onnx.load(path)
    model.opset_import[0].version = 21
    onnx.save(model, path)
    found = preflight(path, RTX)
    assert found.fit
    assert [f.rule for f in found.findings] == ["opset"]


def test_a_cpu_target_is_asked_of_onnxruntime(residual_onnx: Path, save: Save) -> None:
    found = preflight(residual_onnx, targets.load("x86-vnni"))
    assert found.fit
    assert found.checked_by.startswith("onnxruntime ")
    assert set(found.devices) == {"cpu"}
    mine = helper.make_node("Mine", ["x"], ["y"], name="head/Mine", domain="my.domain")
    assert not preflight(save(mine), targets.load("x86-vnni")).fit


# The DLA.

F16 = TensorProto.FLOAT16
CONV = {"name": "c/Conv", "kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def weight(*shape: int):
    return np.ones(shape, np.float16)


def reason(path: Path, **options: object) -> str:
    found = preflight(path, ORIN, dla_core=0, **options)  # type: ignore[arg-type]
    assert {p.device for p in found.placements} <= {"dla", "gpu-fallback"}
    return found.placements[0].reason


def test_a_float16_convolution_runs_on_the_dla(save: Save) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], **CONV)
    assert reason(save(node, dtype=F16, w=weight(16, 16, 3, 3))) == ""


@pytest.mark.parametrize(
    ("attributes", "kernel", "why"),
    [
        ({"strides": [9, 9]}, 3, "strides 9 is outside 1 to 8"),
        ({"pads": [1, 1, 32, 1]}, 3, "pads 32 is outside 0 to 31"),
        ({"dilations": [33, 1], "pads": [31, 31, 31, 31]}, 2, "dilations 33 is outside"),
        ({"kernel_shape": [33, 33], "pads": [31, 31, 31, 31]}, 33, "kernel_shape 33 is outside"),
    ],
)
def test_limits_of_a_convolution(
    save: Save, attributes: dict[str, object], kernel: int, why: str
) -> None:
    options = {**CONV, "kernel_shape": [kernel, kernel], **attributes}
    node = helper.make_node("Conv", ["x", "w"], ["y"], **options)
    assert why in reason(save(node, dtype=F16, w=weight(16, 16, kernel, kernel)))


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (helper.make_node("Relu", ["x"], ["y"], name="n"), ""),
        (helper.make_node("GlobalAveragePool", ["x"], ["y"], name="n"), "windows are up to 8"),
        (helper.make_node("MaxPool", ["x"], ["y"], name="n", kernel_shape=[9, 9]), "outside 1 to"),
        (helper.make_node("Erf", ["x"], ["y"], name="n"), "GELU"),
        (helper.make_node("Softmax", ["x"], ["y"], name="n"), "not in the table"),
        (helper.make_node("Concat", ["x", "x"], ["y"], name="n", axis=2), "channels only"),
        (helper.make_node("Concat", ["x", "x"], ["y"], name="n", axis=-3), ""),
        (helper.make_node("MatMul", ["x", "x"], ["y"], name="n"), "both factors"),
    ],
    ids=lambda v: v.op_type if isinstance(v, onnx.NodeProto) else "",
)
def test_other_layers(save: Save, node: onnx.NodeProto, why: str) -> None:
    said = reason(save(node, dtype=F16))
    assert why in said
    assert bool(why) == bool(said)


def test_float32_and_dynamic_sizes_stay_on_the_gpu(save: Save) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"], name="n")
    assert "float32" in reason(save(relu))
    path = save(relu, dtype=F16, shape=("batch", 16, 16, 16))
    assert "dynamic" in reason(path)
    one = ((2, 16, 16, 16),) * 3
    assert reason(path, shapes={"x": one}) == ""
    assert "dynamic" in reason(path, shapes={"x": (*one[:2], (4, 16, 16, 16))})


def test_every_rule_has_a_reason() -> None:
    assert not set(dla.REFUSED) & (dla.PLAIN | set(dla.LIMITS))


@pytest.mark.parametrize(("target", "core"), [(RTX, 0), (ORIN, 2), (ORIN, -1)])
def test_a_dla_that_is_not_there(residual_onnx: Path, target: targets.Target, core: int) -> None:
    with pytest.raises(UsageError, match="--dla") as error:
        preflight(residual_onnx, target, dla_core=core)
    assert error.value.exit_code == 2


# Bad files.


def test_a_truncated_file(residual_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(residual_onnx.read_bytes()[:1500])
    with pytest.raises(UsageError, match=r"half\.onnx"):
        preflight(path, RTX)


def external(path: Path, location: str, count: int) -> None:
    """A file whose one weight lies elsewhere."""
    node = helper.make_node("Add", ["x", "w"], ["y"], name="Add")
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[count], data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [count])],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "in").mkdir()
    external(tmp_path / "in" / "m.onnx", "../secret", 4)
    with pytest.raises(UsageError, match="outside the model's folder"):
        preflight(tmp_path / "in" / "m.onnx", RTX)


def test_a_model_over_2_gb_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_parsers(monkeypatch)
    count = 600_000_000
    with (tmp_path / "m.data").open("wb") as file:
        file.truncate(4 * count)  # sparse: takes no room on the disk
    external(tmp_path / "m.onnx", "m.data", count)
    found = preflight(tmp_path / "m.onnx", RTX)
    assert found.fit
    assert found.evidence == "proxy"
