import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.bench import Protocol, Subject, bench, model_inputs, random_feeds
from edgekit.bench.runtimes.onnxruntime import SMALLEST_MODEL, OnnxRuntime
from edgekit.errors import UnavailableError, UsageError

FEEDS = {"x": np.ones((2, 16), np.float32)}


def test_every_option_is_recorded(mlp):
    with OnnxRuntime(mlp, {"threads": 2, "arena": False}) as runtime:
        assert runtime.options["threads"] == 2
        assert runtime.options["arena"] is False
        assert set(runtime.options) >= set(OnnxRuntime.DEFAULTS) - {"profile"}
        assert runtime.options["providers"] == ["CPUExecutionProvider"]
        assert runtime.options["version"]


def test_options_reach_the_session(mlp):
    with OnnxRuntime(mlp, {"threads": 2, "spinning": False, "optimization": "basic"}) as runtime:
        settings = runtime._session.get_session_options()
        assert settings.intra_op_num_threads == 2
        assert settings.inter_op_num_threads == 1
        assert settings.graph_optimization_level.name == "ORT_ENABLE_BASIC"
        assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize("bound", [True, False])
def test_a_bound_run_computes_what_infer_computes(mlp, bound):
    with OnnxRuntime(mlp, {"bound": bound}) as runtime:
        assert runtime.options["bound"] is bound
        expected = runtime.infer(FEEDS)["y"]
        bound = {"x": FEEDS["x"].copy()}
        run = runtime.bind(bound)
        for _ in range(3):
            run()
        np.testing.assert_array_equal(runtime.infer(bound)["y"], expected)


def test_the_smallest_model_is_what_it_says():
    model = onnx.load_model_from_string(SMALLEST_MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Identity"]


# The library's own code, about 10 MB, is read in by the first session of a process.
FIRST_AND_SECOND = """
import sys
from pathlib import Path
import numpy as np
from edgekit.bench.highwater import HighWater
from edgekit.bench.measure import Subject, load, open_runtime
from edgekit.bench.protocol import Protocol, SystemClock
high = HighWater()
feeds = {"x": np.ones((2, 16), np.float32)}
loaded = []
for name in "ab":
    subject = Subject(name, "onnxruntime", Path(sys.argv[1]), feeds)
    loaded.append(load(subject, Protocol.quick(), SystemClock(), open_runtime, high))
print(*(each.peak_bytes for each in loaded))
"""


def test_the_first_model_does_not_answer_for_the_library(mlp):
    command = [sys.executable, "-c", FIRST_AND_SECOND, str(mlp)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if "None" in done.stdout:
        pytest.skip("this kernel keeps no high-water mark that can be set back")
    first, second = map(int, done.stdout.split())
    assert first - second < 4 << 20


def test_open_dimensions_called_question_mark_are_not_one_dimension(tmp_path):
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["?", "?"]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "open.onnx")
    with OnnxRuntime(tmp_path / "open.onnx", {}) as runtime:
        assert runtime.inputs[0].shape == ("", "")
        assert runtime.infer({"x": np.ones((2, 3), np.float32)})["y"].shape == (2, 3)


def test_no_such_file(tmp_path):
    with pytest.raises(UsageError, match=r"none\.onnx does not exist"):
        OnnxRuntime(tmp_path / "none.onnx", {}).__enter__()


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda _: b"", lambda _: b"\xff" * 99]
)
def test_a_broken_file_is_named(mlp, damage):
    mlp.write_bytes(damage(mlp.read_bytes()))
    with pytest.raises(UsageError, match=r"cannot load .*mlp\.onnx"):
        OnnxRuntime(mlp, {}).__enter__()


def test_an_operator_that_does_not_exist_is_named(tmp_path):
    node = helper.make_node("Nonesuch", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    path = tmp_path / "odd.onnx"
    opset = helper.make_opsetid("", 20)
    graph = helper.make_graph([node], "odd", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    with pytest.raises(UsageError, match="Nonesuch"):
        OnnxRuntime(path, {}).__enter__()


def test_an_unknown_provider_lists_those_present(mlp):
    with pytest.raises(UsageError, match="'NoneProvider'") as raised:
        OnnxRuntime(mlp, {"providers": ["NoneProvider"]}).__enter__()
    assert "CPUExecutionProvider" in raised.value.hint


@pytest.mark.parametrize("options", [{"thread": 1}, {"optimization": "most"}])
def test_unknown_options_are_refused(mlp, options):
    with pytest.raises(UsageError, match=r"'thread'|'most'"):
        OnnxRuntime(mlp, options)


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({}, "'x' of mlp.onnx is not fed"),
        ({"x": np.ones((2, 15), np.float32)}, r"'x' .* shape \[2, 15\]"),
        ({"x": np.ones((2, 16))}, "'x' of mlp.onnx is float64"),
        ({"x": np.ones(16, np.float32)}, r"'x' .* shape \[16\]"),
        ({"x": np.ones((2, 16), np.float32), "z": np.ones(1)}, "no input 'z'"),
    ],
)
def test_feeds_that_do_not_fit_name_the_input(mlp, feeds, says):
    with OnnxRuntime(mlp, {}) as runtime:
        with pytest.raises(UsageError, match=says):
            runtime.bind(feeds)
        with pytest.raises(UsageError, match=says):
            runtime.infer(feeds)


def test_inputs_that_share_a_dimension_must_agree_on_it(tmp_path):
    names = ("a", "b")
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in names]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    path = tmp_path / "add.onnx"
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "g", infos, [out])
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    says = r"n = 3.* 'a' has n = 2"
    with OnnxRuntime(path, {}) as runtime, pytest.raises(UsageError, match=says):
        runtime.bind({"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)})


def test_without_onnxruntime_it_says_what_to_install(mlp, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    probe = OnnxRuntime.probe()
    assert not probe.ok
    assert "onnxruntime" in probe.fix
    with pytest.raises(UnavailableError):
        OnnxRuntime(mlp, {}).__enter__()


def test_a_real_comparison_end_to_end(mlp):
    feeds = random_feeds(model_inputs(mlp), batch=4)
    subjects = [Subject(name, "onnxruntime", mlp, feeds) for name in ("a", "b")]
    protocol = Protocol(
        form="quick",
        warmup_s=0.0,
        warmup_runs=1,
        warmup_block_s=0.002,
        warmup_max_s=0.02,
        block_s=0.002,
        settle_s=0.0,
        min_rounds=10,
        min_s=0.01,
        max_s=0.05,
        resamples=100,
    )
    result = bench(subjects, protocol, baseline="a")
    for name in ("a", "b"):
        one = result.subject(name)
        assert one.n >= 10
        assert one.p50_ms.value > 0
        assert one.load_ms > 0
        assert one.first_ms > 0
    assert result.comparisons["b"].verdict in ("faster", "slower", "inconclusive")
    assert result.comparisons["b"].rounds >= 10


def test_the_bench_imports_nothing_heavy_and_of_edgekit_only_the_errors():
    code = (
        "import sys, edgekit.bench, edgekit.bench.profile, edgekit.bench.meters.rapl\n"
        "from edgekit.bench.runtimes import probe_runtimes\n"
        "heavy = {'torch', 'onnx', 'pydantic', 'yaml', 'onnxruntime'} & set(sys.modules)\n"
        "own = {m for m in sys.modules if m.startswith('edgekit') and 'bench' not in m}\n"
        "assert not heavy, heavy\n"
        "assert own == {'edgekit', 'edgekit.errors'}, own\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
