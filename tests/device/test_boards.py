"""Boards in other states than this machine: no Python, no runtime, power modes, several at once."""

import json
import os
import shutil
import signal
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest

from edgekit.device import Device, add, bench, probe
from edgekit.errors import DeviceError, UnavailableError
from tests.bench.agent.test_run import division_feeds, save_division
from tests.bench.test_power import CONF, NVPMODEL
from tests.device.conftest import LONG, SHORT, once, until

WITH_PATH = 'ForceCommand PATH={}; export PATH; eval "$SSH_ORIGINAL_COMMAND"\n'


def test_a_board_without_python(server_of, tmp_path, monkeypatch):
    bare = tmp_path / "bare"
    bare.mkdir()
    for tool in ("sh", "head"):
        (bare / tool).symlink_to(f"/usr/bin/{tool}")
    monkeypatch.setattr("edgekit.device.transport._MORE_PLACES", "")
    server = server_of(WITH_PATH.format(bare))
    with pytest.raises(
        UnavailableError, match=r"board has no Python from 3\.10 on \(found: no Python at all\)"
    ) as e:
        probe(server.device(python=None))
    assert "apt install python3" in e.value.hint


def test_a_board_with_numpy_and_no_runtime(server, subject, tmp_path):
    venv.create(tmp_path / "venv")
    (site,) = (tmp_path / "venv").glob("lib/python3.*/site-packages")
    numpy = Path(np.__file__).resolve().parent
    for folder in (numpy, numpy.with_name("numpy.libs")):
        (site / folder.name).symlink_to(folder)
    device = server.device(python=str(tmp_path / "venv/bin/python"))
    assert probe(device).missing == ("onnxruntime",)
    with pytest.raises(UnavailableError, match="board cannot run onnxruntime: ") as e:
        bench(device, [subject], SHORT)
    assert "onnxruntime" in e.value.hint


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="only x86 traps on this division")
def test_a_model_that_crashes_its_runtime(edgekit, server, tmp_path):
    model = save_division(tmp_path / "division.onnx")
    np.savez(tmp_path / "feeds.npz", **division_feeds(by=-1))
    add(server.device())
    done = edgekit("bench", model, "--device", "board", "--quick", "--inputs", "feeds.npz")
    assert done.returncode == 6
    assert "SIGFPE" in done.stderr
    assert "hint: Try the model" in done.stderr
    until(lambda: not server.left_behind(), "the device is as it was")


def test_several_boards_in_one_table(edgekit, server_of, subject):
    one, two = server_of(), server_of()
    add(one.device("first-board"))
    add(two.device("second-board"))
    add(Device("gone", "ssh://no-such-host.invalid"))
    boards = ("--device", "first-board", "--device", "gone", "--device", "second-board")
    done = edgekit("bench", subject.model, *boards, "--quick")
    assert done.returncode == 6  # one is lost, and the others' results are there
    (heading,) = [line for line in done.stdout.splitlines() if "p50" in line and "p99" in line]
    assert "device" in heading
    for board in ("first-board", "second-board"):
        assert any(board in line and "net.onnx" in line for line in done.stdout.splitlines())
    assert "there is no host 'no-such-host.invalid'" in done.stderr
    done = edgekit("bench", subject.model, *boards[:2], *boards[4:], "--quick", "--json")
    assert done.returncode == 0, done.stderr
    found = json.dumps(json.loads(done.stdout))
    assert '"where": "first-board"' in found
    assert '"where": "second-board"' in found


@pytest.fixture
def jetson(server_of, tmp_path):
    """A server that sees an /etc with power modes, in a mount namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("another /etc needs root")
    etc, tools = tmp_path / "etc", tmp_path / "bin"
    tools.mkdir()
    shutil.copytree("/etc", etc, symlinks=True, ignore_dangling_symlinks=True)
    (etc / "nvpmodel.conf").write_text(CONF)
    (tools / "nvpmodel").write_text(NVPMODEL)
    (tools / "nvpmodel").chmod(0o755)
    (tools / "number").write_text("2\n")
    apart = ("unshare", "--mount", "--propagation", "private")
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("there are no mount namespaces here")
    bind = ("sh", "-c", f'mount --bind {etc} /etc && exec "$@"', "sh")
    path = f"{tools}:{os.environ['PATH']}"
    return server_of(WITH_PATH.format(path), prefix=(*apart, *bind)), tools


def calls(tools):
    return (tools / "calls").read_text().split() if (tools / "calls").exists() else []


def test_a_power_mode_is_recorded_and_not_touched(jetson, subject):
    server, tools = jetson
    assert probe(server.device()).power_mode.startswith("nvpmodel MODE 15W")
    result, _ = bench(server.device(), [subject], SHORT)
    assert result.conditions["power_mode"].startswith("nvpmodel MODE 15W")
    assert calls(tools) == []


def test_a_power_mode_is_set_on_request_and_put_back(jetson, subject):
    server, tools = jetson
    result, _ = bench(server.device(), [subject], SHORT, power_mode="MAXN")
    assert result.conditions["power_mode"].startswith("nvpmodel MAXN")
    until(lambda: calls(tools) == ["0", "2"], "it is put back")


def test_a_power_mode_is_put_back_by_the_next_where_the_agent_was_killed(jetson, subject):
    server, tools = jetson

    def kill():
        os.kill(server.agents()[0], signal.SIGKILL)

    with pytest.raises(DeviceError, match="lost in mid-run"):
        bench(server.device(), [subject], LONG, power_mode="MAXN", say=once(kill))
    assert calls(tools) == ["0"]
    result, _ = bench(server.device(), [subject], SHORT)
    assert result.conditions["power_mode"].startswith("nvpmodel MODE 15W")
    assert calls(tools) == ["0", "2"]
