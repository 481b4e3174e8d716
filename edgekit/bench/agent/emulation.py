"""Tell an emulated processor from a real one: an emulator's times say nothing about the device."""

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

X86 = ("x86_64", "AMD64", "i686", "i386")
ARM = ("aarch64", "arm64", "armv7l", "armv8l")
VARIABLES = ("QEMU_LD_PREFIX", "QEMU_CPU")
MODELS = re.compile(r"QEMU TCG|QEMU Virtual CPU|VirtualApple", re.IGNORECASE)
NOTE = "emulated processor"


def emulated(
    root: Path = Path("/"),
    machine: str | None = None,
    environment: Mapping[str, str] | None = None,
    parent: int | None = None,
) -> bool:
    """Say whether an emulator runs this program (qemu-user, qemu's TCG, Rosetta).

    An emulator answers for `/proc/self`, but not for other processes: the parent, started by the
    same emulator, shows the emulator's own program.

    Args:
        root: the file system's root.
        machine: what `uname -m` says.
        environment: of this process.
        parent: process id of the parent.
    """
    machine = machine or platform.machine()
    environment = os.environ if environment is None else environment
    parent = os.getppid() if parent is None else parent
    if any(name in environment for name in VARIABLES):
        return True
    cpuinfo = _text(root / "proc/cpuinfo")
    if MODELS.search(cpuinfo):
        return True
    if machine in ARM and re.search(r"^vendor_id\s*:\s*\w", cpuinfo, re.MULTILINE):
        return True
    if machine in X86 and re.search(r"^CPU implementer\s*:", cpuinfo, re.MULTILINE):
        return True
    program = _text(root / f"proc/{parent}/cmdline").split("\0")[0]
    try:
        running = str((root / f"proc/{parent}/exe").readlink())
    except OSError:
        running = ""
    if any(re.search(r"(^|/)qemu-[\w-]+$|binfmt", name) for name in (program, running)):
        return True
    rule = _text(root / f"proc/sys/fs/binfmt_misc/qemu-{machine}")
    return rule.startswith("enabled")


def relabel(data: Any) -> Any:
    """Return JSON data in which every figure that has a value is labelled `emulated`."""
    if isinstance(data, list):
        return [relabel(each) for each in data]
    if not isinstance(data, dict):
        return data
    found = {key: relabel(each) for key, each in data.items()}
    if {"value", "unit", "label"} <= found.keys() and found["label"] != "unavailable":
        note = found.get("note") or ""
        found["label"] = "emulated"
        found["note"] = note if NOTE in note else "; ".join(filter(None, (note, NOTE)))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
