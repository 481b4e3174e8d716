"""A worker as the supervisor sees it: started, listened to, and ended with all its children."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit.bench.agent.wire import AgentError, Channel, Message, parse

HEARTBEAT_S = 5.0
STOP_S = 10.0
STATISTICS_S = 120.0
EXIT_S = 10.0
STDERR_BYTES = 1 << 20
TAIL_BYTES = 1 << 16
TAIL_LINES = 12


class Job:
    """One worker process, in a session of its own, with a pipe for its messages.

    Its stdout and stderr go to a file in its folder: what a library prints wakes nobody.

    Args:
        program: what follows the interpreter on the command line that starts the agent.
        arguments: of the worker.
        folder: where it works; exists.
    """

    def __init__(self, program: Sequence[str], arguments: Sequence[str], folder: Path) -> None:
        self._log = folder / "stderr.txt"
        self.messages, theirs = os.pipe()
        os.set_blocking(self.messages, False)
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        command = [sys.executable, *_flags(), *program, "worker", str(theirs), *arguments]
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(theirs,),
                cwd=folder,
                start_new_session=True,
            )
        finally:
            os.close(theirs)
            os.close(log)
        self._buffer = b""

    def stop(self) -> None:
        """Ask the worker to end with what it has."""
        stdin = self.process.stdin
        if stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                stdin.write(b"stop\n")
                stdin.flush()

    def take(self) -> tuple[list[Message], bool]:
        """Return the messages that have come, and whether there will be no more."""
        try:
            chunk = os.read(self.messages, 1 << 16)
        except BlockingIOError:
            return [], False
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        return [parse(line) for line in lines], not chunk

    def trim(self) -> None:
        """Cut the file of what was printed where it has grown beyond a mebibyte."""
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > STDERR_BYTES:
                os.truncate(self._log, 0)

    def tail(self) -> str:
        """Return the last lines that the worker printed."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - TAIL_BYTES))
                text = file.read(TAIL_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""
        # After this line Python's fault handler lists its own frames, which say little.
        before, _, after = text.partition("Fatal Python error: ")
        text = before + after.split("\n", 1)[0]
        return "\n".join(text.strip().splitlines()[-TAIL_LINES:])

    def wait(self) -> int:
        """Wait for its end and return the exit code, negative for a signal."""
        end = time.monotonic() + EXIT_S
        # Not reaped yet, so that its number is still its group's when the group is killed.
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while self.process.returncode is None and time.monotonic() < end:
            if os.waitid(os.P_PID, self.process.pid, options) is not None:
                break
            time.sleep(0.01)
        return self.end()

    def end(self) -> int:
        """End it and everything that it started, at once; return its exit code."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        if self.messages >= 0:
            os.close(self.messages)
            self.messages = -1
        return code


def pump(
    job: Job,
    channel: Channel,
    on_message: Callable[[Message], None],
    on_host: Callable[[Message], None] | None = None,
    limit_s: float = float("inf"),
) -> bool:
    """Carry messages between worker and host until the worker has closed its pipe.

    One thread, asleep in `poll`; it wakes for a message, the end of the host, or the heartbeat.

    Args:
        job: the worker.
        channel: to the host.
        on_message: called with each message of the worker.
        on_host: called with each message of the host; None leaves them for later.
        limit_s: after so many seconds, or ten after a `stop`, it returns all the same.

    Returns:
        Whether the worker closed its pipe by itself.

    Raises:
        ChannelClosedError: the host is gone.
    """
    poll = select.poll()
    poll.register(job.messages, select.POLLIN)
    poll.register(channel.source, select.POLLIN if on_host else 0)
    if channel.sink != channel.source:
        poll.register(channel.sink, 0)
    began = time.monotonic()
    beat, end = began + HEARTBEAT_S, began + limit_s
    while (now := time.monotonic()) < end:
        if now >= beat:
            channel.send({"type": "heartbeat", "t": round(now - began, 1)})
            job.trim()
            beat = now + HEARTBEAT_S
        happened = dict(poll.poll(max(1, int((min(beat, end) - now) * 1000) + 1)))
        if job.messages in happened:
            messages, closed = job.take()
            for each in messages:
                if each["type"] == "stopping":  # it is at it: now it may take its time
                    end = max(end, now + STATISTICS_S)
                on_message(each)
            if closed:
                return True
        if happened.get(channel.sink, 0) & (select.POLLERR | select.POLLNVAL):
            channel.check()
        if on_host and channel.source in happened:
            channel.fill()
        while on_host and (message := channel.pending()) is not None:
            on_host(message)
            if message["type"] == "stop":
                end = min(end, time.monotonic() + STOP_S)
        if not on_host and happened.get(channel.source, 0) & select.POLLHUP:
            channel.check()
    return False


def crash(code: int, tail: str, what: str) -> AgentError:
    """Return the error that names how a worker ended.

    Args:
        code: its exit code, negative for a signal.
        tail: the last lines that it printed.
        what: what it was doing, such as `measuring`.
    """
    last = f" It printed last:\n{tail}" if tail else ""
    if code >= 0:
        return AgentError(
            "internal", f"The worker ended with exit code {code} while {what}.{last}", ""
        )
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL":
        return AgentError(
            "crash",
            f"The device killed the worker (SIGKILL) while {what}, most likely because memory ran"
            f" out.{last}",
            "Give a smaller model or batch, or end other programs on the device.",
        )
    return AgentError(
        "crash",
        f"The model made its runtime crash ({name}) while {what}.{last}",
        "Try the model with another version of the runtime, or with other options.",
    )


def _flags() -> list[str]:
    """Start the worker's interpreter as this one was started."""
    flags = sys.flags
    named = {"-I": flags.isolated, "-S": flags.no_site, "-s": flags.no_user_site}
    return [name for name, on in {**named, "-E": flags.ignore_environment}.items() if on]
