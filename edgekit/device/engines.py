"""Building an engine on a device, by the TensorRT that is there."""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from edgekit.bench.engine.build import Built, Plan
from edgekit.device.api import interruptible
from edgekit.device.parts import beside
from edgekit.device.registry import Device
from edgekit.device.session import Say, Session, Stop
from edgekit.device.talk import Patience
from edgekit.errors import UnavailableError, UsageError
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
            back into it.
        say: called with the fraction of bytes sent and a short text.
        stop: asked about five times a second; True does what Ctrl-C does.
        patience: how long to wait for the device.

    Raises:
        DeviceError: the device cannot be reached, was lost, or is in use.
        UnavailableError: it lacks Python, NumPy, the builder, a driver or a DLA.
        UsageError: the model or the plan does not serve.
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
        built, timing = _read(session, message.get("built"), packed)
    if timing and plan.options.timing_cache is not None:
        _keep(Path(plan.options.timing_cache) / Path(built.timing_cache).name, timing)
    return built


def _timings(plan: Plan) -> dict[str, Path]:
    """The timing caches that the user has: only the device knows which one it can use."""
    if plan.options.timing_cache is None:
        return {}
    folder = Path(plan.options.timing_cache)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is no folder.", "Give --timing-cache a folder.")
    return {path.name: path for path in sorted(folder.glob("tensorrt-*.cache")) if path.is_file()}


def _read(session: Session, facts: Any, packed: bytes) -> tuple[Built, bytes]:
    """The engine and the timing cache that a device sent; what it sends is checked."""
    import numpy as np

    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            engine = arrays["engine"].astype(np.uint8, casting="no").tobytes()
            timing = b""
            if "timings" in arrays.files:
                timing = arrays["timings"].astype(np.uint8, casting="no").tobytes()
        return Built(data=engine, **_checked(facts)), timing
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as e:
        session.fail("Its engine is broken.", e)


_LISTS = ("compute_capabilities", "parser_warnings", "builder_warnings", "flags")


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


def _keep(path: Path, data: bytes) -> None:
    """Write a timing cache, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as e:
        raise UsageError(f"{path} cannot be written: {e}.", "Choose another folder.") from e
