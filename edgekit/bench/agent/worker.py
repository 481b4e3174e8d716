"""The process that imports NumPy and the runtime, and measures.

It gets its orders from a file and its stop from stdin, writes what it finds to files, and sends
short messages over a pipe of its own: stdout belongs to whatever the libraries print.
"""

import contextlib
import faulthandler
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from edgekit.bench import power
from edgekit.bench.agent.emulation import emulated
from edgekit.bench.agent.install import install_hint
from edgekit.bench.agent.wire import Kind, Message

MODULES = ("numpy", "onnxruntime")
ARRAYS = "arrays.npz"
PR_SET_PDEATHSIG = 1
SIGKILL = 9


def main(arguments: list[str]) -> NoReturn:
    """Run `probe [SKIP...]`, `run FOLDER`, `infer FOLDER` or `build FOLDER`.

    The first argument is the descriptor of the pipe.
    """
    faulthandler.enable()
    _die_with_parent()
    post = _poster(int(arguments[0]))
    stopped = threading.Event()
    threading.Thread(target=_listen, args=(stopped,), daemon=True).start()
    code = _work(arguments[1:], post, stopped)
    sys.stdout.flush()
    sys.stderr.flush()
    # All is written: libraries that crash when they are unloaded shall not spoil it.
    os._exit(code)


def _work(arguments: list[str], post: Callable[[Message], None], stopped: threading.Event) -> int:
    if arguments[0] == "probe":
        return _probe(post, set(arguments[1:]))
    folder = Path(arguments[1])
    try:
        import_module("numpy")
    except ImportError as e:
        return fail(
            folder, "unavailable", f"NumPy does not import on the device: {e}.", install_hint([])
        )
    from edgekit.bench.agent.measure import main as carry_out

    if arguments[0] == "infer":
        from edgekit.bench.agent.infer import infer

        return carry_out(folder, post, stopped, infer)
    if arguments[0] == "build":
        from edgekit.bench.agent.build import build

        return carry_out(folder, post, stopped, build)
    return carry_out(folder, post, stopped)


def fail(folder: Path, kind: Kind, message: str, hint: str) -> int:
    """Write `error.json`, and return the exit code that goes with it."""
    # Where a file lies in the device's cache tells the host nothing.
    text = re.sub(rf"{re.escape(str(folder))}/subject-\d+/", "", message)
    write(folder / "error.json", {"kind": kind, "message": text, "hint": hint})
    return 0


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Write a file of JSON, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")
    part.replace(path)


def _poster(descriptor: int) -> Callable[[Message], None]:
    os.set_inheritable(descriptor, False)

    def post(message: Message) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(descriptor, data) :]

    return post


def _listen(stopped: threading.Event) -> None:
    """Wait for `stop`; when the supervisor is gone, end at once."""
    while chunk := os.read(0, 4096):  # not by `sys.stdin`, whose lock would be held at the end
        if b"stop" in chunk:
            stopped.set()
    os._exit(1)


def _die_with_parent() -> None:
    """Ask Linux for SIGKILL when the supervisor dies, even while a library holds everything up."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)


def _probe(post: Callable[[Message], None], skip: set[str]) -> int:
    def look(what: str, at: Callable[[], dict[str, Any]]) -> None:
        if what in skip:
            return
        post({"type": "probing", "what": what})
        try:
            found = at()
        except Exception as e:  # noqa: BLE001 - whatever a broken library raises is the answer
            found = {"problems": [f"Looking at {what} failed: {type(e).__name__}: {e}"]}
        post({"type": "found", "found": found})

    look("emulation", lambda: {"emulated": emulated()})
    look("power mode", lambda: {"power_mode": power.read()})
    look("fingerprint", _fingerprint)
    for name in MODULES:
        look(f"module:{name}", partial(_module, name))
    if "module:numpy" not in skip and _imports("numpy"):
        _probe_parts(look, skip)
    post({"type": "done"})
    return 0


def _probe_parts(look: Callable[[str, Callable[[], dict[str, Any]]], None], skip: set[str]) -> None:
    from edgekit.bench.meters import METERS, probe_meter
    from edgekit.bench.runtimes import RUNTIMES, runtime_class

    def runtime(name: str) -> dict[str, Any]:
        return {"runtimes": {name: asdict(runtime_class(name).probe())}}

    def meter(name: str) -> dict[str, Any]:
        return {"meters": {name: asdict(probe_meter(name))}}

    for name in RUNTIMES:
        if f"module:{name}" not in skip:
            look(f"runtime:{name}", partial(runtime, name))
    for name in METERS:
        look(f"meter:{name}", partial(meter, name))


def _fingerprint() -> dict[str, Any]:
    from edgekit.bench.fingerprint import fingerprint

    return {"fingerprint": fingerprint()}


def _module(name: str) -> dict[str, Any]:
    return {} if _imports(name) else {"missing": [name]}


def _imports(name: str) -> bool:
    try:
        import_module(name)
    except Exception:  # noqa: BLE001 - a broken build raises anything at all
        return False
    return True
