"""What a machine is, and what can be measured on it."""

import platform
from typing import TYPE_CHECKING, Any

from edgekit.errors import UnavailableError
from edgekit.pipeline import runtimes
from edgekit.target import Target

if TYPE_CHECKING:
    from edgekit.device import Hello


def cannot_measure(target: Target) -> str:
    """Why a target's latency cannot be measured on this machine; empty where it can."""
    machine = platform.machine()
    if target.machine is not None and target.machine != machine:
        return f"{target.title} is {target.machine}; this machine is {machine}."
    found = runtimes.probe(target.runtime)
    return "" if found.ok else f"{found.reason} {found.fix}".strip()


def cannot_measure_there(target: Target, hello: "Hello", name: str) -> str:
    """Why a target's latency cannot be measured on a device; empty where it can.

    Args:
        target: the target.
        hello: what the device said of itself (`edgekit.device.probe`).
        name: the device's name.
    """
    there = str(hello.fingerprint.get("architecture", "unknown"))
    if target.machine is not None and target.machine != there:
        return f"{target.title} is {target.machine}; the device {name} is {there}."
    found = hello.runtimes.get(target.runtime)
    if found is None:
        return f"The device {name} says nothing of the runtime {target.runtime}."
    if found.get("ok"):
        return ""
    return f"{name}: {found.get('reason', '')} {found.get('fix', '')}".strip()


def machine() -> dict[str, Any]:
    """This machine: its fingerprint, its GPUs, runtimes, engine builders and meters."""
    from edgekit.bench.fingerprint import fingerprint
    from edgekit.bench.meters import probe_meters
    from edgekit.bench.runtimes import cuda

    return {
        "device": dict(fingerprint()),
        "gpus": cuda.devices(),
        "builders": _builders(cuda.devices()),
        "runtimes": {name: _plain(runtimes.probe(name)) for name in runtimes.names()},
        "meters": {name: _plain(p) for name, p in probe_meters().items()},
    }


def _builders(gpus: list[str]) -> dict[str, Any]:
    """What can build engines here; TensorRT wants a GPU for it, TensorRT-RTX none."""
    from edgekit.bench.engine import library
    from edgekit.bench.runtimes import cuda

    found: dict[str, Any] = {}
    kinds: tuple[library.Kind, ...] = ("tensorrt", "tensorrt-rtx")
    for kind in kinds:
        ok, said, fix = library.available(kind)
        reason = f"{kind} {said}" if ok else said
        if ok and kind == "tensorrt" and not gpus:
            ok, reason, fix = False, f"{reason} is here, and no GPU to build on.", cuda.driver_fix()
        if ok and kind == "tensorrt-rtx":
            reason += ", ahead of time"
        found[kind] = {"ok": ok, "reason": reason, "fix": fix}
    return found


def meters(device: str | None = None) -> dict[str, Any]:
    """What energy meters this machine or a device has, what is missing, and how to get it.

    Args:
        device: a device that the user added; this machine where None.

    Returns:
        `where`, and `meters`: by name `ok`, `reason`, `fix`.

    Raises:
        UsageError: there is no such device.
        DeviceError: it cannot be reached.
    """
    from edgekit.bench.meters import probe_meters
    from edgekit.pipeline.benchmark import HERE, find_device

    there = find_device(device) if device is not None else None
    if there is None:
        return {"where": HERE, "meters": {n: _plain(p) for n, p in probe_meters().items()}}
    from edgekit.device import probe

    hello = probe(there)
    if not hello.meters:
        raise UnavailableError(
            f"{there.name} could not look at its meters: it lacks {', '.join(hello.missing)}.",
            hello.install or f"Look at `edgekit device probe {there.name}`.",
        )
    return {"where": there.name, "meters": {n: dict(m) for n, m in hello.meters.items()}}


def meters_here() -> list[str]:
    """Names of the meters that can measure on this machine."""
    from edgekit.bench.meters import probe_meters

    return [name for name, found in probe_meters().items() if found.ok]


def _plain(probe: Any) -> dict[str, Any]:
    return {"ok": probe.ok, "reason": probe.reason, "fix": probe.fix}
