"""INA3221 and INA238 power monitors (Jetson boards), through Linux's hwmon interface.

`in*_input` is in millivolts, `curr*_input` in milliamperes, `power*_input` in microwatts
(Documentation/hwmon/sysfs-interface.rst). VDD_IN (Orin NX and Nano, Xavier NX), POM_5V_IN (the
first Nano) and VIN (Thor) are the module's total: rails are parts of it and are never added to it.
An AGX Orin has no total; its rails are added up, but for VDDQ_VDD2_1V8AO, which VIN_SYS_5V0 feeds.
The INA3221's sum of the shunts is no rail, and a channel that is off or labelled NC is none either.
"""

from pathlib import Path
from types import TracebackType

from edgekit.bench.meters.sampled import SampledMeter, Sampler, Watts, in_thread
from edgekit.bench.protocol import Clock
from edgekit.bench.runtimes.base import Availability
from edgekit.errors import UnavailableError

CHIPS = ("ina3221", "ina238")
TOTALS = ("VDD_IN", "POM_5V_IN", "VIN")
FED_BY = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
NO_RAIL = ("", "NC")
DEFAULT_PERIOD_S = 0.1


class Ina3221(SampledMeter):
    """Power of a board's rails.

    Args:
        root: the file system's root.
        clock: time.
        sampler: polls windows in the background; None: the caller does.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        clock: Clock | None = None,
        *,
        sampler: Sampler | None = in_thread,
    ) -> None:
        self._folder = root / "sys/class/hwmon"
        self._rails: dict[str, tuple[Path, ...]] = {}
        super().__init__(
            "ina3221",
            self._read,
            primary=(),
            period_s=DEFAULT_PERIOD_S,
            clock=clock,
            sampler=sampler,
        )

    def probe(self) -> Availability:
        """Say whether a monitor is there and readable."""
        rails = self._find()
        if not rails:
            return Availability(
                ok=False,
                reason=f"There is no INA3221 or INA238 monitor in {self._folder}.",
                fix="These monitors are on Jetson boards; use another meter elsewhere.",
            )
        try:
            for files in rails.values():
                _watts(files)
        except UnavailableError as e:
            return Availability(ok=False, reason=e.message, fix=e.hint)
        return Availability(ok=True, reason=f"Rails: {', '.join(rails)}.")

    def __enter__(self) -> "Ina3221":
        """Find the rails and how often the monitor converts."""
        state = self.probe()
        if not state.ok:
            raise UnavailableError(state.reason, state.fix)
        self._rails = self._find()
        totals = tuple(name for name in TOTALS if name in self._rails)
        parts = tuple(name for name in self._rails if FED_BY.get(name) not in self._rails)
        self.primary = totals[:1] or parts
        for chip in self._chips():
            text = _text(chip / "update_interval")
            if text.isdigit() and int(text) > 0:
                self.period_s = max(0.01, int(text) / 1000)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to close."""

    def _read(self) -> Watts:
        return {name: _watts(files) for name, files in self._rails.items()}

    def _chips(self) -> list[Path]:
        return [p for p in sorted(self._folder.glob("hwmon*")) if _text(p / "name") in CHIPS]

    def _find(self) -> dict[str, tuple[Path, ...]]:
        rails: dict[str, tuple[Path, ...]] = {}
        for chip in self._chips():
            if (chip / "power1_input").exists():
                label = _text(chip / "power1_label") or _text(chip / "in1_label") or "VDD_IN"
                # Two monitors without labels: the first is at the input, by its address.
                rails[label if label not in rails else chip.name] = (chip / "power1_input",)
                continue
            for current in sorted(chip.glob("curr[0-9]*_input")):
                channel = current.name[len("curr") : -len("_input")]
                label = _text(chip / f"in{channel}_label")
                volts = chip / f"in{channel}_input"
                on = _text(chip / f"in{channel}_enable") != "0"
                if volts.exists() and on and label not in NO_RAIL and "sum" not in label.lower():
                    rails[label] = (volts, current)
        return rails


def _watts(files: tuple[Path, ...]) -> float:
    try:
        values = [int(path.read_text(encoding="utf-8")) for path in files]
    except (OSError, ValueError) as e:
        raise UnavailableError(
            f"A power monitor cannot be read: {e}.", "Check the permissions of /sys/class/hwmon."
        ) from e
    return values[0] * values[1] * 1e-6 if len(values) == 2 else values[0] * 1e-6


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
