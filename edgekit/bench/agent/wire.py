"""One JSON object a line, both ways; some lines are followed by as many raw bytes as they say.

Whatever comes in is checked before it is used: a line has a longest length, a size has a largest
value, and what does not parse ends the session with an error of kind `protocol`. Nothing here
blocks for longer than it was told to, so that one thread is enough.
"""

import json
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

MAX_LINE_BYTES = 1 << 20
MAX_FILE_BYTES = 64 << 30
CHUNK_BYTES = 1 << 16
STUCK_S = 60.0
MAX_DIGITS = 20

Kind = Literal[
    "usage", "unavailable", "pass", "locked", "disk", "crash", "protocol", "stopped", "internal"
]
Message = dict[str, Any]


class AgentError(Exception):
    """What goes to the host as a line of type `error`.

    Args:
        kind: what sort of failure it is; the host turns it into one of its own errors.
        message: one sentence that names what failed.
        hint: one sentence that says how to mend it.
    """

    def __init__(self, kind: Kind, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind, self.message, self.hint = kind, message, hint

    def line(self) -> Message:
        """Return the line that says so."""
        return {
            "type": "error",
            "kind": self.kind,
            "message": self.message,
            "hint": self.hint,
        }


class ChannelClosedError(Exception):
    """The host is gone: end of input, or nobody reads what is written."""


def broken(message: str) -> AgentError:
    """Return an error of kind `protocol`."""
    return AgentError("protocol", message, "Use the same version of edgekit on both sides.")


class Channel:
    """The two ends of the pipe to the host.

    Args:
        source: file descriptor to read from; made non-blocking.
        sink: file descriptor to write to; made non-blocking.
    """

    def __init__(self, source: int, sink: int) -> None:
        self.source, self.sink = source, sink
        os.set_blocking(source, False)
        os.set_blocking(sink, False)
        self._buffer = bytearray()

    def receive(self, timeout_s: float) -> Message | None:
        """Wait for the next message; None when time is up. With 0, take what has come.

        Raises:
            ChannelClosedError: end of input.
            AgentError: the line is no message.
        """
        end = time.monotonic() + timeout_s
        while (message := self.pending()) is None:
            left = end - time.monotonic()
            if _ready(self.source, select.POLLIN, max(0.0, left)):
                self.fill()
            if left <= 0:
                return self.pending()
        return message

    def fill(self) -> None:
        """Take in what has come; return at once where nothing has.

        Raises:
            ChannelClosedError: end of input.
        """
        chunk = self._read(CHUNK_BYTES)
        if chunk is not None:
            self._buffer += chunk

    def pending(self) -> Message | None:
        """Return the next message that is wholly here, None where there is none.

        Raises:
            AgentError: the line is too long, or no message.
        """
        end = self._buffer.find(b"\n", 0, MAX_LINE_BYTES + 1)
        if end < 0:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise broken(f"A line is longer than {MAX_LINE_BYTES} bytes.")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return parse(line)

    def payload(self, size: int) -> Iterator[bytes]:
        """Yield the raw bytes that follow a line, `size` in all.

        Raises:
            ChannelClosedError: end of input, or nothing came for a minute.
        """
        left = size
        while left:
            if not self._buffer:
                if not _ready(self.source, select.POLLIN, STUCK_S):
                    raise ChannelClosedError
                self._buffer += self._read(min(left, CHUNK_BYTES)) or b""
                continue
            chunk = bytes(self._buffer[:left])
            del self._buffer[: len(chunk)]
            left -= len(chunk)
            yield chunk

    def send(self, message: Message, payload: Path | None = None) -> None:
        """Write a message, and the file that follows it.

        Raises:
            ChannelClosedError: nobody reads.
        """
        self._write(json.dumps(message, allow_nan=False).encode() + b"\n")
        if payload is not None:
            with payload.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    self._write(chunk)

    def check(self) -> None:
        """Look whether the host is still there; what it has sent is kept.

        Raises:
            ChannelClosedError: it is gone.
        """
        if _ready(self.sink, 0, 0):
            raise ChannelClosedError
        if len(self._buffer) <= MAX_LINE_BYTES:
            self.fill()

    def _read(self, size: int) -> bytes | None:
        try:
            chunk = os.read(self.source, size)
        except BlockingIOError:
            return None
        except OSError as e:
            raise ChannelClosedError from e
        if not chunk:
            raise ChannelClosedError
        return chunk

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if not _ready(self.sink, select.POLLOUT, STUCK_S):
                raise ChannelClosedError
            try:
                view = view[os.write(self.sink, view) :]
            except BlockingIOError:
                continue
            except OSError as e:
                raise ChannelClosedError from e


def _ready(descriptor: int, events: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, events)
    return bool(poll.poll(max(0, int(timeout_s * 1000))))


def parse(line: bytes) -> Message:
    """Read one line.

    Raises:
        AgentError: it is not a JSON object with a `type`, or holds a number that no message has.
    """
    try:
        message = json.loads(line.decode("utf-8"), parse_int=_integer, parse_constant=_constant)
    except (ValueError, RecursionError) as e:
        raise broken(f"A line is not JSON: {str(e)[:200]}.") from e
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise broken("A line is not a JSON object with a type.")
    return message


def _integer(text: str) -> int:
    # Python 3.10 takes minutes over a million digits.
    if len(text) > MAX_DIGITS:
        raise ValueError("a number is too long")
    return int(text)


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def size_of(message: Message, key: str = "size") -> int:
    """Return a size in bytes out of a message.

    Raises:
        AgentError: it is no size, or larger than any file may be.
    """
    return checked_size(message.get(key))


def checked_size(value: object) -> int:
    """Hold a number against what a file's size can be.

    Raises:
        AgentError: it is no size, or larger than any file may be.
    """
    if type(value) is not int or not 0 <= value <= MAX_FILE_BYTES:
        raise broken(f"{str(value)[:40]!r} is not the size of a file.")
    return value


def checked_hash(value: object) -> str:
    """Check the form of a SHA-256 in hexadecimal digits, lower case.

    Raises:
        AgentError: it is none.
    """
    if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise broken(f"{str(value)[:80]!r} is not a SHA-256.")
    return value


def checked_text(value: object, what: str, limit: int = 4096) -> str:
    """Check a text that will be shown or handed on.

    Raises:
        AgentError: it is no text, is too long, or cannot be encoded.
    """
    if not isinstance(value, str) or len(value) > limit:
        raise broken(f"{what} is not a text of at most {limit} characters.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as e:
        raise broken(f"{what} is not valid Unicode.") from e
    return value
