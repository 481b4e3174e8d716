"""Building an engine on a device, by the TensorRT that is there."""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from edgekit.bench.engine import timing
from edgekit.bench.engine.build import Built, Plan
from edgekit.bench.engine.library import Kind
from edgekit.device.api import interruptible
from edgekit.device.parts import beside
from edgekit.device.registry import Device
from edgekit.device.session import Say, Session, Stop
from edgekit.device.talk import Patience
from edgekit.errors import DeviceError, UnavailableError
from edgekit.manifest import write_atomically


def build(
    device: Device,
    onnx: Path,
    plan: Plan,
    *,
    say: Say | None = None,
    stop: Stop | None = None,
    patience: Patience | None = None,
) -> Built:
    """Build an engine on a device; the model and its external data go there.

    Args:
        device: where.
        onnx: the model.
        plan: what to build. Timing caches of its folder go along, and the one that was used comes
            back into it; where that cannot be written any more, a warning of the engine says so.
        say: called with the fraction of bytes sent and a short text.
        stop: asked about five times a second; True does what Ctrl-C does.
        patience: how long to wait for the device.

    Raises:
        DeviceError: the device cannot be reached, was lost, or is in use.
        UnavailableError: it lacks Python, NumPy, the builder, a driver or a DLA.
        UsageError: the model or the plan does not serve, or the folder of timing caches cannot be
            written.
        PassError: the parser refuses a node, or the build fails.
        KeyboardInterrupt: it was stopped.
    """
    timings = _timings(plan)
    with (
        interruptible() as interrupted,
        Session(
            device,
            stop=lambda: max(interrupted(), 0 if stop is None else stop()),
            patience=patience,
        ) as session,
    ):
        if "numpy" in session.hello.missing:
            raise UnavailableError(
                f"{device.name} lacks numpy in Python {session.hello.python}"
                f" ({session.hello.executable}).",
                session.hello.install,
            )
        session.lock()
        extra = beside(onnx)
        paths = [onnx, *extra.values(), *timings.values()]
        sums = dict(zip(paths, session.upload(paths, say), strict=True))
        request = {
            "model": {
                "sha256": sums[onnx],
                "name": onnx.name,
                "beside": {name: sums[path] for name, path in extra.items()},
            },
            "timings": {name: sums[path] for name, path in timings.items()},
            "plan": json.loads(json.dumps(asdict(plan))),
        }
        message, packed = session.work("build", request, say)
        built, learnt = _read(session, message.get("built"), packed)
    if learnt and plan.options.timing_cache is not None:
        return _keep(built, Path(plan.options.timing_cache), learnt)
    return built


def builder(device: Device, runtime: Kind, *, patience: Patience | None = None) -> tuple[str, ...]:
    """Say what decides an engine that a device builds, to tell one that is out of date.

    Args:
        device: where.
        runtime: the builder.
        patience: how long to wait for the device.

    Returns:
        The digest of the device's fingerprint (board, JetPack, driver, installed versions), and
        what its builder's library says of its version and its GPU.

    Raises:
        DeviceError: the device cannot be reached, or does not say what it is.
        UnavailableError: ssh, adb or its Python is missing.
    """
    with Session(device, patience=patience) as session:
        hello = session.hello
        digest = hello.fingerprint.get("digest")
        if not digest:
            why = " ".join(hello.problems) or "Its fingerprint is empty."
            raise DeviceError(
                f"{device.name} does not say what it is, so nothing tells whether an engine is"
                f" still right for it. {why}",
                f"Look at `edgekit device probe {device.name}`.",
            )
    return digest, str(hello.runtimes.get(runtime, {}).get("reason", ""))


def _timings(plan: Plan) -> dict[str, Path]:
    """The timing caches that the user has: only the device knows which one it can use."""
    if plan.options.timing_cache is None:
        return {}
    folder = Path(plan.options.timing_cache)
    timing.check_folder(folder)
    return {path.name: path for path in sorted(folder.glob("tensorrt-*.cache")) if path.is_file()}


def _read(session: Session, facts: Any, packed: bytes) -> tuple[Built, bytes]:
    """The engine and the timing cache that a device sent; what it sends is checked."""
    import numpy as np

    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            engine = arrays["engine"].astype(np.uint8, casting="no").tobytes()
            learnt = b""
            if "timings" in arrays.files:
                learnt = arrays["timings"].astype(np.uint8, casting="no").tobytes()
        built = Built(data=engine, **_checked(facts))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as e:
        session.fail("Its engine is broken.", e)
    # The device chooses the name of a file on this machine.
    if (learnt or built.timing_cache) and not timing.is_cache_name(built.timing_cache):
        session.fail(f"It calls a timing cache {built.timing_cache[:80]!r}.")
    return built, learnt


_LISTS = ("compute_capabilities", "parser_warnings", "builder_warnings", "flags", "warnings")


def _checked(facts: Any) -> dict[str, Any]:
    names = {field.name for field in fields(Built)} - {"data"}
    if not isinstance(facts, Mapping) or set(facts) != names:
        raise ValueError("these are not the facts of an engine")
    found: dict[str, Any] = {name: str(facts[name]) for name in names}
    found.update({name: tuple(str(each) for each in facts[name]) for name in _LISTS})
    layers = facts["layers"]
    return {
        **found,
        "seconds": float(facts["seconds"]),
        "layers": layers if isinstance(layers, list) else None,
    }


def _keep(built: Built, folder: Path, data: bytes) -> Built:
    """Write the timing cache of a build, whole or not at all; where it fails the engine says so."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / built.timing_cache, data)
    except OSError as e:
        return replace(built, warnings=(*built.warnings, timing.not_kept(built.timing_cache, e)))
    return built
