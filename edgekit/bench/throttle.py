"""Whether the device slowed itself down: the flags and counters that vendors give.

- x86: `thermal_throttle/{core,package}_throttle_count`, which count since the start.
- Raspberry Pi: `get_throttled`, from sysfs or `vcgencmd`; bits 0 to 3 are now, 16 to 19 are since
  the start (Raspberry Pi documentation, vcgencmd).
- Jetson: `oc*_event_cnt` under hwmon counts over-current and under-voltage throttling.
- Any Linux: a cooling device of the processor (`cpufreq`, `devfreq`, `Processor`) that is engaged.
- NVIDIA: the reasons for the clock (NVML, nvmlClocksEventReasons): hardware slowdown 0x8, software
  thermal 0x20, hardware thermal 0x40, power brake 0x80. The power cap 0x4 is how a GPU is meant to
  run, so it is no throttling here.

`root` is the file system's root; a test gives a folder of its own.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

PI_NOW = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
PI_FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"
NVML_REASONS = {0x8: "slowdown", 0x20: "thermal", 0x40: "hardware thermal", 0x80: "power brake"}
COOLING = re.compile(r"cpufreq|devfreq|^Processor$", re.IGNORECASE)
LEAST_FREQUENCY = 0.95

Command = Callable[[list[str]], str]


def flags(root: Path = Path("/"), command: Command | None = None) -> dict[str, Any]:
    """Read what the device says about throttling. What it does not tell is absent.

    Args:
        root: the file system's root.
        command: runs a program and returns its output; a test gives its own.

    Returns:
        `counts`: by name, events since the start; `active`: what slows it down now, in words;
        `earlier`: what has done so since the start, on a Raspberry Pi.
    """
    counts, active, earlier = _counts(root), _cooling(root), list[str]()
    bits = _pi_bits(root, command)
    if bits is not None:
        active += [text for bit, text in PI_NOW.items() if bits >> bit & 1]
        earlier += [text for bit, text in PI_NOW.items() if bits >> (bit + 16) & 1]
    active += _nvml(root)
    found: dict[str, Any] = {"counts": counts, "active": active, "earlier": earlier}
    return {name: value for name, value in found.items() if value}


def reason(before: Mapping[str, Any], after: Iterable[Mapping[str, Any]]) -> str:
    """Say how the device slowed itself down between snapshots, or nothing.

    Args:
        before: a snapshot (`edgekit.bench.conditions.snapshot`) at the start.
        after: later ones, at least one.

    Returns:
        Words such as `core_throttle_count rose by 12`; empty where there is no sign of it.
    """
    first = before.get("throttle", {})
    found: dict[str, None] = {}
    last: Mapping[str, int] = {}
    for snapshot in after:
        flags_now = snapshot.get("throttle", {})
        found.update(dict.fromkeys(flags_now.get("active", ())))
        new = set(flags_now.get("earlier", ())) - set(first.get("earlier", ()))
        found.update(dict.fromkeys(sorted(new)))
        last = flags_now.get("counts", {})
    for name, count in last.items():
        grown = count - first.get("counts", {}).get(name, count)
        if grown > 0:
            found[f"{name} rose by {grown}"] = None
    return ", ".join(found)


def frequency_ratio(snapshots: list[Mapping[str, Any]]) -> float | None:
    """Mean CPU frequency of the last fifth of snapshots over the first's, None where unknown."""
    means: list[float] = [
        sum(each["cpu_mhz"].values()) / len(each["cpu_mhz"])
        for each in snapshots
        if each.get("cpu_mhz")
    ]
    fifth = max(1, len(means) // 5)
    if len(means) < 2 or sum(means[:fifth]) <= 0:
        return None
    return sum(means[-fifth:]) / sum(means[:fifth])


def _counts(root: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    cpus = root / "sys/devices/system/cpu"
    for kind in ("core", "package"):
        name = f"{kind}_throttle_count"
        texts = [_text(path) for path in cpus.glob(f"cpu[0-9]*/thermal_throttle/{name}")]
        numbers = [int(text) for text in texts if text.isdigit()]
        if numbers:
            # Every CPU of a package shows the package's own count.
            found[name] = sum(numbers) if kind == "core" else max(numbers)
    for path in sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt")):
        text = _text(path)
        if text.isdigit():
            found[path.name] = found.get(path.name, 0) + int(text)
    return found


def _cooling(root: Path) -> list[str]:
    found = []
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind, state = _text(device / "type"), _text(device / "cur_state")
        if COOLING.search(kind) and state.isdigit() and int(state) > 0:
            found.append(f"{kind} at {state} of {_text(device / 'max_state') or '?'}")
    return found


def _pi_bits(root: Path, command: Command | None) -> int | None:
    text = _text(root / PI_FILE)
    if not text and (command or (root == Path("/") and shutil.which("vcgencmd"))):
        text = (command or _run)(["vcgencmd", "get_throttled"]).strip().rpartition("=")[2]
    try:
        return int(text, 16)
    except ValueError:
        return None


def _run(arguments: list[str]) -> str:
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _nvml(root: Path) -> list[str]:
    if not _text(root / "proc/driver/nvidia/version"):
        return []
    try:
        import pynvml
    except ImportError:
        return []
    found: dict[str, None] = {}
    try:
        pynvml.nvmlInit()
        try:
            for index in range(pynvml.nvmlDeviceGetCount()):
                device = pynvml.nvmlDeviceGetHandleByIndex(index)
                bits = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)
                names = [name for bit, name in NVML_REASONS.items() if bits & bit]
                found.update(dict.fromkeys(f"GPU {index}: {name}" for name in names))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return list(found)
    return list(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().strip("\0")
    except OSError:
        return ""
