"""`edgekit device` and `edgekit bench --device`, as a user types them."""

import json
import sys

import pytest

from tests.device.conftest import keygen


@pytest.fixture
def add(edgekit, server):
    def call(*more):
        options = ("--python", sys.executable, "--ssh-config", server.config)
        return edgekit("device", "add", "board", server.url, *options, *more)

    return call


def test_add_list_probe_bench_remove(edgekit, add, server, subject):
    done = add("--target", "x86-avx2", "--meter", "rapl")
    assert done.returncode == 0, done.stderr
    assert f"Added board: {server.url}" in done.stdout
    assert "It runs onnxruntime" in done.stdout

    listed = json.loads(edgekit("device", "list", "--json").stdout)
    assert [(d["name"], d["url"], d["target"]) for d in listed] == [
        ("board", server.url, "x86-avx2")
    ]
    assert server.url in edgekit("device", "list").stdout

    shown = edgekit("device", "probe", "board").stdout
    for words in ("architecture", "free space", "power mode", "onnxruntime", "rapl", "emulated"):
        assert words in shown
    probed = json.loads(edgekit("device", "probe", "board", "--json").stdout)["probe"]
    assert probed["runtimes"]["onnxruntime"]["ok"]
    assert probed["missing"] == []

    done = edgekit("bench", subject.model, "--device", "board", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    assert '"where": "board"' in done.stdout

    assert edgekit("device", "remove", "board").returncode == 0
    assert json.loads(edgekit("device", "list", "--json").stdout) == []
    assert "edgekit device add" in edgekit("device", "list").stdout


def test_a_device_that_does_not_answer_is_not_stored(edgekit, add, server, tmp_path):
    server.knows(keygen(tmp_path / "another"))
    done = add()
    assert done.returncode == 6
    assert "another host key" in done.stderr
    assert "ssh-keygen -f" in done.stderr
    assert json.loads(edgekit("device", "list", "--json").stdout) == []
    assert add("--no-probe").returncode == 0
    assert edgekit("device", "probe", "board").returncode == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pi", "ssh://pi:secret@host"), "holds a password"),
        (("pi", "host"), "is not the URL"),
        (("p i", "ssh://host"), "cannot be the name"),
        (("pi", "ssh://host", "--target", "raspberry"), "raspberry"),
        (("pi", "ssh://host", "--meter", "rapel"), "no meter 'rapel'"),
        (("pi", "adb://x", "--ssh-config", "config"), "not reached over SSH"),
    ],
)
def test_what_cannot_be_added(edgekit, arguments, message):
    done = edgekit("device", "add", *arguments, "--no-probe")
    assert done.returncode == 2
    assert message in done.stderr
    assert "secret" not in done.stderr


def test_a_wrong_name_has_the_nearest_in_its_hint(edgekit):
    assert edgekit("device", "add", "jetson", "ssh://host", "--no-probe").returncode == 0
    for command in ("probe", "remove"):
        done = edgekit("device", command, "jetsn")
        assert done.returncode == 2
        assert "Do you mean 'jetson'?" in done.stderr
    again = edgekit("device", "add", "jetson", "ssh://other", "--no-probe")
    assert again.returncode == 2
    assert "--replace" in again.stderr
    assert (
        edgekit("device", "add", "jetson", "ssh://other", "--no-probe", "--replace").returncode == 0
    )


def test_a_tilde_that_the_shell_has_replaced_is_the_devices_home(edgekit, tmp_path):
    home = {"HOME": str(tmp_path)}
    add = ("device", "add", "--no-probe", "--json")
    done = edgekit(*add, "a", "ssh://host", "--python", tmp_path / "venv/bin/python", env=home)
    assert json.loads(done.stdout)["python"] == "~/venv/bin/python"
    done = edgekit(*add, "b", "ssh://host", "--python", "/opt/venv/bin/python", env=home)
    assert json.loads(done.stdout)["python"] == "/opt/venv/bin/python"
