"""Outputs of a model by the real agent: the same that the runtime gives here."""

import io

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.bench.conftest import save_mlp


def infer(agent, *subjects):
    return agent.ask({"type": "infer", "request": {"subjects": list(subjects)}})


def save(path, node, dtype=TensorProto.FLOAT, shape=None):
    """Save a model of one node."""
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("y", dtype, shape or ["m"]),
    ]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:])
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


def test_each_run_gives_what_the_runtime_gives_here(agent, tmp_path):
    model = save_mlp(tmp_path / "mlp.onnx")
    runs = np.random.default_rng(0).standard_normal((3, 5, 16)).astype(np.float32)
    answer = infer(agent, agent.subject(model, {"x": runs}))
    assert (answer["type"], answer["outputs"]) == ("result", ["y"])
    with np.load(io.BytesIO(agent.bytes(answer["size"])), allow_pickle=False) as found:
        there = found["0"]
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    here = np.stack([session.run(["y"], {"x": run})[0] for run in runs])
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-6)
    assert agent.end() == 0
    assert list((agent.root() / "work").iterdir()) == []


@pytest.mark.parametrize("runs", [np.float32(1), np.zeros((0, 5, 16), np.float32)])
def test_no_runs_are_a_wrong_use(agent, mlp, runs):
    answer = infer(agent, agent.subject(mlp, {"x": runs}))
    assert (answer["type"], answer["kind"]) == ("error", "usage")
    assert "no runs" in answer["message"]


def test_one_model_at_a_time(agent, mlp, feeds):
    answer = infer(agent, *[agent.subject(mlp, feeds)] * 2)
    assert (answer["type"], answer["kind"]) == ("error", "usage")


def test_inputs_that_do_not_fit(agent, mlp):
    answer = infer(agent, agent.subject(mlp, {"z": np.zeros((1, 1, 16), np.float32)}))
    assert (answer["kind"], answer["message"]) == ("usage", "mlp.onnx has no input 'z'.")


@pytest.mark.parametrize(
    ("node", "dtype", "shape", "message"),
    [
        (helper.make_node("NonZero", ["x"], ["y"]), TensorProto.INT64, [1, "m"], "another shape"),
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING), TensorProto.STRING, ["n"],
         "not a tensor of numbers"),
    ],
    ids=["shape", "text"],
)  # fmt: skip
def test_outputs_that_cannot_be_compared(agent, tmp_path, node, dtype, shape, message):
    model = save(tmp_path / "one.onnx", node, dtype, shape)
    answer = infer(agent, agent.subject(model, {"x": np.array([[0, 1], [1, 1]], np.float32)}))
    assert (answer["type"], answer["kind"]) == ("error", "usage")
    assert message in answer["message"]


def test_a_stop_ends_it(agent, tmp_path):
    model = save_mlp(tmp_path / "large.onnx", width=512, layers=8)
    runs = np.zeros((300, 64, 512), np.float32)
    agent.send({"type": "infer", "request": {"subjects": [agent.subject(model, {"x": runs})]}})
    agent.wait_for_progress("run")
    agent.send({"type": "stop"})
    answer = agent.receive()
    assert (answer["type"], answer["kind"]) == ("error", "stopped")
    assert agent.end() == 0
