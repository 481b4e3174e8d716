"""What every runtime must do. One that cannot run here must say why, and refuse in those words."""

import inspect
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgekit.bench import random_feeds
from edgekit.bench.runtimes import Availability, IoSpec, probe_runtimes
from edgekit.errors import UnavailableError, UsageError
from edgekit.pipeline.runtimes import TORCH, names, probe, runtime_class


class Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"twice": x + x, "minus": -x}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one model in two formats; what torch compiles is kept in it, too."""
    folder = tmp_path_factory.mktemp("double")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
        yield folder


@pytest.fixture(scope="module")
def double_onnx(folder):
    """Return a file that doubles `x` of shape [batch, 3] and negates it, in two outputs."""
    infos = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])
        for name in ("x", "twice", "minus")
    }
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Neg", ["x"], ["minus"]),
    ]
    graph = helper.make_graph(nodes, "g", [infos["x"]], [infos["twice"], infos["minus"]])
    opset = helper.make_opsetid("", 20)
    path = folder / "double.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def double_pt2(folder):
    """Return the same model as a captured program."""
    from edgekit.graph.capture import capture
    from edgekit.graph.store import save

    save(capture(Doubled(), {"x": torch.zeros(2, 3)}), folder / "double.pt2")
    return folder / "double.pt2"


@pytest.fixture(params=names())
def name(request):
    return request.param


@pytest.fixture
def model(name, request):
    """Return the model in a format that the runtime reads, short of engines."""
    return request.getfixturevalue("double_pt2" if name in TORCH else "double_onnx")


@pytest.fixture
def runtime(name, model, tmp_path):
    """Return an entered runtime on the model in its format, or skip with the runtime's reason."""
    kind = runtime_class(name)
    if not kind.probe().ok:
        pytest.skip(kind.probe().reason)
    if name.startswith("tensorrt"):
        from edgekit.lower.tensorrt import build_engine
        from edgekit.progress import Silent

        engine = tmp_path / "double.engine"
        shapes = {"x": ((1, 3), (2, 3), (5, 3))}
        build_engine(
            model,
            engine,
            runtime=name,
            compute_capabilities=(),
            shapes=shapes,
            progress=Silent(),
        )
        model = engine
    with kind(model, {}) as opened:
        yield opened


def test_it_has_the_protocols_methods(name):
    kind = runtime_class(name)
    for method in ("__enter__", "__exit__", "infer", "bind", "synchronize", "probe"):
        assert inspect.getdoc(getattr(kind, method)), method


def test_the_probe_answers_and_says_what_to_do(name):
    found = probe(name)
    assert isinstance(found, Availability)
    assert found.reason
    assert bool(found.fix) is not found.ok
    assert name in TORCH or probe_runtimes()[name] == found


def test_where_the_probe_says_no_loading_refuses_with_the_same_reason(name, model):
    found = probe(name)
    if found.ok:
        pytest.skip("It can run here.")
    with pytest.raises(UnavailableError) as raised:
        runtime_class(name)(model, {}).__enter__()
    assert raised.value.message == found.reason
    assert raised.value.hint == found.fix


def test_an_unknown_option_is_refused_by_name(name, model):
    with pytest.raises(UsageError, match="'no_such_option'"):
        runtime_class(name)(model, {"no_such_option": 1})


def test_inputs_and_outputs_are_described_in_order(runtime):
    assert [spec.name for spec in runtime.inputs] == ["x"]
    assert [spec.name for spec in runtime.outputs] == ["twice", "minus"]
    assert all(isinstance(spec, IoSpec) and spec.dtype == "float32" for spec in runtime.inputs)
    assert isinstance(runtime.inputs[0].shape[0], str)
    assert runtime.inputs[0].shape[1] == 3


def test_every_option_is_recorded_as_plain_data_with_the_version(runtime):
    found = json.loads(json.dumps(dict(runtime.options)))
    assert found["version"]
    assert set(found) >= set(runtime.DEFAULTS) - {"profile"}


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_outputs_are_right_for_every_batch(runtime, batch):
    feeds = random_feeds(runtime.inputs, batch=batch, seed=batch)
    outputs = runtime.infer(feeds)
    np.testing.assert_allclose(outputs["twice"], 2 * feeds["x"], rtol=1e-6, atol=0)
    np.testing.assert_allclose(outputs["minus"], -feeds["x"], rtol=0, atol=0)


def test_a_bound_run_repeats_and_ends_synchronised(runtime):
    feeds = random_feeds(runtime.inputs, batch=2)
    run = runtime.bind(feeds)
    for _ in range(3):
        run()
    runtime.synchronize()
    np.testing.assert_allclose(runtime.infer(feeds)["twice"], 2 * feeds["x"], rtol=1e-6, atol=0)


def test_inputs_are_not_written_to(runtime):
    feeds = random_feeds(runtime.inputs, batch=2)
    before = feeds["x"].copy()
    runtime.bind(feeds)()
    runtime.infer(feeds)
    np.testing.assert_array_equal(feeds["x"], before)


def test_feeds_that_do_not_fit_name_the_input(runtime):
    for wrong in ({}, {"x": np.zeros((2, 4), np.float32)}, {"x": np.zeros((2, 3))}):
        with pytest.raises(UsageError, match="'x'"):
            runtime.bind(wrong)


def test_a_file_that_is_no_model_is_named(name, tmp_path):
    kind = runtime_class(name)
    if not kind.probe().ok:
        pytest.skip(kind.probe().reason)
    path = tmp_path / "noise.bin"
    path.write_bytes(b"\x00\x01noise" * 50)
    with pytest.raises(UsageError, match=r"noise\.bin"):
        kind(path, {}).__enter__()
    with pytest.raises(UsageError, match=r"missing\.bin"):
        kind(tmp_path / "missing.bin", {}).__enter__()


def test_an_unknown_runtime_names_the_nearest():
    with pytest.raises(UsageError, match="'onnxruntim'") as raised:
        runtime_class("onnxruntim")
    assert "'onnxruntime'" in raised.value.hint
