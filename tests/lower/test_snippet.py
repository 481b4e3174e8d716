"""Snippets run, compile and compute what the runtime computes, whatever a model calls its tensors.

C++ is compiled where its runtime's headers are: OpenVINO's come with its wheel; name the folders of
others in EDGEKIT_ONNXRUNTIME_HEADERS and EDGEKIT_TENSORRT_HEADERS (that of NvInfer.h and that of
cuda_runtime_api.h, with a colon between them), unless the compiler finds them by itself. TensorRT's
C++ is also compiled against, and run on, the stand-in for its headers in `tensorrt_stand_in`.
"""

import ast
import importlib.util
import json
import os
import runpy
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.artifact import TensorSpec
from edgekit.bench.runtimes import runtime_class
from edgekit.bench.runtimes.openvino import OpenVino
from edgekit.errors import UsageError
from edgekit.lower import tensorrt
from edgekit.lower.check import Arrays, onnx_runner
from edgekit.lower.convert import convert_onnx
from edgekit.lower.snippet import (
    Language,
    Runtime,
    Subject,
    sizes_of,
    snippet,
    subject_of,
    write_beside,
)

PROBE = OpenVino.probe()
needs_openvino = pytest.mark.skipif(not PROBE.ok, reason=PROBE.reason)
IMAGE, GAIN = 'im"age\n??/', "1 ga\\in"  # what a literal must escape, trigraphs too
LOUD = "loud'"
STAND_IN = Path(__file__).parent / "tensorrt_stand_in"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Awkward names, dynamic multiples, a scalar, and outputs of three dtypes."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")
    bias = numpy_helper.from_array(rng.standard_normal(4).astype(np.float32), "b")
    nodes = [
        helper.make_node("Conv", [IMAGE, "w", "b"], ["c"], pads=[1] * 4),
        helper.make_node("Add", ["c", GAIN], [LOUD]),
        helper.make_node("Greater", [LOUD, GAIN], ["above"]),
        helper.make_node("Cast", [LOUD], ["half"], to=TensorProto.FLOAT16),
    ]
    frame, result = (["batch", channels, "16*h", "16*w"] for channels in (3, 4))
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, frame),
            helper.make_tensor_value_info(GAIN, TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info(LOUD, TensorProto.FLOAT, result),
            helper.make_tensor_value_info("above", TensorProto.BOOL, result),
            helper.make_tensor_value_info("half", TensorProto.FLOAT16, result),
        ],
        [weight, bias],
    )
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def feeds() -> Arrays:
    frame = np.random.default_rng(1).standard_normal((1, 3, 64, 64)).astype(np.float32)
    return {IMAGE: frame, GAIN: np.array(0.5, np.float32)}


@pytest.fixture(scope="module")
def intermediate(model: Path) -> Path:
    out = model.parent / "ir"
    convert_onnx(model, out, "openvino", batches=(1,), rtol=2e-3)  # half's own rounding
    return out


def assert_runs(
    program: Path,
    runtime: str,
    model: Path,
    feeds: Arrays,
    options: Mapping[str, str] | None = None,
) -> None:
    made = runpy.run_path(str(program))
    opened = made["load"]()
    with runtime_class(runtime)(model, {"threads": 1, **(options or {})}) as reference:
        wanted = reference.infer(feeds)
    found = made["infer"](opened, feeds)
    assert list(found) == list(wanted) == [LOUD, "above", "half"]
    for name, right in wanted.items():
        assert found[name].dtype == right.dtype
        np.testing.assert_array_equal(found[name], right)
    shapes = {name: array.shape for name, array in made["example"]().items()}
    assert shapes == {name: array.shape for name, array in feeds.items()}
    assert made["infer"](opened, made["example"]())[LOUD].shape == (1, 4, 64, 64)


def test_python_for_onnx(model: Path, feeds: Arrays, tmp_path: Path) -> None:
    path = Path(shutil.copy(model, tmp_path))
    assert write_beside(path, *ends_of(subject_of(path))) == ("infer.cpp", "infer.py")
    assert_runs(tmp_path / "infer.py", "onnxruntime", path, feeds)


def test_python_for_ort(model: Path, feeds: Arrays, tmp_path: Path) -> None:
    convert_onnx(model, tmp_path / "ort", "ort", batches=(1,))
    assert_runs(tmp_path / "ort/infer.py", "onnxruntime", tmp_path / "ort/net.ort", feeds)
    assert (tmp_path / "ort/infer.cpp").is_file()


@needs_openvino
def test_python_for_openvino(intermediate: Path, feeds: Arrays) -> None:
    exact = {"precision": "f32"}  # a processor with bfloat16 would round
    assert_runs(intermediate / "infer.py", "openvino", intermediate / "net.xml", feeds, exact)


def ends_of(subject: Subject) -> tuple[Runtime, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    return subject.runtime, subject.inputs, subject.outputs


def headers(runtime: str) -> list[str]:
    """Where the compiler finds a runtime's headers; empty where it does so by itself."""
    if runtime == "openvino":
        spec = importlib.util.find_spec("openvino")
        folders = [str(Path(str(spec.origin)).parent / "include")] if spec else []
        wanted = ["openvino/openvino.hpp"]
    elif runtime == "onnxruntime":
        folders = os.environ.get("EDGEKIT_ONNXRUNTIME_HEADERS", "").split(":")
        wanted = ["onnxruntime_cxx_api.h"]
    else:
        folders = os.environ.get("EDGEKIT_TENSORRT_HEADERS", "").split(":")
        wanted = ["NvInfer.h", "cuda_runtime_api.h"]
    folders = [folder for folder in folders if folder]
    places = [*map(Path, folders), Path("/usr/include"), Path("/usr/include/onnxruntime")]
    if not all(any((place / header).is_file() for place in places) for header in wanted):
        pytest.skip(f"the headers {', '.join(wanted)} are not here")
    return [f"-isystem{place}" for place in places[:-2]] + ["-isystem/usr/include/onnxruntime"]


def compile_cpp(program: Path, runtime: str, *more: str) -> None:
    compile_with(headers(runtime), program, *more)


def compile_with(folders: list[str], program: Path, *more: str) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    done = subprocess.run(
        ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", *folders, program, *more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
def test_cpp_compiles(model: Path, tmp_path: Path, runtime: Runtime) -> None:
    subject = subject_of(model)
    program = tmp_path / "infer.cpp"
    program.write_text(
        snippet(Subject(model.name, runtime, subject.inputs, subject.outputs), "cpp")
    )
    compile_cpp(program, runtime, "-fsyntax-only")


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_cpp_for_an_engine_runs_on_a_stand_in(
    model: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """Every input is fed with its shape, every output fetched with its own; errors are told."""
    subject = subject_of(model)
    source, program, engine = (tmp_path / n for n in ("infer.cpp", "infer", "net.engine"))
    source.write_text(
        snippet(Subject("net.engine", runtime, subject.inputs, subject.outputs), "cpp")
    )
    compile_with([f"-I{STAND_IN}"], source, "-o", str(program))
    widths = {LOUD: 4, "above": 1, "half": 2}
    lines = [f"in {spec.name.encode().hex()}" for spec in subject.inputs]
    lines += [f"out {name.encode().hex()} {width} 1 2 4" for name, width in widths.items()]

    def run(text: str) -> "subprocess.CompletedProcess[str]":
        engine.write_text(text)
        return subprocess.run([program, engine], capture_output=True, text=True, check=False)

    done = run("\n".join(lines))
    assert done.returncode == 0, done.stderr
    said = [f"{name}: 8 values 1 2 3 4 5" for name in widths]
    assert done.stdout.splitlines() == said
    unfed = run("\n".join([*lines, f"in {b'another'.hex()}"]))
    assert (unfed.returncode, unfed.stderr) == (1, "the engine failed to run\n")
    broken = run("nonsense")
    assert broken.returncode == 1
    assert broken.stderr.splitlines() == ["this is no engine", "the engine does not load here"]


@needs_openvino
def test_cpp_for_openvino_computes_the_same(
    model: Path, intermediate: Path, tmp_path: Path
) -> None:
    """Compiled, linked with the wheel's library and run on its own inputs of zeros."""
    spec = importlib.util.find_spec("openvino")
    assert spec is not None
    assert spec.origin is not None
    libraries = Path(spec.origin).resolve().parent / "libs"
    (library,) = libraries.glob("libopenvino.so.*")
    program = tmp_path / "infer"
    flags = (str(library), f"-Wl,-rpath,{libraries}", "-o", str(program))
    compile_cpp(intermediate / "infer.cpp", "openvino", *flags)
    done = subprocess.run(
        [program, intermediate / "net.xml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    zeros = {IMAGE: np.zeros((1, 3, 64, 64), np.float32), GAIN: np.zeros((), np.float32)}
    right = onnx_runner(model)(zeros)
    said = dict(line.split(": ") for line in done.stdout.splitlines())
    assert list(said) == list(right)
    for name in (LOUD, "above"):
        count, _, values = said[name].partition(" values ")
        assert int(count) == right[name].size
        np.testing.assert_allclose(
            [float(v) for v in values.split()], right[name].ravel()[:5].astype(float), atol=1e-5
        )


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_python_for_an_engine_uses_what_the_library_has(model: Path, runtime: Runtime) -> None:
    """Its GPU calls are run by the tests marked `gpu`."""
    library = pytest.importorskip("tensorrt_rtx")
    subject = subject_of(model)
    text = snippet(Subject("net.engine", runtime, subject.inputs, subject.outputs), "python")
    tree = ast.parse(text)
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "trt"
    }
    assert {"Runtime", "Logger", "nptype"} <= used
    assert all(hasattr(library, name) for name in used)
    classes = (library.Runtime, library.ICudaEngine, library.IExecutionContext)
    for name in ("deserialize_cuda_engine", "get_tensor_dtype", "execute_async_v3"):
        assert f".{name}(" in text
        assert any(hasattr(each, name) for each in classes)


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_python_for_an_engine(
    model: Path, feeds: Arrays, tmp_path: Path, runtime: Literal["tensorrt", "tensorrt-rtx"]
) -> None:
    found = runtime_class(runtime).probe()
    if not found.ok or importlib.util.find_spec("cuda") is None:
        pytest.skip(found.reason if not found.ok else "cuda-python is not installed")
    from edgekit.bench.runtimes.cuda import device_name

    engine = tmp_path / "net.engine"
    capability = device_name().rpartition("(")[2].rstrip(")")
    shapes = {IMAGE: ((1, 3, 64, 64),) * 3}
    wanted = () if runtime == "tensorrt" else (capability,)
    tensorrt.build_engine(
        model, engine, runtime=runtime, compute_capabilities=wanted, shapes=shapes
    )
    write_beside(engine, *ends_of(subject_of(engine)), shapes={IMAGE: (1, 3, 64, 64)})
    made = runpy.run_path(str(tmp_path / "infer.py"))
    right = onnx_runner(model)(feeds)[LOUD]
    got = made["infer"](made["load"](), feeds)[LOUD]
    np.testing.assert_allclose(got, right, atol=2e-2, rtol=0)  # TF32 keeps 11 bits


@pytest.mark.skipif(not tensorrt.available("tensorrt-rtx")[0], reason="no tensorrt-rtx")
def test_an_engine_says_what_goes_in(model: Path, tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    shapes = {IMAGE: ((1, 3, 16, 16), (3, 3, 32, 48), (8, 3, 64, 64))}
    tensorrt.build_engine(model, engine, compute_capabilities=("8.6",), shapes=shapes)
    subject = subject_of(engine)
    assert subject.runtime == "tensorrt-rtx"
    assert [spec.name for spec in subject.inputs] == [IMAGE, GAIN]
    assert [size.value for size in sizes_of(subject)] == [3, 32, 48]
    facts = json.loads((tmp_path / "model.engine.json").read_text())
    del facts["inputs"]
    (tmp_path / "model.engine.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match="goes in and out"):
        subject_of(engine)
    (tmp_path / "model.engine.json").unlink()
    with pytest.raises(UsageError, match="not beside it"):
        subject_of(engine)


def spec(name: str, dtype: str = "float32", shape: tuple[int | str, ...] = (1,)) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def test_sizes_have_names_of_their_own() -> None:
    dims = ("batch", "Batch", "é", "2*t", "a\nimport os")
    subject = Subject("m.onnx", "onnxruntime", (spec("x", shape=dims),), (spec("y"),))
    assert [(s.name, s.value) for s in sizes_of(subject)] == [
        ("n_batch", 1),
        ("n_batch_2", 64),
        ("n_size", 64),
        ("n_2_t", 64),
        ("n_a_import_os", 64),
    ]
    text = snippet(subject, "python")
    assert "os" not in {n for node in ast.walk(ast.parse(text)) for n in getattr(node, "names", ())}
    assert text.count("\nimport ") == 2
    assert "import os" not in [line.strip() for line in snippet(subject, "cpp").splitlines()]


@pytest.mark.parametrize("language", ["python", "cpp"])
@pytest.mark.parametrize(
    ("runtime", "dtype"),
    [("onnxruntime", "float8_e4m3fn"), ("onnxruntime", "object"), ("tensorrt", "float64")],
)
def test_odd_dtypes_are_refused(
    language: Language, runtime: Runtime, dtype: str, tmp_path: Path
) -> None:
    subject = Subject("m", runtime, (spec("x", dtype),), (spec("y"),))
    with pytest.raises(UsageError, match=dtype) as error:
        snippet(subject, language)
    assert "float32" in error.value.hint
    assert write_beside(tmp_path / "m", *ends_of(subject)) == ()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"nothing": [1]}, "no input 'nothing'"),
        ({IMAGE: [1, 3, 64]}, "does not fit"),
        ({IMAGE: [1, 4, 64, 64]}, "does not fit"),
    ],
)
def test_shapes_that_do_not_fit(model: Path, shapes: dict[str, list[int]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        subject_of(model, shapes)
    given = subject_of(model, {IMAGE: [2, 3, 32, 48]})
    assert [size.value for size in sizes_of(given)] == [2, 32, 48]
