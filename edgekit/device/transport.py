"""How bytes reach a device: one child process, whose stdin and stdout are the agent's.

A transport makes the command and knows what its failures mean; `Channel` runs it. Nothing here
waits without a limit, and no thread is needed: stderr is read along whenever something is awaited.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from edgekit.device.registry import Device
from edgekit.errors import DeviceError, EdgekitError

MAX_LINE_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 18
_STDERR_BYTES = 1 << 16
_TICK_S = 0.2
NO_PYTHON = 93
"""Exit code of the finding script where no Python is new enough."""
_NO_PYTHON_MARK = "edgekit-no-python:"
_MORE_PLACES = ":/usr/local/bin:$HOME/.local/bin"
_PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(15, 9, -1)))


class Transport(Protocol):
    """A way to a device."""

    def start(self) -> "Channel":
        """Start the bootstrap on the device; what goes wrong on the way shows in `explain`.

        Raises:
            UnavailableError: the program that leads there is missing on this machine.
        """
        ...

    def explain(self, returncode: int, stderr: str) -> EdgekitError:
        """Say why the device never answered."""
        ...


class ClosedError(Exception):
    """The other side is gone: end of its output, or nobody reads what is written."""


class StalledError(Exception):
    """Time is up, and the other side has neither answered nor gone."""


class Channel:
    """A running child process, as a pipe with time limits.

    The child is in a session of its own, so that Ctrl-C at a terminal reaches edgekit alone, which
    then asks the device to stop.

    Args:
        command: the program and its arguments.
        env: its environment.

    Attributes:
        check: called about five times a second while something is awaited; what it raises goes on.

    Raises:
        FileNotFoundError: there is no such program.
    """

    check: Callable[[], None]

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=None if env is None else dict(env),
            start_new_session=True,
        )
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._in, self._out, self._err = (pipe.fileno() for pipe in pipes if pipe is not None)
        for descriptor in (self._in, self._out, self._err):
            os.set_blocking(descriptor, False)
        self._poll = select.poll()
        self._listening = {self._out, self._err}
        for descriptor in self._listening:
            self._poll.register(descriptor, select.POLLIN)
        self.check = _go_on
        self._buffer, self._scanned = bytearray(), 0
        self._complaints = bytearray()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def stderr(self) -> str:
        """The end of what the child has complained about."""
        return self._complaints.decode("utf-8", errors="replace")

    def send(self, data: bytes, timeout_s: float) -> None:
        """Write all of `data`.

        Raises:
            ClosedError: nobody reads.
            StalledError: not a byte was taken for `timeout_s` seconds.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._in, view[:_CHUNK_BYTES]) :]
            except BlockingIOError:
                self._wait(timeout_s, writing=True)
            except OSError as e:
                raise ClosedError from e

    def line(self, timeout_s: float) -> bytes | None:
        """Read one line, without its end; None where none is complete in time.

        Raises:
            ClosedError: the output has ended, or a line is without end.
        """
        end = time.monotonic() + timeout_s
        while True:
            place = self._buffer.find(b"\n", self._scanned)
            if place >= 0:
                found = bytes(self._buffer[:place])
                del self._buffer[: place + 1]
                self._scanned = 0
                return found
            self._scanned = len(self._buffer)
            if self._scanned > MAX_LINE_BYTES:
                raise ClosedError
            left = end - time.monotonic()
            if left <= 0:
                return None
            if self._out not in self._listening:
                raise ClosedError
            with contextlib.suppress(StalledError):
                self._wait(left)

    def read(self, size: int, timeout_s: float) -> bytes:
        """Read exactly `size` bytes.

        Raises:
            ClosedError: the output ended before.
            StalledError: nothing came for `timeout_s` seconds.
        """
        while len(self._buffer) < size:
            if self._out not in self._listening:
                raise ClosedError
            before = len(self._buffer)
            end = time.monotonic() + timeout_s
            while len(self._buffer) == before and self._out in self._listening:
                self._wait(max(0.0, end - time.monotonic()))
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._scanned = 0
        return found

    def _wait(self, timeout_s: float, *, writing: bool = False) -> None:
        """Take in what has come, or return once something can be written."""
        end = time.monotonic() + timeout_s
        if writing:
            self._poll.register(self._in, select.POLLOUT)
        try:
            while not (ready := self._poll.poll(max(0, int(min(timeout_s, _TICK_S) * 1000)))):
                self.check()
                timeout_s = end - time.monotonic()
                if timeout_s <= 0:
                    raise StalledError
        finally:
            if writing:
                self._poll.unregister(self._in)
        for descriptor, _ in ready:
            if descriptor in self._listening:
                self._take(descriptor)

    def _take(self, descriptor: int) -> None:
        try:
            chunk = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._listening.discard(descriptor)
            self._poll.unregister(descriptor)
        elif descriptor == self._out:
            self._buffer += chunk
        else:
            self._complaints += chunk
            del self._complaints[:-_STDERR_BYTES]

    def close(self, grace_s: float) -> int:
        """End the child: close its input, wait, and kill it where it does not go by itself.

        Args:
            grace_s: seconds to wait before it is killed.

        Returns:
            Its exit code; negative for a signal. Closing again returns the same.
        """
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
            self.check = _go_on
            end = time.monotonic() + grace_s
            while process.poll() is None and time.monotonic() < end:
                self._drain(0.05)
            self._drain(0.0)
            self._kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            self._listening.clear()
        return int(process.returncode)

    def _drain(self, timeout_s: float) -> None:
        """Let the child get rid of what it still has to say."""
        if not self._listening:
            time.sleep(timeout_s)
            return
        with contextlib.suppress(StalledError):
            self._wait(timeout_s)

    def _kill(self) -> None:
        """Kill the child, and what it has started (a proxy, say)."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _go_on() -> None:
    """Nothing is to be checked while one waits."""


def find_python(python: str | None, *, first: str = "") -> str:
    """The script that finds a Python on the device and starts `$1` in it.

    It holds no single quote, backslash, exclamation mark or line end, so that single quotes protect
    it in every login shell, fish and tcsh included.

    Args:
        python: the one to use; None: the first that is new enough.
        first: what the script does before that.
    """
    wanted = " ".join(_PYTHONS)
    if python is not None:
        wanted = f'"$HOME/{python[2:]}"' if python.startswith("~/") else f'"{python}"'
    return (
        f'{first}PATH="$PATH{_MORE_PLACES}"; found=; '
        f"for p in {wanted}; do "
        'command -v "$p" >/dev/null 2>&1 || continue; '
        'if "$p" -c "import sys; sys.exit(sys.version_info < (3, 10))" </dev/null >/dev/null 2>&1; '
        'then exec "$p" -c "$1"; fi; '
        'found="$found $p is $("$p" -V 2>&1 </dev/null | head -n 1);"; done; '
    )


NO_PYTHON_SCRIPT = f'echo "{_NO_PYTHON_MARK}$found" >&2; exit {NO_PYTHON}'
"""What the script ends with where it has found none; `pythons_found` reads it."""


def remote_command(script: str) -> str:
    """One line for a login shell: `script`, with the bootstrap as its `$1`."""
    from edgekit.device.bootstrap import bootstrap

    program = bootstrap()
    for text in (script, program):
        if set("'\\!\n") & set(text):
            raise AssertionError("a character that not every shell protects in single quotes")
    return f"sh -c '{script}' edgekit '{program}'"


def pythons_found(stderr: str) -> str | None:
    """What the finding script has found instead of a Python that is new enough; None: it did."""
    for line in stderr.splitlines():
        _, mark, found = line.partition(_NO_PYTHON_MARK)
        if mark:
            return found.strip(" ;") or "no Python at all"
    return None


def last_words(stderr: str) -> str:
    """The last line of a complaint that says something."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def open_transport(device: Device) -> Transport:
    """The transport that a device's URL asks for."""
    from edgekit.device.adb import Adb
    from edgekit.device.local import Local
    from edgekit.device.ssh import Ssh

    scheme = device.address.scheme
    if scheme == "adb":
        return Adb(device)
    return Local(device) if scheme == "local" else Ssh(device)


def never_answered(device: Device, returncode: int, stderr: str, hint: str) -> DeviceError:
    """The error of a device that ended the conversation before it began, in its own words."""
    words = last_words(stderr) or f"exit code {returncode}"
    return DeviceError(f"{device.name} ({device.url}) did not start edgekit's agent: {words}", hint)
