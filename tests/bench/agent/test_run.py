"""Benchmarks by the real agent: measured, stopped, crashed, abandoned."""

import io
import os
import platform
import shlex
import signal
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper

from edgekit.bench import BenchResult
from edgekit.bench.roofline import Peaks
from tests.bench.agent.harness import FOREVER, gone, npz, protocol


def save_division(path: Path) -> Path:
    """Save a model that divides int64s: the lowest one by -1 traps on x86, and kills."""
    ends = [helper.make_tensor_value_info(name, TensorProto.INT64, [4]) for name in "xzy"]
    node = helper.make_node("Div", ["x", "z"], ["y"], "divide")
    graph = helper.make_graph([node], "division", ends[:2], ends[2:])
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


def division_feeds(by: int) -> dict[str, np.ndarray]:
    return {
        "x": np.full(4, np.iinfo(np.int64).min, np.int64),
        "z": np.full(4, by, np.int64),
    }


@pytest.fixture
def running(agent, mlp, feeds):
    """Return an agent in the midst of a benchmark that would take an hour."""
    agent.send(agent.run(agent.subject(mlp, feeds), protocol=FOREVER))
    agent.wait_for_progress("round")
    return agent


def test_a_real_model_is_measured_end_to_end(agent, mlp, feeds):
    assert agent.ask({"type": "lock"}) == {"type": "locked"}
    subject = agent.subject(mlp, feeds)
    wanted = {"baseline": "mlp", "layers": True, "roofline": {"mlp": ["float32"]}}
    answer = agent.ask(agent.run(subject, {**subject, "name": "b"}, **wanted))
    assert answer["type"] == "result", answer
    result = BenchResult.from_dict(answer["result"])
    with np.load(io.BytesIO(agent.bytes(answer["size"]))) as raw:
        assert raw["mlp/ns"].size == result.subject("mlp").n > 0
        assert raw["b/round"].dtype == np.int32
    assert result.complete
    assert result.subject("mlp").model == "mlp.onnx"
    assert result.subject("mlp").p50_ms.label == "measured"
    assert result.subject("mlp").p50_ms.value > 0
    assert set(result.comparisons) == {"b"}
    assert result.conditions["power_mode"]
    assert {layer["op"] for layer in answer["layers"]["mlp"]} >= {"MatMul"}
    assert list(answer["peaks"]) == ["mlp"]
    peaks = Peaks.from_dict(answer["peaks"]["mlp"])
    assert peaks.macs_per_s["float32"].value > 0
    assert peaks.bandwidth(0).unit == "B/s"
    assert [each["fraction"] for each in agent.progress] == sorted(
        each["fraction"] for each in agent.progress
    )
    assert agent.end() == 0
    assert list((agent.root() / "work").iterdir()) == []
    assert (agent.root() / "lock").read_bytes() == b""


def test_a_meters_name_travels_with_its_argument(agent, mlp, feeds):
    """Constant power of a program on the device: whatever the load, joules a second are that."""
    code = "import time\nwhile True: print(7.5, flush=True); time.sleep(0.1)"
    meter = f"command:{shlex.join([sys.executable, '-c', code])}"
    rules = protocol(idle_s=0.5, window_s=0.5, windows=1)
    assert agent.ask({"type": "lock"}) == {"type": "locked"}
    order = agent.run(agent.subject(mlp, feeds), protocol=rules, meters=["ina3221", meter])
    answer = agent.ask(order)
    assert answer["type"] == "result", answer
    energy = BenchResult.from_dict(answer["result"]).subject("mlp").energy
    assert energy.meter == meter
    assert energy.power_w.value == pytest.approx(7.5)
    assert energy.energy_j.label == "measured"
    agent.bytes(answer["size"])


def test_external_data_is_found_beside_the_model(agent, mlp, feeds, tmp_path):
    model = onnx.load(mlp)
    external_data_helper.convert_model_to_external_data(
        model, location="mlp.data", size_threshold=0
    )
    path = tmp_path / "outside.onnx"
    onnx.save(model, path)
    subject = agent.subject(path, feeds, beside=[tmp_path / "mlp.data"])
    answer = agent.ask(agent.run(subject))
    assert answer["type"] == "result", answer
    agent.bytes(answer["size"])

    del subject["model"]["beside"]["mlp.data"]
    answer = agent.ask(agent.run(subject))
    assert answer["kind"] == "usage"
    assert "outside.onnx" in answer["message"]


def test_the_devices_own_paths_stay_out_of_messages(agent, mlp):
    answer = agent.ask(agent.run(agent.subject(mlp, {"z": np.ones(1)})))
    assert (answer["kind"], answer["message"]) == ("usage", "mlp.onnx has no input 'z'.")
    answer = agent.ask(agent.run(agent.subject(__file__, {"x": np.ones(1)})))
    assert answer["kind"] == "usage"
    assert "ONNX Runtime cannot load test_run.py" in answer["message"]


def test_every_figure_under_an_emulator_is_labelled_so(agent, mlp, feeds):
    answer = agent.ask(agent.run(agent.subject(mlp, feeds), emulated=True))
    result = BenchResult.from_dict(answer["result"])
    agent.bytes(answer["size"])
    subject = result.subject("mlp")
    assert subject.p50_ms.label == "emulated"
    assert subject.p50_ms.value > 0
    assert subject.energy.energy_j.label == "unavailable"
    assert any("emulated" in warning for warning in result.warnings)


def test_an_unknown_field_of_the_protocol_is_a_wrong_use(agent, mlp, feeds):
    answer = agent.ask(agent.run(agent.subject(mlp, feeds), protocol={"pace": 3}))
    assert answer["kind"] == "usage"
    assert "'pace'" in answer["message"]
    assert agent.end() == 0


def test_feeds_that_are_no_arrays_are_refused(agent, mlp, feeds):
    subject = agent.subject(mlp, feeds)
    subject["feeds"] = agent.put(b"not a zip archive")
    answer = agent.ask(agent.run(subject))
    assert (answer["type"], answer["kind"]) == ("error", "usage")
    assert "inputs of 'mlp'" in answer["message"]
    subject["feeds"] = agent.put(npz(x=np.array([{}], dtype=object)))
    assert agent.ask(agent.run(subject))["kind"] == "usage"


def test_a_power_mode_that_the_device_lacks(agent, mlp, feeds):
    answer = agent.ask(agent.run(agent.subject(mlp, feeds), power_mode="nvpmodel:WARP"))
    assert answer["type"] == "error"
    assert answer["kind"] in ("usage", "unavailable")
    assert "power mode" in answer["message"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86 traps on this division")
def test_a_model_that_crashes_its_runtime_is_reported_and_the_agent_lives(agent, tmp_path):
    model = save_division(tmp_path / "division.onnx")
    answer = agent.ask(agent.run(agent.subject(model, division_feeds(by=-1))))
    assert (answer["type"], answer["kind"]) == ("error", "crash")
    assert "SIGFPE" in answer["message"]
    assert "Floating point exception" in answer["message"]  # of the worker's own last words
    answer = agent.ask(agent.run(agent.subject(model, division_feeds(by=2))))
    assert answer["type"] == "result"
    agent.bytes(answer["size"])
    assert agent.end() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_worker_that_is_killed_is_reported_with_its_signal(running, number):
    (worker,) = running.workers()
    os.kill(worker, number)
    answer = running.receive()
    assert (answer["type"], answer["kind"]) == ("error", "crash")
    assert number.name in answer["message"]
    assert ("memory ran out" in answer["message"]) == (number == signal.SIGKILL)
    assert running.end() == 0
    assert list((running.root() / "work").iterdir()) == []


def test_stop_gives_what_there_is(running):
    running.send({"type": "stop"})
    answer = running.receive()
    assert answer["type"] == "result", answer
    result = BenchResult.from_dict(answer["result"])
    assert not result.complete
    assert result.subject("mlp").n > 0
    with np.load(io.BytesIO(running.bytes(answer["size"]))) as raw:
        assert raw["mlp/ns"].size == result.subject("mlp").n
    running.send({"type": "stop"})  # one too many, as when it crosses the result
    assert running.end() == 0


def test_the_end_of_the_host_ends_the_worker_and_tidies_up(running):
    (worker,) = running.workers()
    running.process.stdin.close()
    assert gone(worker)
    assert running.process.wait(60) == 0
    assert list((running.root() / "work").iterdir()) == []
    assert (running.root() / "lock").read_bytes() == b""


def test_a_host_that_no_longer_reads_ends_the_worker(running):
    (worker,) = running.workers()
    running.process.stdout.close()
    assert gone(worker)
    assert running.process.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_agent_ends_the_worker_and_tidies_up(running, number):
    (worker,) = running.workers()
    running.process.send_signal(number)
    assert running.process.wait(60) == 128 + signal.SIGTERM
    assert gone(worker)
    assert list((running.root() / "work").iterdir()) == []


def test_what_a_killed_agent_leaves_is_gone_after_the_next_start(running, start):
    (worker,) = running.workers()
    running.process.kill()
    assert gone(worker)  # the kernel ends it with its parent
    left = list((running.root() / "work").iterdir())
    assert len(left) == 1
    (running.root() / "files" / ".part-cut-off").write_bytes(b"half")

    after = start(cache=running.cache)
    assert after.hello()["type"] == "hello"
    assert after.ask({"type": "lock"}) == {"type": "locked"}  # free at once
    assert after.end() == 0
    assert not left[0].exists()
    assert not (running.root() / "files" / ".part-cut-off").exists()


def test_ctrl_c_at_the_terminal_is_left_to_the_host(running):
    (worker,) = running.workers()
    running.process.send_signal(signal.SIGINT)
    running.send({"type": "stop"})
    assert running.receive()["type"] == "result"
    assert gone(worker)


def test_the_supervisor_sleeps_while_the_worker_measures(running):
    status = Path(f"/proc/{running.process.pid}/status")

    def about():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["Threads"]), int(fields["voluntary_ctxt_switches"])

    _, before = about()
    time.sleep(2)  # hundreds of blocks
    threads, after = about()
    assert threads == 1
    assert after - before <= 3  # a heartbeat, and a line of progress
