"""What a device's agent says, as data, and how long one waits for it."""

import getpass
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.bench.result import Raw

Message = dict[str, Any]


@dataclass(frozen=True)
class Patience:
    """How long to wait for what, in seconds.

    Attributes:
        start_s: until the device's Python answers; ssh's own limit for connecting lies within.
        hello_s: without a heartbeat while the device looks at itself: it imports every runtime.
        answer_s: until anything else is answered or taken.
        silence_s: without a heartbeat while it measures; then it is lost.
        stop_s: without a heartbeat after `stop`; the agent itself gives its work no longer than
            that to take notice.
        close_s: until the transport has ended by itself; then it is killed.
    """

    start_s: float = 60.0
    hello_s: float = 60.0
    answer_s: float = 90.0
    silence_s: float = 20.0
    stop_s: float = 10.0
    close_s: float = 5.0


@dataclass(frozen=True)
class Hello:
    """What a device says of itself.

    Attributes:
        agent: the agent's version.
        python: version of the Python that it runs in.
        executable: that Python's path.
        fingerprint: as of `edgekit.bench.fingerprint`; empty where NumPy is missing.
        runtimes: by name: `ok`, `reason`, `fix`.
        meters: by name: `ok`, `reason`, `fix`.
        missing: modules without which nothing can be measured.
        install: what to type on the device to get them.
        problems: what went wrong while it looked at itself, one sentence each.
        power_mode: as the device calls it, None where it has none.
        free_bytes: room for models.
        emulated: it runs under an emulator.
    """

    agent: str
    python: str
    executable: str
    fingerprint: Mapping[str, str]
    runtimes: Mapping[str, Mapping[str, Any]]
    meters: Mapping[str, Mapping[str, Any]]
    missing: tuple[str, ...]
    install: str
    problems: tuple[str, ...]
    power_mode: str | None
    free_bytes: int | None
    emulated: bool

    @classmethod
    def from_message(cls, message: Message) -> "Hello":
        """Read the agent's line.

        Raises:
            KeyError, TypeError, ValueError: it is not as it should be.
        """
        free = message.get("free_bytes")
        power = message.get("power_mode")
        return cls(
            agent=str(message["agent"]),
            python=str(message["python"]),
            executable=str(message.get("executable", "")),
            fingerprint={str(k): str(v) for k, v in dict(message["fingerprint"]).items()},
            runtimes={str(k): dict(v) for k, v in dict(message["runtimes"]).items()},
            meters={str(k): dict(v) for k, v in dict(message["meters"]).items()},
            missing=tuple(str(name) for name in message["missing"]),
            install=str(message.get("install", "")),
            problems=tuple(str(text) for text in message.get("problems", ())),
            power_mode=None if power is None else str(power),
            free_bytes=None if free is None else int(free),
            emulated=bool(message["emulated"]),
        )


@dataclass(frozen=True)
class Answer:
    """What a run gave.

    Attributes:
        result: a `BenchResult` as a dictionary.
        raw: the timed inferences, by subject.
        extras: what else was asked for, such as `layers`.
    """

    result: Mapping[str, Any]
    raw: Mapping[str, "Raw"]
    extras: Mapping[str, Any]


def parsed(line: bytes) -> Message:
    """A message; empty where the line is none."""
    try:
        found = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("type"), str) else {}


def fraction_of(value: object) -> float:
    """A progress message's fraction, whatever was sent."""
    return min(1.0, max(0.0, float(value))) if isinstance(value, (int, float)) else 0.0


def owner() -> str:
    """Who is talking, for whoever finds the device in use."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{platform.node()}:{os.getpid()}"
