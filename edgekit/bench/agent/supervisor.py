"""The process on the device that the host talks to: it keeps order, and never measures.

Standard library only, one thread, asleep while the worker measures but for a heartbeat every five
seconds. Whatever ends it (the host's `bye`, the end of its input, a signal) ends the worker with
all its children, removes the work folder and lets the lock go.
"""

import contextlib
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from edgekit import __version__
from edgekit.bench import power
from edgekit.bench.agent import PROTOCOL
from edgekit.bench.agent.cache import Cache, cache_root
from edgekit.bench.agent.lock import IDLE_S, LONGEST_RUN_S, Lock
from edgekit.bench.agent.probe import probe
from edgekit.bench.agent.run import run
from edgekit.bench.agent.wire import (
    AgentError,
    Channel,
    ChannelClosedError,
    Message,
    broken,
    checked_hash,
    checked_size,
    checked_text,
    size_of,
)

OLD_AGENT_S = 30 * 86400.0
OLD_PROBE_S = 3600.0


class EndedError(BaseException):
    """A signal asked the agent to end."""


class Supervisor:
    """One session with one host.

    Args:
        channel: to the host.
        root: the agent's folder on this device.
        program: what follows the interpreter on the command line that starts the agent.
    """

    def __init__(self, channel: Channel, root: Path, program: Sequence[str]) -> None:
        self.channel, self.root, self.program = channel, root, tuple(program)
        self.lock = Lock(root / "lock")
        self.work = root / "work"
        self.owner = ""
        self.emulated = False
        self.cache = Cache(root / "files")

    def serve(self) -> int:
        """Answer until the host says `bye`; return the exit code."""
        while True:
            message = self.channel.receive(IDLE_S)
            if message is None:
                raise AgentError(
                    "protocol", f"The host said nothing for {IDLE_S / 60:.0f} min.", "Start again."
                )
            if message["type"] == "bye":
                self.channel.send({"type": "bye"})
                return 0
            if not self.owner and message["type"] != "hello":
                raise broken("The first message was not `hello`.")
            try:
                answer = self._answer(message)
                if answer is not None:
                    self.channel.send(answer)
            except AgentError as e:
                if e.kind == "protocol":
                    raise
                self.channel.send(e.line())

    def _answer(self, message: Message) -> Message | None:
        kind = message["type"]
        if kind == "hello":
            return self._hello(message)
        if kind == "have":
            return self._have(message)
        if kind == "put":
            sha, size = checked_hash(message.get("sha256")), size_of(message)
            self.cache.store(sha, size, self.channel.payload(size))
            return {"type": "stored", "sha256": sha}
        if kind == "lock":
            self._take_lock()
            return {"type": "locked"}
        if kind in ("run", "infer", "build"):
            self._take_lock()
            self._run(message)
            return None
        if kind == "stop":  # it crossed the result on its way
            return None
        raise broken(f"There is no message of type {kind[:40]!r}.")

    def _hello(self, message: Message) -> Message:
        if message.get("protocol") != PROTOCOL:
            raise broken(
                f"The host speaks protocol {str(message.get('protocol'))[:20]}, and this agent"
                f" speaks {PROTOCOL}."
            )
        owner = checked_text(message.get("owner"), "The owner", 200)
        self.owner = "".join(c if c.isprintable() else "?" for c in owner) or "unknown"
        self._check_free()
        found = probe(self.channel, self.program, self.root)
        self.emulated = bool(found["emulated"])
        return {
            "type": "hello",
            "protocol": PROTOCOL,
            "agent": __version__,
            "python": platform.python_version(),
            "executable": sys.executable,
            **found,
            "free_bytes": self.cache.free(self.root),
        }

    def _have(self, message: Message) -> Message:
        files = message.get("files")
        if not isinstance(files, dict):
            raise broken("`have` names no files.")
        wanted = {checked_hash(sha): checked_size(size) for sha, size in files.items()}
        missing = self.cache.missing(wanted)
        mine = self.lock.held
        self._take_lock()
        try:
            self.cache.make_room(sum(wanted[sha] for sha in missing))
        finally:
            if not mine:
                self.lock.release()
        return {"type": "missing", "files": missing}

    def _check_free(self) -> None:
        """Refuse while another measures: even to look at this device would disturb that."""
        if not self.lock.held:
            self.lock.take(self.owner)
            self.lock.release()

    def _run(self, message: Message) -> None:
        self.lock.take(self.owner, LONGEST_RUN_S)
        try:
            run(
                message,
                channel=self.channel,
                cache=self.cache,
                root=self.root,
                program=self.program,
                emulated=self.emulated,
            )
        finally:
            self.lock.take(self.owner)

    def _take_lock(self) -> None:
        first = not self.lock.held
        self.lock.take(self.owner)
        if first:
            self._clean_up()

    def _clean_up(self) -> None:
        """Remove what an agent that was killed has left; nobody else is here while we hold it."""
        _end_processes_in(self.work)
        power.recover(self.root / "power.json")
        self.cache.sweep()
        shutil.rmtree(self.work, ignore_errors=True)
        now = time.time()
        for path in self.root.glob("probe-*"):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > OLD_PROBE_S:
                    shutil.rmtree(path)
        for path in self.root.glob("agent-*.pyz*"):
            with contextlib.suppress(OSError):
                if str(path) != self.program[0] and now - path.stat().st_mtime > OLD_AGENT_S:
                    path.unlink()


def _end_processes_in(folder: Path) -> None:
    """Kill what still works in a folder: a worker's child that outlived worker and supervisor."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(folder):
                os.kill(int(process.name), signal.SIGKILL)


def main(program: Sequence[str]) -> int:
    """Serve the host on stdin and stdout; return the exit code."""
    _listen_to_signals()
    channel = Channel(*_own_stdio())
    supervisor = None
    try:
        supervisor = Supervisor(channel, cache_root(), program)
        return supervisor.serve()
    except AgentError as e:
        with contextlib.suppress(ChannelClosedError):
            channel.send(e.line())
        return 1
    except ChannelClosedError:
        return 0
    except EndedError:
        return 128 + signal.SIGTERM
    finally:
        if supervisor is not None:
            supervisor.lock.release()


def _own_stdio() -> tuple[int, int]:
    """Take stdin and stdout for the channel; a stray print goes to stderr, a stray read nowhere."""
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return source, sink


def _listen_to_signals() -> None:
    signals = (signal.SIGTERM, signal.SIGHUP)

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del number, frame
        for each in signals:  # a second one must not cut the cleaning up short
            signal.signal(each, signal.SIG_IGN)
        raise EndedError

    for each in signals:
        signal.signal(each, end)
    # Ctrl-C at a terminal reaches every process of the group; the host says `stop` in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
