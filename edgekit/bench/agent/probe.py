"""What the device has, for `hello`: asked of a worker, so that a broken library breaks only that.

The worker names each thing before it looks at it. Where it dies, the thing that it named last is
the culprit; the next worker leaves that out.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.bench import power
from edgekit.bench.agent.cache import disk_errors
from edgekit.bench.agent.emulation import emulated
from edgekit.bench.agent.install import install_hint
from edgekit.bench.agent.job import Job, crash, pump
from edgekit.bench.agent.wire import Channel, Message

LIMIT_S = 120.0
MOST_ATTEMPTS = 6


def probe(channel: Channel, program: Sequence[str], root: Path) -> dict[str, Any]:
    """Ask a worker what this device has.

    Args:
        channel: gets heartbeats meanwhile.
        program: what follows the interpreter on the command line that starts the agent.
        root: the agent's folder on this device.

    Returns:
        The parts of `hello` that a worker finds: `fingerprint`, `runtimes`, `meters`, `missing`,
        `install`, `power_mode`, `emulated`, `problems`.
    """
    found: dict[str, Any] = {
        "fingerprint": {},
        "runtimes": {},
        "meters": {},
        "missing": [],
        "power_mode": power.read(),
        "emulated": emulated(),
        "problems": [],
    }
    skip: list[str] = []
    for _ in range(MOST_ATTEMPTS):
        culprit = _attempt(channel, program, root, found, skip)
        if not culprit:
            break
        skip.append(culprit)
    if any(state["ok"] for state in found["runtimes"].values()):
        found["missing"] = [name for name in found["missing"] if name != "onnxruntime"]
    found["install"] = install_hint(found["missing"]) if found["missing"] else ""
    return found


def _attempt(
    channel: Channel,
    program: Sequence[str],
    root: Path,
    found: dict[str, Any],
    skip: list[str],
) -> str:
    """Let one worker probe; return what it died of, empty where it did not."""
    now = "starting"
    done = False

    def on_message(message: Message) -> None:
        nonlocal now, done
        if message["type"] == "probing":
            now = str(message["what"])
        elif message["type"] == "found":
            for key, value in dict(message["found"]).items():
                _merge(found, key, value)
        done = done or message["type"] == "done"

    with disk_errors(root):
        folder = Path(tempfile.mkdtemp(prefix="probe-", dir=root))
    try:
        job = Job(program, ["probe", *skip], folder)
        try:
            closed = pump(job, channel, on_message, limit_s=LIMIT_S)
            code = job.wait() if closed else job.end()
        finally:
            if job.messages >= 0:
                job.end()
        if done:
            return ""
        why = crash(code, job.tail(), f"looking at {now}").message
        if not closed:
            why = f"Looking at {now} took longer than {LIMIT_S:.0f} s."
        _blame(found, now, why)
        return now
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _blame(found: dict[str, Any], culprit: str, why: str) -> None:
    found["problems"].append(why)
    kind, _, name = culprit.partition(":")
    if kind == "module":
        _merge(found, "missing", [name])
    elif kind in ("runtime", "meter"):
        state = {"ok": False, "reason": why, "fix": f"Install {name} on the device again."}
        _merge(found, f"{kind}s", {name: state})


def _merge(found: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(value, dict):
        found[key] = {**found.get(key, {}), **value}
    elif isinstance(value, list):
        found[key] = [*found.get(key, []), *(each for each in value if each not in found[key])]
    else:
        found[key] = found.get(key) or value
