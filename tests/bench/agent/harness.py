"""The real agent: the zipapp as a subprocess, with a cache of its own, spoken to over its pipes."""

import contextlib
import hashlib
import io
import json
import os
import select
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgekit.bench import Protocol
from edgekit.bench.agent.wire import MAX_LINE_BYTES

PATIENCE_S = 60
TINY = {
    "form": "quick",
    "warmup_s": 0.02,
    "warmup_runs": 2,
    "warmup_block_s": 0.01,
    "warmup_max_s": 0.05,
    "block_s": 0.01,
    "settle_s": 0.001,
    "min_rounds": 8,
    "loads": 2,
    "min_s": 0.05,
    "quantile": 0.9,
    "above": 0,
    "max_s": 0.2,
    "resamples": 50,
}
FOREVER = {**TINY, "min_s": 3000.0, "max_s": 3000.0}


def protocol(**changes):
    return {**asdict(Protocol.quick()), **TINY, **changes}


class Agent:
    """A running agent, and the host's half of the protocol."""

    def __init__(self, path, cache, python=sys.executable, flags=(), env=None, preexec=None):
        self.cache = cache
        self.process = subprocess.Popen(
            [python, *flags, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "XDG_CACHE_HOME": str(cache), **(env or {})},
            preexec_fn=preexec,
        )
        self.out = self.process.stdout.fileno()
        self.buffer = b""
        self.heartbeats = 0
        self.progress = []

    def send(self, message, payload=b""):
        self.process.stdin.write(json.dumps(message).encode() + b"\n" + payload)
        self.process.stdin.flush()

    def more(self):
        end = time.monotonic() + PATIENCE_S
        ready, _, _ = select.select([self.out], [], [], end - time.monotonic())
        assert ready, "the agent says nothing"
        chunk = os.read(self.out, 1 << 16)
        self.buffer += chunk
        return bool(chunk)

    def line(self):
        """Return the next message as it comes, None at the end."""
        while b"\n" not in self.buffer:
            if not self.more():
                assert not self.buffer
                return None
        line, self.buffer = self.buffer.split(b"\n", 1)
        assert len(line) <= 50 * MAX_LINE_BYTES
        return json.loads(line)

    def bytes(self, size):
        while len(self.buffer) < size:
            assert self.more()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def receive(self):
        """Return the next message that is neither a heartbeat nor progress."""
        while (message := self.line()) is not None:
            if message["type"] == "heartbeat":
                self.heartbeats += 1
            elif message["type"] == "progress":
                self.progress.append(message)
            else:
                return message
        return None

    def ask(self, message, payload=b""):
        self.send(message, payload)
        return self.receive()

    def hello(self, owner="me@test:1"):
        return self.ask({"type": "hello", "protocol": 1, "owner": owner})

    def put(self, data):
        """Upload bytes if the agent lacks them; return the hash."""
        sha = hashlib.sha256(data).hexdigest()
        answer = self.ask({"type": "have", "files": {sha: len(data)}})
        assert answer["type"] == "missing", answer
        if answer["files"]:
            assert self.ask({"type": "put", "sha256": sha, "size": len(data)}, data) == {
                "type": "stored",
                "sha256": sha,
            }
        return sha

    def subject(self, model, feeds, name="mlp", options=None, beside=()):
        model = Path(model)
        return {
            "name": name,
            "runtime": "onnxruntime",
            "model": {
                "sha256": self.put(model.read_bytes()),
                "name": model.name,
                "beside": {path.name: self.put(path.read_bytes()) for path in beside},
            },
            "feeds": self.put(npz(**feeds)),
            "options": options or {},
        }

    def run(self, *subjects, **request):
        return {
            "type": "run",
            "request": {"subjects": list(subjects), "protocol": protocol(), **request},
        }

    def wait_for_progress(self, phase):
        """Read until the worker says that it has come to a phase."""
        while True:
            message = self.line()
            assert message is not None
            assert message["type"] in ("progress", "heartbeat"), message
            if message["type"] == "progress" and phase in message["text"]:
                return

    def workers(self):
        """Process ids of the agent's children."""
        pid = self.process.pid
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(each) for each in text.split()]

    def end(self):
        """Say goodbye, and return the exit code."""
        assert self.ask({"type": "bye"}) == {"type": "bye"}
        return self.process.wait(PATIENCE_S)

    def root(self):
        return self.cache / "edgekit"

    def close(self):
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.process.kill()
        self.process.wait()


def npz(**arrays):
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def gone(pid):
    """Whether a process has ended, waiting for it a while."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False
