"""Which machine a figure belongs to: figures of two machines are never compared as if of one.

Only what stays the same from one run to the next goes in; load and temperature are conditions
(`edgekit.bench.conditions`). `root` is the file system's root; a test gives a folder of its own.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

# Instruction sets that decide how fast a kernel is, as the kernel names them.
ISA_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)
DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "openvino",
    "torch",
    "numpy",
)
ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd40": "Neoverse-V1",
    "0xd0c": "Neoverse-N1",
    "0xd49": "Neoverse-N2",
}


def fingerprint(
    root: Path = Path("/"), versions: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Describe the machine in words that stay the same from run to run.

    Args:
        root: the file system's root.
        versions: of the runtimes; those installed where None.

    Returns:
        `cpu`, `isa`, `architecture`, `cores`, `usable_cores`, `ram_gib`, `os`, `kernel`,
        `governor`, `max_mhz`, `virtualised`, `board`, `gpu_driver`, versions as
        `version:onnxruntime`, and `digest` over all of these. What is not known is `unknown`.
    """
    cpuinfo = _text(root / "proc/cpuinfo")
    cpufreq = root / "sys/devices/system/cpu/cpu0/cpufreq"
    kilohertz = _text(cpufreq / "cpuinfo_max_freq")
    flags = set(_field(cpuinfo, "flags", "Features").split())
    found = {
        "cpu": _cpu_model(cpuinfo),
        "isa": " ".join(flag for flag in ISA_FLAGS if flag in flags) or "unknown",
        "architecture": platform.machine(),
        "cores": str(len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or "unknown"),
        "usable_cores": _usable_cores(),
        "ram_gib": _ram_gib(root),
        "os": _os_name(root),
        "kernel": _text(root / "proc/sys/kernel/osrelease") or "unknown",
        "governor": _text(cpufreq / "scaling_governor") or "unknown",
        "max_mhz": str(int(kilohertz) // 1000) if kilohertz.isdigit() else "unknown",
        "virtualised": _virtualised(root, flags),
        "board": _board(root),
        "gpu_driver": _gpu_driver(root),
        "python": platform.python_version(),
    }
    installed = _versions() if versions is None else versions
    found.update({f"version:{name}": version for name, version in sorted(installed.items())})
    found["digest"] = digest(found)
    return found


def digest(found: Mapping[str, str]) -> str:
    """Hash a fingerprint: 16 hex digits, equal where all other entries are equal."""
    plain = json.dumps({key: found[key] for key in sorted(found) if key != "digest"})
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def _cpu_model(cpuinfo: str) -> str:
    if model := _field(cpuinfo, "model name", "Model name"):
        return model
    parts = sorted(set(re.findall(r"^CPU part\s*:\s*(\w+)", cpuinfo, re.MULTILINE)))
    return " + ".join(ARM_PARTS.get(part, part) for part in parts) or "unknown"


def _usable_cores() -> str:
    if hasattr(os, "sched_getaffinity"):
        return str(len(os.sched_getaffinity(0)))
    return str(os.cpu_count() or "unknown")


def _ram_gib(root: Path) -> str:
    match = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    # Rounded: the kernel's own share changes a little from boot to boot.
    return str(round(int(match[1]) / (1 << 20))) if match else "unknown"


def _os_name(root: Path) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', _text(root / "etc/os-release"), re.MULTILINE)
    return match[1] if match else platform.system() or "unknown"


def _virtualised(root: Path, flags: set[str]) -> str:
    vendor = _text(root / "sys/class/dmi/id/sys_vendor").lower()
    known = (
        "qemu",
        "kvm",
        "vmware",
        "xen",
        "virtualbox",
        "innotek",
        "amazon",
        "google",
        "parallels",
    )
    if "hypervisor" in flags or any(name in vendor for name in known):
        return "yes"
    return "no" if flags else "unknown"


def _board(root: Path) -> str:
    board = _text(root / "proc/device-tree/model").rstrip("\0")
    jetpack = _text(root / "etc/nv_tegra_release").split("\n", 1)[0].lstrip("# ")
    names = [board, jetpack] if board else [_text(root / "sys/class/dmi/id/product_name")]
    return ", ".join(name for name in names if name) or "unknown"


def _gpu_driver(root: Path) -> str:
    match = re.search(r"(\d+\.\d+(?:\.\d+)?)", _text(root / "proc/driver/nvidia/version"))
    return f"nvidia {match[1]}" if match else "none"


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _field(cpuinfo: str, *names: str) -> str:
    for name in names:
        if match := re.search(rf"^{name}\s*:\s*(.*)$", cpuinfo, re.MULTILINE):
            return match[1].strip()
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().strip("\0")
    except OSError:
        return ""
