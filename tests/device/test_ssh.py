"""Benchmarks over a real SSH connection to this machine, and every way they can fail."""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.bench import Subject
from edgekit.device import Session, bench, bench_many, probe
from edgekit.device.session import sha256
from edgekit.device.talk import Patience
from edgekit.errors import DeviceError, UnavailableError, UsageError
from tests.device.conftest import (
    LONG,
    SHORT,
    descendants,
    keygen,
    once,
    save_network,
    until,
)


def test_a_network_is_measured_over_ssh(server, subject):
    shown = []
    result, extras = bench(
        server.device(), [subject], SHORT, say=lambda fraction, text: shown.append((fraction, text))
    )
    net = result.subject("net")
    assert result.where == "board"
    assert result.complete
    assert net.p50_ms.value > 0
    assert net.p50_ms.label == "measured"
    assert len(result.raw["net"].ns) == net.n
    assert np.median(result.raw["net"].ns) / 1e6 == pytest.approx(net.p50_ms.value)
    assert extras == {}
    assert shown[-1] == (1.0, "done")
    assert any(text.startswith("sending net.onnx") for _, text in shown)
    until(lambda: not server.left_behind(), "the device is as it was")


def test_what_the_device_has_is_not_sent_again(server, subject, tmp_path):
    with Session(server.device()) as session:
        sent = []
        session.upload([subject.model], lambda _, text: sent.append(text))
        assert sent
        assert (server.cache / "edgekit" / "files" / sha256(subject.model)).is_file()
        sent.clear()
        again = tmp_path / "another-name.onnx"
        shutil.copy(subject.model, again)
        assert session.upload([again], lambda _, text: sent.append(text)) == [sha256(again)]
        assert sent == []


def test_external_data_layers_and_labels_of_an_emulated_device(server, tmp_path):
    model = save_network(tmp_path / "net.onnx", external=True)
    assert (tmp_path / "net.bin").is_file()
    subject = Subject("net", "onnxruntime", model, {"x": np.zeros((1, 16), np.float32)})
    device, roofline = server.device(emulated=True), {"net": ["float32"]}
    result, extras = bench(device, [subject], SHORT, layers=True, roofline=roofline)
    assert result.subject("net").p50_ms.label == "emulated"
    assert {row["op"] for row in extras["layers"]["net"]} >= {"MatMul"}
    assert extras["peaks"]["net"]["macs_per_s"]["float32"]["label"] == "emulated"


def test_a_device_says_what_it_is(server):
    hello = probe(server.device())
    assert hello.runtimes["onnxruntime"]["ok"]
    assert hello.executable == sys.executable
    assert hello.fingerprint["architecture"] == os.uname().machine
    assert hello.missing == ()
    assert hello.free_bytes > 0
    for name, meter in hello.meters.items():
        assert meter["ok"] or meter["reason"], name


def test_the_ssh_program_can_be_chosen(server, monkeypatch):
    monkeypatch.setenv("EDGEKIT_SSH", f"ssh -F {server.config}")
    assert probe(server.device(ssh_config=None)).python


def test_login_scripts_may_be_chatty(server_of):
    server = server_of(
        "ForceCommand echo Welcome; echo '{\"a\": 1}'; printf 'no line end '; eval"
        ' "$SSH_ORIGINAL_COMMAND"\n'
    )
    assert probe(server.device()).python


def test_wrong_key(server, tmp_path):
    other = keygen(tmp_path / "other")
    server.config.write_text(server.config.read_text().replace(str(server.key), str(other)))
    with pytest.raises(DeviceError, match=r"lets '.*' in by none of publickey") as e:
        probe(server.device())
    assert str(other) in e.value.message
    assert "ssh-copy-id" in e.value.hint
    assert str(server.port) in e.value.hint


def test_unknown_host_key(server):
    server.known_hosts.write_text("")
    with pytest.raises(DeviceError, match=r"host key of board .* is not known") as e:
        probe(server.device())
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> {server.known_hosts}" in e.value.hint
    assert f"-F {server.config}" in e.value.hint
    assert server.known_hosts.read_text() == ""
    # What the hint says does mend it.
    scan = e.value.hint.partition("trust: ")[2].rstrip(")")
    subprocess.run(["sh", "-c", scan], check=True, capture_output=True)
    assert probe(server.device()).python


def test_changed_host_key(server, tmp_path):
    server.knows(keygen(tmp_path / "another_host"))
    before = server.known_hosts.read_text()
    with pytest.raises(DeviceError, match="another host key than before") as e:
        probe(server.device())
    assert f"ssh-keygen -f {server.known_hosts} -R '[127.0.0.1]:{server.port}'" in e.value.hint
    assert server.known_hosts.read_text() == before


def test_nobody_listens(server):
    server.stop()
    with pytest.raises(DeviceError, match="refused the connection"):
        probe(server.device())


def test_an_unknown_host_name(server):
    device = dataclasses.replace(server.device(), url="ssh://no-such-host.invalid")
    with pytest.raises(DeviceError, match=r"there is no host 'no-such-host\.invalid'"):
        probe(device)


def test_no_ssh_program(server, monkeypatch):
    monkeypatch.setenv("EDGEKIT_SSH", "/nowhere/ssh")
    with pytest.raises(UnavailableError, match="no program '/nowhere/ssh'"):
        probe(server.device())


def test_a_missing_ssh_configuration(server):
    server.config.unlink()
    with pytest.raises(UsageError, match="ssh_config of board does not exist"):
        probe(server.device())


def test_the_named_python_is_not_there(server):
    with pytest.raises(UnavailableError, match=r"/nowhere/python on board is no Python from 3\.10"):
        probe(server.device(python="/nowhere/python"))


def test_an_old_python_is_named(server, tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\nif [ "$1" = -V ]; then echo Python 3.8.10; else exit 1; fi\n')
    old.chmod(0o755)
    with pytest.raises(UnavailableError, match=r"found: .*python3 is Python 3\.8\.10"):
        probe(server.device(python=str(old)))


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python without NumPy."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


def test_missing_numpy(server, subject, bare_python):
    device = server.device(python=bare_python)
    assert "numpy" in probe(device).missing
    with pytest.raises(UnavailableError, match="board lacks numpy") as e:
        bench(device, [subject], SHORT)
    assert "pip install" in e.value.hint
    assert bare_python in e.value.hint
    until(lambda: not server.left_behind(), "the device is as it was")


def test_a_runtime_that_the_device_lacks(server, subject):
    with pytest.raises(UnavailableError, match="board cannot run tensorrt: "):
        bench(server.device(), [dataclasses.replace(subject, runtime="tensorrt")], SHORT)


def test_a_model_that_cannot_be_loaded(server, subject, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(subject.model.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"board: .*cannot load.*broken\.onnx"):
        bench(server.device(), [dataclasses.replace(subject, model=broken)], SHORT)
    until(lambda: not server.left_behind(), "the device is as it was")


def test_a_model_that_is_no_file(server, subject, tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.onnx is no file"):
        bench(server.device(), [dataclasses.replace(subject, model=tmp_path / "nowhere.onnx")])


def test_another_has_the_lock(server, subject):
    with Session(server.device()) as first:
        first.lock()
        with pytest.raises(DeviceError, match=f"board: .*{os.getpid()}"):
            bench(server.device(), [subject], SHORT)
        assert first.upload([subject.model])  # the first is none the worse for it


def test_the_connection_dies_in_mid_run(server, subject):
    def kill_sshd():
        for pid, line in descendants(server.process.pid).items():
            if line.startswith("sshd"):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(DeviceError, match="board was lost in mid-run"):
        bench(server.device(), [subject], LONG, say=once(kill_sshd))
    # Its processes have another parent now: look for them by their work and their lock.
    work = server.cache / "edgekit" / "work"
    until(lambda: not list(work.iterdir()), "the work folder is removed")
    assert bench(server.device(), [subject], SHORT)[0].complete


def test_the_agent_dies_in_mid_run(server, subject):
    workers = []

    def kill_agent():
        workers.extend(server.workers())
        os.kill(server.agents()[0], signal.SIGKILL)

    with pytest.raises(DeviceError, match="board was lost in mid-run"):
        bench(server.device(), [subject], LONG, say=once(kill_agent))
    assert workers
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "its worker ends")
    # What a killed agent could not remove, the next one does.
    assert bench(server.device(), [subject], SHORT)[0].complete
    until(lambda: not server.left_behind(), "the device is as it was")


def test_the_runtime_crashes(server, subject):
    def crash():
        os.kill(server.workers()[0], signal.SIGSEGV)

    with pytest.raises(DeviceError, match=r"board: .*SIGSEGV"):
        bench(server.device(), [subject], LONG, say=once(crash))
    until(lambda: not server.left_behind(), "the device is as it was")


def test_the_agent_hangs(server, subject):
    stopped = []

    def freeze():
        stopped.extend(server.agents())
        os.kill(stopped[0], signal.SIGSTOP)

    patience = Patience(silence_s=7.0, close_s=0.5)
    with pytest.raises(DeviceError, match="nothing was heard of it for 7 s"):
        bench(server.device(), [subject], LONG, say=once(freeze), patience=patience)
    os.kill(stopped[0], signal.SIGCONT)
    until(lambda: not server.left_behind(), "the device is as it was")


def test_ctrl_c_before_there_is_anything(server, subject):
    with pytest.raises(KeyboardInterrupt):
        bench(server.device(), [subject], LONG, stop=lambda: True)
    until(lambda: not server.left_behind(), "the device is as it was")


def test_no_ssh_is_left_behind(server, subject):
    before = set(descendants(os.getpid()))
    bench(server.device(), [subject], SHORT)
    server.known_hosts.write_text("")
    with pytest.raises(DeviceError):
        probe(server.device())
    assert set(descendants(os.getpid())) <= before


@contextlib.contextmanager
def _tiny_disk(folder, size):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize("size", ["64k", "1m"], ids=["for the agent", "for the model"])
def test_the_disk_is_full(server, subject, tmp_path, size):
    large = save_network(tmp_path / "large.onnx", hidden=600)
    feeds = {"x": np.zeros((1, 600), np.float32)}
    wanted = dataclasses.replace(subject, model=large, feeds=feeds)
    with _tiny_disk(server.cache, size):
        with pytest.raises(DeviceError, match=r"board: .*(full|room|space)"):
            bench(server.device(), [wanted], SHORT)
        until(lambda: not server.agents(), "the agent ends")
        files = server.cache / "edgekit" / "files"
        assert not list(files.glob("*")) or files.stat().st_size == 0


def test_files_may_not_grow(server_of, subject, tmp_path):
    server = server_of('ForceCommand ulimit -f 2048; eval "$SSH_ORIGINAL_COMMAND"\n')
    large = save_network(tmp_path / "large.onnx", hidden=900)
    feeds = {"x": np.zeros((1, 900), np.float32)}
    with pytest.raises(DeviceError, match=r"board: .*(full|room|space|large)"):
        bench(server.device(), [dataclasses.replace(subject, model=large, feeds=feeds)], SHORT)
    until(lambda: not server.left_behind(), "the device is as it was")


def test_two_devices_at_once_and_one_that_fails(server_of, subject):
    one, two = server_of(), server_of()
    gone = dataclasses.replace(one.device("gone"), url="ssh://no-such-host.invalid")
    told = []
    found = bench_many(
        [one.device("one"), gone, two.device("two")],
        [subject],
        SHORT,
        say=lambda name, *_: told.append(name),
    )
    assert list(found.results) == ["one", "two"]
    assert [result.where for result, _ in found.results.values()] == ["one", "two"]
    assert list(found.errors) == ["gone"]
    assert isinstance(found.errors["gone"], DeviceError)
    assert set(told) == {"one", "two"}
