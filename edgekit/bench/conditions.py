"""What the machine was doing while it was measured: recorded, never changed.

`root` is the file system's root; a test gives a folder of its own.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.bench import throttle
from edgekit.errors import UnavailableError, UsageError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "ORT_NUM_THREADS")


def snapshot(root: Path = Path("/")) -> dict[str, Any]:
    """Read load, frequency, temperatures and stolen time. What a device does not tell is absent.

    Returns:
        Some of `load_1min`, `cpu_mhz` (by CPU), `thermal_c` (by zone), `fan` (revolutions a minute,
        or the level of a fan that has only levels, by name), `throttle` (`throttle.flags`),
        `stolen_s` (time that a hypervisor gave to others, since boot), `involuntary_switches` (of
        this process).
    """
    found: dict[str, Any] = {}
    if load := _text(root / "proc/loadavg"):
        found["load_1min"] = float(load.split()[0])
    cpus = root / "sys/devices/system/cpu"
    mhz = {
        path.parent.parent.name: int(text) / 1000
        for path in sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        if (text := _text(path)).isdigit()
    }
    mhz = mhz or _mhz_of_cpuinfo(root)
    if mhz:
        found["cpu_mhz"] = mhz
    zones = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        text = _text(zone / "temp")
        if text.lstrip("-").isdigit():
            zones[f"{zone.name}:{_text(zone / 'type')}"] = int(text) / 1000
    if zones:
        found["thermal_c"] = zones
    if fans := _fans(root):
        found["fan"] = fans
    if flags := throttle.flags(root):
        found["throttle"] = flags
    stat = _text(root / "proc/stat").split("\n", 1)[0].split()
    if len(stat) > 8 and stat[0] == "cpu":
        found["stolen_s"] = int(stat[8]) / os.sysconf("SC_CLK_TCK")
    if sys.platform != "win32":
        import resource

        found["involuntary_switches"] = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    return found


@contextmanager
def pinned(cpus: tuple[int, ...] | None) -> Iterator[None]:
    """Keep this thread, and those that it starts, on some CPUs, and put it back at the end.

    Args:
        cpus: their numbers; None changes nothing.

    Raises:
        UsageError: this process may not use one of them.
        UnavailableError: this system pins nothing.
    """
    if cpus is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise UnavailableError(
            "This system cannot pin a process to CPUs.", "Measure without an affinity."
        )
    usable = os.sched_getaffinity(0)
    if not set(cpus) <= usable:
        wrong = ", ".join(str(cpu) for cpu in sorted(set(cpus) - usable))
        raise UsageError(
            f"This process may not use CPU {wrong}.",
            f"CPUs it may use: {', '.join(map(str, sorted(usable)))}.",
        )
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


def threads() -> dict[str, Any]:
    """Return the CPUs this process may use, and the variables that set numbers of threads."""
    found: dict[str, Any] = {
        name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ
    }
    if hasattr(os, "sched_getaffinity"):
        found["affinity"] = sorted(os.sched_getaffinity(0))
    return found


def peak_rss_bytes() -> int | None:
    """Memory high-water mark of this process, None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes(root: Path = Path("/")) -> int | None:
    """Memory of this process now, None where the system does not tell."""
    fields = _text(root / "proc/self/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else None


def free_bytes(root: Path = Path("/")) -> int | None:
    """Memory that a program can get without swapping, None where the system does not tell."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _mhz_of_cpuinfo(root: Path) -> dict[str, float]:
    text = _text(root / "proc/cpuinfo")
    found = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE)
    return {f"cpu{place}": float(each) for place, each in enumerate(found)}


def _fans(root: Path) -> dict[str, int]:
    found = {}
    for path in sorted((root / "sys/class/hwmon").glob("hwmon*/fan*_input")):
        if (text := _text(path)).isdigit():
            found[f"{path.parent.name}:{path.name[: -len('_input')]}"] = int(text)
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        state = _text(device / "cur_state")
        if "fan" in _text(device / "type").lower() and state.isdigit():
            found[f"{device.name}:{_text(device / 'type')}"] = int(state)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
