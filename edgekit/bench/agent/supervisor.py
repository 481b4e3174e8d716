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
from edgekit.bench.agent import PROTOCOL
from edgekit.bench.agent.cache import Cache, cache_root
from edgekit.bench.agent.lock import IDLE_S, Lock
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
                self.channel.send(self._answer(message))
            except AgentError as e:
                if e.kind == "protocol":
                    raise
                self.channel.send(e.line())

    def _answer(self, message: Message) -> Message:
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
        if kind == "run":
            self._take_lock()
            return run(self, message)
        if kind == "stop":  # it crossed the result on its way
            return {"type": "stopped"}
        raise broken(f"There is no message of type {kind[:40]!r}.")

    def _hello(self, message: Message) -> Message:
        if message.get("protocol") != PROTOCOL:
            raise broken(
                f"The host speaks protocol {str(message.get('protocol'))[:20]}, and this agent"
                f" speaks {PROTOCOL}."
            )
        owner = checked_text(message.get("owner"), "The owner", 200)
        self.owner = "".join(c if c.isprintable() else "?" for c in owner) or "unknown"
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
        coming = sum(wanted[sha] for sha in missing)
        mine = self.lock.held
        if mine or self.lock.try_take():
            try:
                self.cache.make_room(coming)
            finally:
                if not mine:
                    self.lock.release()
        else:
            self.cache.check_room(coming)
        return {"type": "missing", "files": missing}

    def _take_lock(self) -> None:
        first = not self.lock.held
        self.lock.take(self.owner)
        if first:
            self._clean_up()

    def _clean_up(self) -> None:
        """Remove what an agent that was killed has left; nobody else is here while we hold it."""
        self.cache.sweep()
        shutil.rmtree(self.work, ignore_errors=True)
        mine = Path(self.program[0]).name
        for path in self.root.glob("agent-*.pyz*"):
            with contextlib.suppress(OSError):
                if path.name != mine and time.time() - path.stat().st_mtime > OLD_AGENT_S:
                    path.unlink()


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
