"""Engines built on a device over a real SSH server, by the real TensorRT-RTX: it needs no GPU.

What a device could send in place of one comes from a script.
"""

import io
import json
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.bench.agent.build import _plan, how_to_get
from edgekit.bench.agent.build import build as build_there
from edgekit.bench.agent.cache import Cache
from edgekit.bench.agent.request import lay_out_build
from edgekit.bench.agent.wire import AgentError
from edgekit.bench.engine import library
from edgekit.bench.engine.build import Built, Plan
from edgekit.bench.engine.options import BuildOptions
from edgekit.device import build
from edgekit.device.engines import _read, _timings
from edgekit.errors import DeviceError, PassError, UnavailableError, UsageError
from tests.device.conftest import save_network, until
from tests.device.test_session import DEVICE, SHORT, Scripted, talk

PLAN = Plan("tensorrt-rtx", compute_capabilities=("8.6",), options=BuildOptions(sparse=True))
needs_builder = pytest.mark.skipif(
    not library.available("tensorrt-rtx")[0], reason="tensorrt-rtx is not installed"
)


@needs_builder
def test_an_engine_comes_back(server, tmp_path):
    model, shown = save_network(tmp_path / "net.onnx", external=True), []
    built = build(server.device(), model, PLAN, say=lambda _, text: shown.append(text))
    assert len(built.data) > 1000
    assert built.version == library.load("tensorrt-rtx").__version__
    assert built.compute_capabilities == ("8.6",)
    assert built.flags == ("STRONGLY_TYPED", "SPARSE_WEIGHTS")
    assert (built.parser_warnings, built.gpu, built.layers) == ((), "", None)
    assert built.seconds > 0
    assert any(text.startswith("sending net.bin") for text in shown)
    assert shown[-1] == "building"
    until(lambda: not server.left_behind(), "the device is as it was")


@needs_builder
def test_what_the_parser_refuses_there(server, tmp_path):
    node = helper.make_node("Det", ["x"], ["y"], name="head/Det")
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", [3, 3]), ("y", []))
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    path = tmp_path / "net.onnx"
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    with pytest.raises(PassError, match=r"board: The parser refuses node 'head/Det'"):
        build(server.device(), path, PLAN)


def test_a_builder_that_the_device_lacks(server, subject, tmp_path):
    if library.available("tensorrt")[0]:
        pytest.skip("TensorRT is here")
    with pytest.raises(UnavailableError, match="board: The device cannot build") as error:
        build(server.device(), subject.model, Plan("tensorrt"))
    assert f"{sys.executable} -m pip install numpy tensorrt" in error.value.hint
    jetson = tmp_path / "nv_tegra_release"
    jetson.touch()
    assert "python3-libnvinfer" in how_to_get("tensorrt", jetson)


@needs_builder
def test_ctrl_c_ends_a_build(server, subject):
    """Asked to stop while the library works, which cannot be interrupted."""
    model = save_network(subject.model.with_name("large.onnx"), hidden=2048)

    def press(fraction, text):
        if text == "building":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(server.device(), model, PLAN, say=press)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    until(lambda: not server.left_behind(), "the device is as it was")


@needs_builder
def test_a_device_that_goes_away(server, subject):
    def unplug(fraction, text):
        if text == "building":
            for pid in server.agents():
                os.kill(pid, signal.SIGKILL)

    model = save_network(subject.model.with_name("large.onnx"), hidden=2048)
    with pytest.raises(DeviceError, match="board was lost in mid-run"):
        build(server.device(), model, PLAN, say=unplug)


@pytest.mark.parametrize("facts", [None, {}, {"version": 1}])
def test_an_engine_that_is_none(facts):
    packed = io.BytesIO()
    np.savez(packed, engine=np.zeros(3, np.uint8))
    for sent in (packed.getvalue(), b""):
        with talk("hear()") as session, pytest.raises(DeviceError, match="engine is broken"):
            _read(session, facts, sent)


@pytest.mark.parametrize(
    "change",
    [
        {"runtime": "other"},
        {"profile": {"x": [[1]]}},
        {"profile": 3},
        {"options": {"color": "red"}},
        {"compute_capabilities": None},
    ],
)
def test_a_plan_that_is_none(change):
    about = {"runtime": "tensorrt", "profile": {}, "compute_capabilities": [], "options": {}}
    assert _plan(about) == Plan("tensorrt")
    with pytest.raises(UsageError, match="plan cannot be read"):
        _plan({**about, **change})


def test_files_stay_in_the_work_folder(tmp_path):
    cache, sha = Cache(tmp_path / "files"), "0" * 64
    (tmp_path / "files" / sha).write_bytes(b"net")
    about = {"model": {"sha256": sha, "name": "net.onnx"}, "plan": {}}

    def laid(name, **more):
        folder = tmp_path / name
        folder.mkdir()
        return lay_out_build({"request": {**about, **more}}, cache, folder)

    order = laid("good", timings={"a.cache": sha})
    assert Path(order["model"]).read_bytes() == b"net"
    assert [path.name for path in Path(order["timings"]).iterdir()] == ["a.cache"]
    for number, name in enumerate(("../a.cache", "/a.cache")):
        with pytest.raises(AgentError, match="inside a folder"):
            laid(f"bad-{number}", timings={name: sha})


CACHE = "tensorrt-10.3.0-nvidia-orin-8.7.cache"
BUILDS = """
import io
import numpy as np
assert hear()["type"] == "lock"; say(type="locked")
assert hear()["type"] == "have"; say(type="missing", files=[])
request, built = hear()["request"], json.loads(BUILT)
built["parser_warnings"] = sorted(request["timings"])
packed = io.BytesIO()
np.savez(packed, engine=np.arange(9, dtype=np.uint8), timings=np.frombuffer(b"learnt", np.uint8))
say(type="result", size=len(packed.getvalue()), built=built)
sys.stdout.buffer.write(packed.getvalue()); sys.stdout.flush()
assert hear()["type"] == "bye"; say(type="bye")
"""


@pytest.fixture
def build_by_script(subject, tmp_path, monkeypatch):
    """Build on a device that sends a finished engine, and a timing cache of some name."""

    def build_(cache=CACHE, folder=tmp_path / "timings"):
        built = Built(
            b"", "10.3.0", ("8.7",), 1800.0, (), (), (), "NVIDIA Orin (8.7)", "", cache, []
        )
        facts = {name: value for name, value in vars(built).items() if name != "data"}
        script = BUILDS.replace("BUILT", repr(json.dumps(facts)))
        monkeypatch.setattr("edgekit.device.session.open_transport", lambda _: Scripted(script))
        plan = Plan("tensorrt", options=BuildOptions(timing_cache=str(folder)))
        return build(DEVICE, subject.model, plan, patience=SHORT)

    return build_


def test_timing_caches_go_along_and_come_back(build_by_script, tmp_path):
    folder = tmp_path / "timings"
    built = build_by_script()
    assert built.data == bytes(range(9))
    assert (built.parser_warnings, built.warnings) == ((), ())
    assert (folder / CACHE).read_bytes() == b"learnt"
    (folder / "mine.txt").write_bytes(b"")
    assert build_by_script().parser_warnings == (CACHE,)
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", CACHE]


def test_an_engine_is_kept_where_its_timings_cannot_be(build_by_script, tmp_path):
    """It may have taken half an hour."""
    (tmp_path / "timings" / CACHE).mkdir(parents=True)  # in the way, and found too late
    built = build_by_script()
    assert built.data == bytes(range(9))
    assert len(built.warnings) == 1
    assert f"{CACHE} could not be kept" in built.warnings[0]


def test_a_folder_that_takes_no_timings(tmp_path, monkeypatch):
    """It is found before the device is asked for anything."""
    (tmp_path / "file").write_bytes(b"")

    def asked(_):
        raise AssertionError("the device was asked")

    monkeypatch.setattr("edgekit.device.session.open_transport", asked)
    for folder, message in (
        (tmp_path / "file", "is no folder"),
        (tmp_path / "file" / "below", "is no folder"),
        (Path("/proc/timings"), "cannot be written"),
    ):
        plan = Plan("tensorrt", options=BuildOptions(timing_cache=str(folder)))
        with pytest.raises(UsageError, match=message):
            build(DEVICE, tmp_path / "net.onnx", plan, patience=SHORT)
    plan = Plan("tensorrt", options=BuildOptions(timing_cache=str(tmp_path / "a" / "b")))
    assert _timings(plan) == {}
    assert not (tmp_path / "a").exists()  # made when there is something to keep


@pytest.mark.parametrize(
    "name",
    ["", "..", "mine.txt", "/etc/tensorrt-a.cache", "tensorrt-/../a.cache", "tensorrt-a.cache.sh"],
)
def test_the_device_does_not_name_files_here(build_by_script, tmp_path, name):
    (tmp_path / "timings").mkdir()
    (tmp_path / "timings" / "mine.txt").write_bytes(b"mine")
    with pytest.raises(DeviceError, match="calls a timing cache"):
        build_by_script(name)
    assert [path.name for path in (tmp_path / "timings").iterdir()] == ["mine.txt"]
    assert (tmp_path / "timings" / "mine.txt").read_bytes() == b"mine"


def test_what_the_device_lacks_is_said_of_the_device(tmp_path, monkeypatch):
    """`--device` is what the user has given already."""

    def none():
        raise UnavailableError("The driver finds no GPU.", "Attach a GPU that it can see.")

    monkeypatch.setattr(library, "available", lambda _: (True, "10.3.0", ""))
    monkeypatch.setattr(library, "load", lambda _: None)
    monkeypatch.setattr("edgekit.bench.runtimes.cuda.device_name", none)
    about = {"runtime": "tensorrt", "profile": {}, "compute_capabilities": [], "options": {}}
    order = {"plan": about, "timings": str(tmp_path), "model": str(tmp_path / "net.onnx")}
    with pytest.raises(UnavailableError, match="finds no GPU") as error:
        build_there(order, tmp_path, lambda _: None, threading.Event())
    assert error.value.hint == "Attach a GPU that it can see."


@needs_builder
def test_the_command(edgekit, server, subject, tmp_path):
    options = ("--python", sys.executable, "--ssh-config", server.config, "--no-probe")
    assert edgekit("device", "add", "board", server.url, *options).returncode == 0
    done = edgekit(
        "build", subject.model, "-o", "engine", "--target", "rtx", "--device", "board", "--json"
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "engine" / "model.engine.json").read_text())
    assert facts["device"] == "board"
    assert facts["size_bytes"] == (tmp_path / "engine" / "model.engine").stat().st_size
