"""RAPL: the energy counters of Intel and AMD processors, through Linux's powercap interface.

Top-level zones are packages, and on some laptops `psys`, which contains the package: it is never
added to it. `intel-rapl-mmio` shows the same package once more and is not read.
Source: Documentation/power/powercap/powercap.rst in the Linux kernel.
"""

import re
from pathlib import Path
from types import TracebackType

from edgekit.bench.meters.counter import CounterMeter, Ticks
from edgekit.bench.protocol import Clock
from edgekit.bench.runtimes.base import Availability
from edgekit.errors import UnavailableError

UNIT_J = 1e-6
_ZONE = re.compile(r"^intel-rapl:\d+(:\d+)?$")


class Rapl(CounterMeter):
    """CPU packages' energy.

    Args:
        root: the file system's root.
        clock: time.
    """

    def __init__(self, root: Path = Path("/"), clock: Clock | None = None) -> None:
        self._folder = root / "sys/class/powercap"
        self._zones: dict[str, Path] = {}
        super().__init__(
            "rapl", self._read, ranges={}, joules_per_tick=UNIT_J, primary=(), clock=clock
        )

    def probe(self) -> Availability:
        """Say whether the counters are there and readable."""
        zones = self._find()
        if not zones:
            return Availability(
                ok=False,
                reason=f"There are no RAPL zones in {self._folder}.",
                fix="RAPL needs an x86 processor and no virtual machine around it; "
                "on bare metal load the module intel_rapl_msr.",
            )
        if not self._wholes(zones):
            return Availability(
                ok=False,
                reason="RAPL shows no processor package.",
                fix="Load the module intel_rapl_msr.",
            )
        try:
            for path in zones.values():
                _integer(path / "energy_uj")
        except UnavailableError as e:
            return Availability(ok=False, reason=e.message, fix=e.hint)
        return Availability(ok=True, reason=f"RAPL domains: {', '.join(zones)}.")

    def __enter__(self) -> "Rapl":
        """Find the zones, their ranges, and the counters' period."""
        state = self.probe()
        if not state.ok:
            raise UnavailableError(state.reason, state.fix)
        self._zones = self._find()
        self.primary = self._wholes(self._zones)
        self.ranges = {
            name: found
            for name, path in self._zones.items()
            if (found := _range(path / "max_energy_range_uj"))
        }
        self.period_s = self.measure_period()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to close."""

    def _read(self) -> Ticks:
        return {name: _integer(path / "energy_uj") for name, path in self._zones.items()}

    def _find(self) -> dict[str, Path]:
        """Zones by name: `package-0`, `package-0/dram`. A name seen twice is taken once."""
        try:
            found = sorted(p for p in self._folder.iterdir() if _ZONE.match(p.name))
        except OSError:
            return {}
        tops = {p.name: _name(p) for p in found if p.name.count(":") == 1}
        zones: dict[str, Path] = {}
        for path in found:
            parent = tops.get(path.name.rsplit(":", 1)[0])
            name = f"{parent}/{_name(path)}" if parent else tops.get(path.name, "")
            if name and zones.get(parent or name, path).name in (path.name, _parent(path)):
                zones.setdefault(name, path)
        return zones

    @staticmethod
    def _wholes(zones: dict[str, Path]) -> tuple[str, ...]:
        """Packages, and memory where it is counted; cores and graphics are parts of a package."""
        return tuple(
            name
            for name in zones
            if name.startswith("package") and ("/" not in name or name.endswith("/dram"))
        )


def _parent(path: Path) -> str:
    return path.name.rsplit(":", 1)[0]


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _integer(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except PermissionError as e:
        raise UnavailableError(
            f"RAPL: {path} may not be read.",
            f"Let your user read it: sudo chmod a+r {path} (again after each boot).",
        ) from e
    except (OSError, ValueError) as e:
        raise UnavailableError(f"RAPL: {path} cannot be read: {e}.", "Check the driver.") from e


def _range(path: Path) -> int | None:
    try:
        found = int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if found > 0 else None
