"""Engines build without a GPU, and failures name the node, the shape or what to install."""

import json
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.artifact import TensorSpec
from edgekit.bench.engine import library
from edgekit.bench.engine.options import BuildOptions
from edgekit.bench.runtimes.tensorrt import TensorRt
from edgekit.errors import PassError, UnavailableError, UsageError
from edgekit.lower import tensorrt

HERE = tensorrt.available("tensorrt-rtx")[0]
needs_builder = pytest.mark.skipif(not HERE, reason="tensorrt-rtx is not installed")


@needs_builder
def test_an_engine_for_three_generations(residual_onnx: Path, tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    report = tensorrt.build_engine(
        residual_onnx, engine, compute_capabilities=("8.6", "8.9", "12.0")
    )
    assert engine.stat().st_size == report.size_bytes > 0
    assert report.parser_warnings == ()
    assert report.shapes["image"] == ((1, 1, 12, 12), (1, 1, 12, 12), (8, 1, 12, 12))
    said = json.loads((tmp_path / "model.engine.json").read_text())
    assert said["compute_capabilities"] == ["8.6", "8.9", "12.0"]
    assert said["input_sha256"] == report.input_sha256
    assert said["flags"] == ["STRONGLY_TYPED"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.engine",
        "model.engine.json",
    ]


@needs_builder
def test_the_parser_names_what_it_refuses(tmp_path: Path) -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="my/layer")
    outputs = [helper.make_tensor_value_info("s", TensorProto.FLOAT, [])]
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])], outputs
    )
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    with pytest.raises(PassError, match=r"my/layer.*DynamicQuantizeLinear"):
        tensorrt.build_engine(path, tmp_path / "e", compute_capabilities=("8.6",))
    assert not (tmp_path / "e").exists()


@needs_builder
@pytest.mark.parametrize("wanted", [(), ("3.5",)])
def test_an_unknown_compute_capability(
    residual_onnx: Path, tmp_path: Path, wanted: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match="compute capability") as error:
        tensorrt.build_engine(residual_onnx, tmp_path / "e", compute_capabilities=wanted)
    assert "8.9" in error.value.hint


def test_a_missing_builder_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tensorrt.MODULES, "tensorrt", "no_such_tensorrt")
    with pytest.raises(UnavailableError, match="no_such_tensorrt") as error:
        tensorrt.build_engine(tmp_path / "m.onnx", tmp_path / "e", runtime="tensorrt")
    assert "edgekit[tensorrt]" in error.value.hint
    assert "`--device NAME`" in error.value.hint
    assert error.value.exit_code == 3


@pytest.mark.parametrize("answer", [None, TypeError("factory function returned nullptr")])
def test_no_gpu_says_what_this_machine_lacks(
    answer: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same code runs on a device, where nobody can be sent to the device."""

    def builder(log: object) -> None:
        if answer is not None:
            raise answer

    def none() -> str:
        raise UnavailableError("The driver finds no GPU.", "Attach a GPU that it can see.")

    trt = SimpleNamespace(Builder=builder)
    for name, hint in ((none, "finds no GPU. Attach"), (lambda: "Orin (8.7)", "too old for this")):
        monkeypatch.setattr("edgekit.bench.runtimes.cuda.device_name", name)
        with pytest.raises(UnavailableError, match="tensorrt has no usable GPU") as error:
            library.make_builder(trt, "tensorrt", None)
        assert hint in error.value.hint
        assert "on the device" not in error.value.hint


IMAGE = TensorSpec(name="image", dtype="float32", shape=("batch", 3, "h", "w"))
FLAT = TensorSpec(name="x", dtype="float32", shape=("batch", 4))
FIXED = TensorSpec(name="x", dtype="float32", shape=(2, 4))


def test_profiles() -> None:
    assert tensorrt.profile_shapes([FLAT], None) == {"x": ((1, 4), (1, 4), (8, 4))}
    assert tensorrt.profile_shapes([FIXED], None) == {}
    given = ((1, 3, 32, 32), (1, 3, 64, 64), (4, 3, 64, 64))
    assert tensorrt.profile_shapes([IMAGE], {"image": given}) == {"image": given}


def test_dimensions_of_one_name_follow_the_given_ones() -> None:
    mask = TensorSpec(name="mask", dtype="float32", shape=("batch", "h"))
    given = ((2, 3, 32, 32), (2, 3, 64, 64), (4, 3, 64, 64))
    found = tensorrt.profile_shapes([mask, IMAGE], {"image": given})
    assert found == {"mask": ((2, 32), (2, 64), (4, 64)), "image": given}
    shapes = {"image": given, "mask": ((1, 32), (1, 64), (8, 64))}
    with pytest.raises(UsageError, match=r"'batch' as 1/1/8, and elsewhere it is 2/2/4"):
        tensorrt.profile_shapes([IMAGE, mask], shapes)


def test_multiples_are_kept() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", "16*h", "w"))
    given = ((1, 16, 7), (1, 32, 7), (1, 64, 7))
    assert tensorrt.profile_shapes([spec], {"x": given}) == {"x": given}
    with pytest.raises(UsageError, match="do not fit") as error:
        tensorrt.profile_shapes([spec], {"x": ((1, 16, 7), (1, 33, 7), (1, 64, 7))})
    assert "multiples of 16" in error.value.hint


@pytest.mark.parametrize(
    ("spec", "shapes", "message"),
    [
        (IMAGE, None, "dynamic dimensions besides the batch"),
        (FLAT, {"y": ((1, 4),) * 3}, "does not have"),
        (FLAT, {"x": ((1, 5),) * 3}, "do not fit"),
        (FLAT, {"x": ((2, 4), (1, 4), (8, 4))}, "do not fit"),
        (FLAT, {"x": ((1,), (1,), (8,))}, "do not fit"),
    ],
)
def test_shapes_that_do_not_fit(spec: TensorSpec, shapes: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tensorrt.profile_shapes([spec], shapes)  # type: ignore[arg-type]


@needs_builder
def test_options_are_set_and_recorded(residual_onnx: Path, tmp_path: Path) -> None:
    options = BuildOptions(workspace_mib=64, optimization_level=1, sparse=True)
    engine = tmp_path / "model.engine"
    report = tensorrt.build_engine(
        residual_onnx, engine, compute_capabilities=("8.6",), options=options
    )
    assert report.flags == ("STRONGLY_TYPED", "SPARSE_WEIGHTS")
    said = json.loads((tmp_path / "model.engine.json").read_text())
    assert said["options"]["workspace_mib"] == 64
    assert said["options"]["optimization_level"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(version_compatible=True), "version-compatible"),
        (BuildOptions(hardware_compatible=True), "hardware-compatible"),
        (BuildOptions(dla=0), "DLA"),
        (BuildOptions(optimization_level=6), "level 6"),
        (BuildOptions(workspace_mib=0), "0 MiB"),
    ],
)
def test_options_that_the_builder_does_not_have(
    residual_onnx: Path, tmp_path: Path, options: BuildOptions, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        tensorrt.build_engine(
            residual_onnx, tmp_path / "e", compute_capabilities=("8.6",), options=options
        )
    assert not (tmp_path / "e").exists()


@needs_builder
def test_weights_are_stripped_where_the_builder_can(tmp_path: Path) -> None:
    """TensorRT-RTX 1.7 without a GPU takes the flag, and fails in convolutions."""
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    path = tmp_path / "model.onnx"
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    report = tensorrt.build_engine(
        path,
        tmp_path / "e",
        compute_capabilities=("8.6",),
        options=BuildOptions(strip_weights=True),
    )
    assert report.flags == ("STRONGLY_TYPED", "STRIP_PLAN")


@needs_builder
def test_a_machine_without_a_dla(
    residual_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of TensorRT, on TensorRT-RTX's library, which has the same interface."""
    monkeypatch.setitem(tensorrt.MODULES, "tensorrt", "tensorrt_rtx")
    monkeypatch.setattr("edgekit.bench.runtimes.cuda.device_name", lambda: "NVIDIA Orin (8.7)")
    with pytest.raises(UnavailableError, match="0 DLA cores"):
        tensorrt.build_engine(
            residual_onnx, tmp_path / "e", runtime="tensorrt", options=BuildOptions(dla=0)
        )


@needs_builder
def test_tensorrt_rtx_has_no_timing_cache(residual_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no timing cache"):
        tensorrt.build_engine(
            residual_onnx,
            tmp_path / "e",
            compute_capabilities=("8.6",),
            options=BuildOptions(timing_cache=str(tmp_path)),
        )


@needs_builder
def test_a_timing_cache_needs_the_gpu_that_it_is_of(
    residual_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise UnavailableError("There is no GPU.", "Build on the device.")

    monkeypatch.setitem(tensorrt.MODULES, "tensorrt", "tensorrt_rtx")
    monkeypatch.setattr("edgekit.bench.runtimes.cuda.device_name", none)
    options = BuildOptions(timing_cache=str(tmp_path / "timings"))
    with pytest.raises(UnavailableError, match="no GPU") as error:
        tensorrt.build_engine(residual_onnx, tmp_path / "e", runtime="tensorrt", options=options)
    assert error.value.hint.startswith("Build on the device. Or build where TensorRT and a GPU are")
    assert "`--device NAME`" in error.value.hint
    assert not (tmp_path / "timings").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not TensorRt.probe().ok, reason=TensorRt.probe().reason)
def test_a_build_on_a_gpu_says_where_and_keeps_its_timings(
    residual_onnx: Path, tmp_path: Path
) -> None:
    options = BuildOptions(timing_cache=str(tmp_path / "timings"))
    first, second = (
        tensorrt.build_engine(residual_onnx, tmp_path / n, runtime="tensorrt", options=options)
        for n in ("a", "b")
    )
    assert first.gpu
    assert first.driver
    assert first.layers
    assert first.compute_capabilities
    assert first.timing_cache == second.timing_cache
    assert (tmp_path / "timings" / first.timing_cache).stat().st_size > 0
