"""OpenVINO: what it is told, what it says of itself, and that it reports to nobody."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from edgekit.bench.runtimes.openvino import OpenVino
from edgekit.errors import UnavailableError, UsageError
from tests.bench.conftest import save_mlp

FEEDS = {"x": np.ones((2, 16), np.float32)}
PROBE = OpenVino.probe()
needs_openvino = pytest.mark.skipif(not PROBE.ok, reason=PROBE.reason)


def test_without_the_library_it_says_what_to_install(mlp, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = OpenVino.probe()
    assert not found.ok
    assert "openvino" in found.reason
    assert found.fix == 'pip install "edgekit[openvino]"'
    with pytest.raises(UnavailableError, match="does not import"):
        OpenVino(mlp, {}).__enter__()


@pytest.mark.parametrize(
    ("options", "words"), [({"hint": "FAST"}, "LATENCY"), ({"precision": "int8"}, "bf16")]
)
def test_a_wrong_choice_names_the_right_ones(mlp, options, words):
    with pytest.raises(UsageError, match=next(iter(options.values()))) as raised:
        OpenVino(mlp, options)
    assert words in raised.value.hint


@needs_openvino
def test_an_unknown_device_names_those_present(mlp):
    with pytest.raises(UsageError, match="'NPU'") as raised:
        OpenVino(mlp, {"device": "NPU"}).__enter__()
    assert "CPU" in raised.value.hint


@needs_openvino
def test_threads_and_hint_reach_openvino_and_what_it_made_of_them_is_recorded(mlp):
    with OpenVino(mlp, {"threads": 1, "hint": "THROUGHPUT"}) as runtime:
        found = json.loads(json.dumps(dict(runtime.options)))
    assert found["properties"]["INFERENCE_NUM_THREADS"] == 1
    assert found["properties"]["PERFORMANCE_HINT"] == "THROUGHPUT"
    assert found["properties"]["INFERENCE_PRECISION_HINT"] in {"f32", "f16", "bf16"}
    assert found["properties"]["EXECUTION_DEVICES"] == ["CPU"]


@needs_openvino
def test_a_precision_that_the_device_ignores_is_refused(mlp):
    with OpenVino(mlp, {"precision": "f32"}) as runtime:
        assert runtime.options["properties"]["INFERENCE_PRECISION_HINT"] == "f32"
    try:
        with OpenVino(mlp, {"precision": "f16"}) as runtime:
            real = runtime.options["properties"]["INFERENCE_PRECISION_HINT"]
    except UsageError as error:
        said = error.message
        assert "not in f16" in said
        return
    assert real == "f16"  # a processor that has it


@needs_openvino
def test_outputs_are_kept_apart_from_the_request(mlp):
    with OpenVino(mlp, {}) as runtime:
        first = runtime.infer(FEEDS)["y"]
        before = first.copy()
        runtime.infer({"x": 5 * FEEDS["x"]})
        np.testing.assert_array_equal(first, before)


@needs_openvino
def test_it_agrees_with_onnx_runtime(tmp_path):
    from edgekit.bench.runtimes.onnxruntime import OnnxRuntime

    path = save_mlp(tmp_path / "deep.onnx", layers=8)
    with OpenVino(path, {"precision": "f32"}) as one, OnnxRuntime(path, {}) as other:
        found, expected = one.infer(FEEDS)["y"], other.infer(FEEDS)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@needs_openvino
def test_importing_it_writes_nothing_into_the_home_folder_and_loads_no_telemetry(tmp_path):
    code = (
        "import sys\n"
        "from edgekit.bench.runtimes.openvino import OpenVino\n"
        "assert OpenVino.probe().ok\n"
        "assert not [n for n in sys.modules if n.startswith('openvino_telemetry')]\n"
    )
    env = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert not list(tmp_path.iterdir())
