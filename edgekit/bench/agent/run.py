"""One benchmark, as the supervisor sees it: lay the files out, start the worker, hand on."""

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgekit.bench import power
from edgekit.bench.agent.cache import Cache, disk_errors
from edgekit.bench.agent.job import STOP_S, Job, crash, pump
from edgekit.bench.agent.lock import LONGEST_RUN_S
from edgekit.bench.agent.request import lay_out, lay_out_build
from edgekit.bench.agent.wire import AgentError, Channel, ChannelClosedError, Kind, Message, broken
from edgekit.bench.agent.worker import ARRAYS
from edgekit.errors import EdgekitError, UsageError

_DOING = {"build": "building an engine"}


def run(
    message: Message,
    *,
    channel: Channel,
    cache: Cache,
    root: Path,
    program: Sequence[str],
    emulated: bool,
) -> None:
    """Do what a message asks for in a worker, and send the result. The lock is held.

    Args:
        message: of type `run` (measure), `infer` (run once, and give the outputs) or `build` (an
            engine).
        channel: to the host.
        cache: where the files are.
        root: the agent's folder on this device.
        program: what follows the interpreter on the command line that starts the agent.
        emulated: an emulator runs all this.

    Raises:
        AgentError: it cannot be measured; the kind says why.
        ChannelClosedError: the host is gone.
    """
    with _work_folder(root / "work") as folder:
        lay = lay_out_build if message["type"] == "build" else lay_out
        order = lay(message, cache, folder)
        order["emulated"] = order["emulated"] or emulated
        with _power_mode(order["power_mode"], root / "power.json"):
            (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
            job = Job(program, [message["type"], str(folder)], folder)
            _work(job, channel, folder, _DOING.get(message["type"], "measuring"))
        result = _read(folder / "result.json")
        arrays = folder / ARRAYS
        size = arrays.stat().st_size if arrays.is_file() else 0
        channel.send({"type": "result", "size": size, **result}, arrays if size else None)


def _work(job: Job, channel: Channel, folder: Path, doing: str) -> None:
    stopped = False

    def on_host(message: Message) -> None:
        nonlocal stopped
        if message["type"] == "stop":
            stopped = True
            job.stop()
        elif message["type"] == "bye":
            raise ChannelClosedError
        else:
            raise broken(f"{message['type'][:40]!r} came while it works.")

    def on_message(message: Message) -> None:
        if message["type"] == "progress":
            channel.send(message)

    try:
        closed = pump(job, channel, on_message, on_host, limit_s=LONGEST_RUN_S)
        code = job.wait() if closed else job.end()
    finally:
        job.end()
    failed = folder / "error.json"
    if failed.is_file():
        about = _read(failed)
        raise AgentError(about["kind"], about["message"], about["hint"])
    if code == 0 and (folder / "result.json").is_file():
        return
    if stopped:
        late = "" if closed else f" It did not stop by itself within {STOP_S:.0f} s."
        raise AgentError("stopped", f"It was stopped before it had a result.{late}")
    if not closed:
        raise AgentError("internal", f"It worked for {LONGEST_RUN_S / 3600:.0f} hours.")
    raise crash(code, job.tail(), doing)


def _read(path: Path) -> Message:
    data: Message = json.loads(path.read_text(encoding="utf-8"))
    return data


@contextlib.contextmanager
def _work_folder(work: Path) -> Iterator[Path]:
    folder = work / secrets.token_hex(8)
    with disk_errors(work):
        folder.mkdir(parents=True, mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _power_mode(mode: str | None, journal: Path) -> Iterator[None]:
    """Change the power mode here, not in the worker: a worker that dies puts nothing back."""
    try:
        with power.changed(mode, journal=journal):
            yield
    except EdgekitError as e:
        kind: Kind = "usage" if isinstance(e, UsageError) else "unavailable"
        raise AgentError(kind, e.message, e.hint) from e
