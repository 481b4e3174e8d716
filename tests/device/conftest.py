"""A real SSH server on loopback, with its own keys, port and cache, as the user who runs the tests.

What a device would be is this machine, reached over SSH: the agent, the upload, the lock and every
failure are real; only the network is short.
"""

import dataclasses
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.bench import Protocol, Subject
from edgekit.device import Device

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

# Short, and enough for what is tested here: the figures themselves are tested in tests/bench.
SHORT = Protocol(
    form="quick",
    warmup_s=0.01,
    warmup_runs=2,
    warmup_block_s=0.01,
    warmup_max_s=0.05,
    block_s=0.002,
    settle_s=0.0,
    min_rounds=8,
    loads=1,
    min_s=0.01,
    quantile=0.5,
    above=0,
    max_s=0.1,
    resamples=50,
)

LONG = dataclasses.replace(SHORT, min_s=300.0, max_s=300.0)


def until(condition, what, limit_s=15.0):
    """Wait for something that another process does."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {limit_s} s"
        time.sleep(0.02)


def once(action):
    """A `say` that does something when the first round is timed, and never again."""
    done = threading.Event()

    def say(fraction, text):
        if text.startswith("round") and not done.is_set():
            done.set()
            action()

    return say


def keygen(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def descendants(pid):
    """Every process below `pid`, as Linux lists them: pid to command line."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
        lines[int(folder.name)] = line
    found = {}
    for each in parents:
        above = parents[each]
        while above and above != pid:
            above = parents.get(above, 0)
        if above == pid:
            found[each] = lines[each]
    return found


def _pam():
    """Without PAM, sshd lets nobody in whose password is locked; with it, a key is enough."""
    shadow = Path("/etc/shadow")
    if os.geteuid() != 0 or not shadow.is_file():
        return "no"
    mine = [line for line in shadow.read_text().splitlines() if line.startswith("root:")]
    return "yes" if mine and mine[0].split(":")[1].startswith("!") else "no"


class Server:
    """One sshd, and the SSH configuration of somebody who may log in."""

    def __init__(self, root: Path, extra: str = "", prefix: tuple[str, ...] = ()):
        self.root = root
        root.mkdir(parents=True)
        self.cache, self.known_hosts = root / "cache", root / "known_hosts"
        self.config, self.key = root / "ssh_config", keygen(root / "id")
        self.host_key, self.log = keygen(root / "host_key"), root / "sshd.log"
        authorized = root / "authorized_keys"
        shutil.copy(f"{self.key}.pub", authorized)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (root / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\n"
            f"HostKey {self.host_key}\n"
            f"AuthorizedKeysFile {authorized}\n"
            f"PidFile {root / 'pid'}\n"
            f"StrictModes no\nUsePAM {_pam()}\nPermitRootLogin yes\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nSetEnv XDG_CACHE_HOME={self.cache}"
            f" OMP_NUM_THREADS=1\n{extra}"
        )
        self.knows(self.host_key)
        self.config.write_text(
            f"Host *\n  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile /dev/null\n"
            f"  IdentityFile {self.key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        )
        self.process = subprocess.Popen(
            [*prefix, SSHD, "-D", "-f", str(root / "sshd_config"), "-E", str(self.log)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(self._answers, f"sshd answers; {self.log.read_text() if self.log.exists() else ''}")

    def _answers(self):
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def url(self):
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    def device(self, name="board", **changes):
        fields = {"python": sys.executable, "ssh_config": str(self.config), **changes}
        return Device(name, self.url, **fields)

    def knows(self, key):
        """Let the client know this host key."""
        public = Path(f"{key}.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}")

    def agents(self):
        """Pids of the supervisors that run on this device."""
        lines = descendants(self.process.pid)
        return [p for p, line in lines.items() if ".pyz" in line and " worker " not in line]

    def workers(self):
        lines = descendants(self.process.pid)
        return [p for p, line in lines.items() if ".pyz worker" in line]

    def left_behind(self):
        """What a session must not leave on the device."""
        work = self.cache / "edgekit" / "work"
        return [*self.agents(), *self.workers(), *(work.iterdir() if work.exists() else ())]

    def stop(self):
        pids = descendants(self.process.pid)
        self.process.terminate()
        self.process.wait(10)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture
def server_of(tmp_path):
    """Start SSH servers; all are stopped at the end."""
    if SSHD is None:
        pytest.skip("sshd is not installed (apt-get install openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # what its start script does
    servers = []

    def start(extra="", prefix=()):
        servers.append(Server(tmp_path / f"server-{len(servers)}", extra, prefix))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(server_of):
    return server_of()


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    """No test reads or writes the configuration and the caches of who runs it."""
    monkeypatch.setenv("EDGEKIT_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGEKIT_SSH", raising=False)


def save_network(path, hidden=16, external=False, seed=0, batch=1):
    """Two layers of a perceptron, as a real ONNX file."""
    weights = np.random.default_rng(seed).standard_normal((hidden, hidden)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("x", TensorProto.FLOAT, [batch, hidden])],
        [value("y", TensorProto.FLOAT, [batch, hidden])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    if external:
        onnx.save_model(
            model, path, save_as_external_data=True, location="net.bin", size_threshold=0
        )
    else:
        onnx.save(model, path)
    return path


@pytest.fixture
def subject(tmp_path):
    model = save_network(tmp_path / "net.onnx")
    return Subject("net", "onnxruntime", model, {"x": np.zeros((1, 16), np.float32)})
