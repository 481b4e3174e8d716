"""One conversation with a device's agent: hello, files, lock, run, bye.

The protocol is described in `edgekit.bench.agent`. Whatever the device sends is checked before it
is used; whatever goes wrong becomes one of edgekit's errors, with the device's name in it.
"""

import contextlib
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from edgekit.device.registry import Device
from edgekit.device.talk import Answer, Hello, Message, Patience, fraction_of, owner, parsed
from edgekit.device.transport import (
    Channel,
    ClosedError,
    StalledError,
    Transport,
    last_words,
    open_transport,
)
from edgekit.errors import DeviceError, EdgekitError, PassError, UnavailableError, UsageError

if TYPE_CHECKING:
    from edgekit.bench.result import Raw
    from edgekit.bench.runtimes.base import Array

PROTOCOL = 1
MAX_RAW_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20
_TICK_S = 0.2

Say = Callable[[float, str], None]
Stop = Callable[[], int]
"""How often the user has asked to stop: once (or True) asks the device for what it has, and twice
does not wait for it."""


class Session:
    """A device's agent, from hello to bye, as a context manager.

    Args:
        device: what to talk to.
        transport: how; as the device's URL says where None.
        stop: asked about five times a second. Before anything runs, and once it gives 2,
            KeyboardInterrupt goes on.
        patience: how long to wait.

    Attributes:
        hello: what the device has said of itself, once entered.
    """

    hello: Hello

    def __init__(
        self,
        device: Device,
        *,
        transport: Transport | None = None,
        stop: Stop | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.device = device
        self._stop, self._running = stop or _never, False
        self._transport = transport or open_transport(device)
        self._patience = patience or Patience()
        self._channel: Channel

    def __enter__(self) -> "Session":
        """Connect, put the agent on the device where it is not there yet, and say hello.

        Raises:
            DeviceError: the device cannot be reached, or does not answer.
            UnavailableError: ssh, adb, or the device's Python is missing.
        """
        self._channel = self._transport.start()
        self._channel.check = self._check
        try:
            self._start_agent()
            self._send({"type": "hello", "protocol": PROTOCOL, "owner": owner()})
            message = self._answer("hello", self._patience.hello_s)
            if message.get("protocol") != PROTOCOL:
                self.fail("It speaks another protocol. Use the same edgekit on both sides.")
            try:
                self.hello = Hello.from_message(message)
            except (KeyError, TypeError, ValueError) as e:
                self.fail(f"Its hello is broken ({type(e).__name__}: {e}).", e)
        except BaseException:
            self._channel.close(0.5)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Say bye and end the transport; after an error the device cleans up by itself."""
        del error, traceback
        if kind is None:
            with contextlib.suppress(EdgekitError, ClosedError, StalledError):
                self._send({"type": "bye"})
                while (line := self._channel.line(self._patience.close_s)) is not None:
                    if parsed(line).get("type") == "bye":
                        break
        self._channel.close(self._patience.close_s)

    def lock(self) -> None:
        """Take the device for this session.

        Raises:
            DeviceError: another benchmark has it.
        """
        self._send({"type": "lock"})
        self._answer("locked")

    def upload(self, paths: Sequence[Path], say: Say | None = None) -> list[str]:
        """Put files on the device; those that are there already stay there.

        Args:
            paths: the files.
            say: called with the fraction of bytes sent and a short text.

        Returns:
            Their SHA-256 sums, in hexadecimal digits, in the order of `paths`.

        Raises:
            DeviceError: the device is lost, or its disk is full.
            UsageError: a file cannot be read.
            KeyboardInterrupt: it was stopped.
        """
        sums = [sha256(path) for path in paths]
        sizes = {s: path.stat().st_size for s, path in zip(sums, paths, strict=True)}
        by_sum = dict(zip(sums, paths, strict=True))
        self._send({"type": "have", "files": sizes})
        missing = self._answer("missing").get("files")
        if not isinstance(missing, list) or not set(missing) <= set(sizes):
            self.fail("It asks for files that it was not told of.")
        whole, sent = sum(sizes[s] for s in missing), 0
        for each in missing:
            path = by_sum[each]
            self._send({"type": "put", "sha256": each, "size": sizes[each]})
            for chunk in _chunks(path, sizes[each]):
                self._check()
                self._write(chunk)
                sent += len(chunk)
                if say is not None:
                    say(sent / max(1, whole), f"sending {path.name} to {self.device.name}")
            self._answer("stored")
        return sums

    def run(self, request: Mapping[str, Any], say: Say | None = None) -> Answer:
        """Measure on the device; when it is to stop, it is asked for what it has.

        Args:
            request: subjects and protocol, as `docs/agent-protocol.md` describes them.
            say: called with the fraction done and a short text.

        Returns:
            What it measured; after a stop, a result with `complete` False.

        Raises:
            DeviceError: the device was lost, is in use, or the runtime crashed there.
            UnavailableError: it lacks a module, a runtime or a driver.
            UsageError: a model cannot be loaded, or an option is wrong.
            KeyboardInterrupt: it was stopped, and there is no partial result.
        """
        message, packed = self.work("run", request, say)
        if not isinstance(message.get("result"), dict):
            self.fail("Its result is none.")
        extras = {k: v for k, v in message.items() if k not in {"type", "result", "size"}}
        return Answer(message["result"], self._raw(packed), extras)

    def infer(self, request: Mapping[str, Any], say: Say | None = None) -> dict[str, "Array"]:
        """Run a model on the device over inputs that have one more leading axis, the runs.

        Args:
            request: its only subject, as `docs/agent-protocol.md` describes it.
            say: called with the fraction done and a short text.

        Returns:
            Its outputs by name, with the same leading axis.

        Raises:
            EdgekitError, KeyboardInterrupt: as of `run`.
        """
        import numpy as np

        message, packed = self.work("infer", request, say)
        names = message.get("outputs")
        try:
            with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
                return {str(name): arrays[str(i)] for i, name in enumerate(names or ())}
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as e:
            self.fail("Its outputs are broken.", e)

    def work(self, kind: str, request: Mapping[str, Any], say: Say | None) -> tuple[Message, bytes]:
        """Ask for work and wait for its result: the message, and the bytes that follow it.

        Raises:
            EdgekitError, KeyboardInterrupt: as of `run`.
        """
        self._check()
        self._running = True
        self._send({"type": kind, "request": dict(request)})
        heard, stopped = time.monotonic(), False
        while True:
            if not stopped and self._stop():
                stopped = True
                self._send({"type": "stop"})
                heard = time.monotonic()
            message = self._receive(_TICK_S)
            if message is None:
                silence_s = time.monotonic() - heard
                if stopped and silence_s > self._patience.stop_s:
                    raise KeyboardInterrupt
                if silence_s > self._patience.silence_s:
                    self._lost(f"nothing was heard of it for {silence_s:.0f} s")
                continue
            heard = time.monotonic()
            if message["type"] == "progress" and say is not None:
                say(fraction_of(message.get("fraction")), str(message.get("text", ""))[:200])
            elif message["type"] == "result":
                return message, self._payload(message.get("size", 0))
            elif message["type"] == "error":
                if stopped and message.get("kind") == "stopped":
                    raise KeyboardInterrupt
                raise self._error(message)

    def _check(self) -> None:
        if self._stop() > self._running:
            raise KeyboardInterrupt

    def _payload(self, size: object) -> bytes:
        if type(size) is not int or not 0 <= size <= MAX_RAW_BYTES:
            self.fail("Its result has no valid size.")
        try:
            return self._channel.read(size, self._patience.silence_s)
        except (ClosedError, StalledError):
            self._lost("it ended while it sent the result")

    def _raw(self, packed: bytes) -> dict[str, "Raw"]:
        from edgekit.bench.result import load_raw

        try:
            return load_raw(io.BytesIO(packed)) if packed else {}
        except UsageError as e:
            self.fail("Its raw samples are broken.", e)

    def _start_agent(self) -> None:
        from edgekit.device.zipapp import build_agent

        agent = build_agent()
        head = f"{hashlib.sha256(agent).hexdigest()} {len(agent)}\n".encode()
        # A transport that has failed already says why in `_never_started`, where its end is read.
        with contextlib.suppress(ClosedError, StalledError):
            self._channel.send(head, self._patience.start_s)
        message = self._first_message()
        if message["type"] == "error":
            raise self._error(message)
        if not message.get("cached"):
            self._write(agent)

    def _first_message(self) -> Message:
        """Skip what the device's login scripts print, up to the bootstrap's first line."""
        end = time.monotonic() + self._patience.start_s
        while True:
            self._check()
            try:
                line = self._channel.line(max(0.0, end - time.monotonic()))
            except ClosedError:
                code = self._channel.close(self._patience.close_s)
                raise self._transport.explain(code, self._channel.stderr) from None
            if line is None or time.monotonic() > end:
                raise DeviceError(
                    f"{self.device.name} ({self.device.url}) did not answer within"
                    f" {self._patience.start_s:.0f} s.",
                    "Check that it is not busy, and that its login scripts do not wait for input.",
                )
            begin = line.find(b'{"')
            message = parsed(line[begin:]) if begin >= 0 else {}
            if message.get("type") in {"agent", "error"}:
                return message

    def _answer(self, wanted: str, timeout_s: float | None = None) -> Message:
        """The answer of that type; heartbeats, and what crossed on its way, are passed over.

        Raises:
            EdgekitError: the device answers with an error, or not at all.
        """
        limit = self._patience.answer_s if timeout_s is None else timeout_s
        while True:
            message = self._receive(limit)
            if message is None:
                self._lost(f"nothing was heard of it for {limit:.0f} s")
            if message["type"] == "error":
                raise self._error(message)
            if message["type"] == wanted:
                return message

    def _receive(self, timeout_s: float) -> Message | None:
        self._check()
        try:
            line = self._channel.line(timeout_s)
        except ClosedError:
            self._lost("")
        if line is None:
            return None
        message = parsed(line)
        if not message:
            self.fail("It sent a line that is no message.")
        return message

    def _send(self, message: Message) -> None:
        self._write(json.dumps(message, allow_nan=False).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        try:
            self._channel.send(data, self._patience.answer_s)
        except StalledError:
            self._lost("it took no more data")
        except ClosedError:
            # It may have said why, before it went.
            with contextlib.suppress(ClosedError):
                while (line := self._channel.line(1.0)) is not None:
                    message = parsed(line)
                    if message.get("type") == "error":
                        raise self._error(message) from None
            self._lost("")

    def _lost(self, why: str) -> NoReturn:
        code = self._channel.close(0.0 if why else self._patience.close_s)
        why = why or last_words(self._channel.stderr) or f"the connection ended with code {code}"
        raise DeviceError(
            f"{self.device.name} was lost in mid-run: {why}",
            "Check the device and its connection (power, memory, network), and measure again.",
        )

    def fail(self, what: str, cause: BaseException | None = None) -> NoReturn:
        """Say that what the device sent is not what its agent sends."""
        raise DeviceError(
            f"{self.device.name} does not speak as edgekit's agent does. {what}",
            "Remove ~/.cache/edgekit on the device, and try again.",
        ) from cause

    def _error(self, message: Message) -> EdgekitError:
        """The error that a line of type `error` stands for."""
        text = str(message.get("message", "It gave no reason."))[:4000]
        hint = str(message.get("hint", ""))[:4000]
        kind = message.get("kind")
        what = f"{self.device.name}: {text}"
        if kind == "usage":
            return UsageError(what, hint or "Check the model and the options.")
        if kind == "unavailable":
            return UnavailableError(
                what, hint or f"Look at `edgekit device probe {self.device.name}`."
            )
        if kind == "pass":
            return PassError(what, hint or "Look at what the message names.")
        if kind == "locked":
            return DeviceError(what, hint or "Wait until it has finished, and try again.")
        return DeviceError(what, hint or "Measure again.")


def _never() -> int:
    return 0


def sha256(path: Path) -> str:
    """Hash a file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}.", "Check the path.") from e


def _chunks(path: Path, size: int) -> Any:
    left = size
    with path.open("rb") as file:
        while left:
            chunk = file.read(min(_CHUNK_BYTES, left))
            if not chunk:
                raise UsageError(f"{path} became shorter while it was sent.", "Try again.")
            left -= len(chunk)
            yield chunk
