"""The battery's gauge of laptops, phones and handhelds, through Linux's power_supply class.

`power_now` is in microwatts, `current_now` in microamperes, `voltage_now` in microvolts,
`energy_now` in microwatt-hours (Documentation/ABI/testing/sysfs-class-power). It sees the whole
device, its screen included, and only while the battery alone feeds it: while it charges, or hangs
on the mains, the figures say nothing about the load. Gauges update every few seconds.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal

from edgekit.bench.meters.base import Load, Window
from edgekit.bench.meters.counter import CounterMeter
from edgekit.bench.meters.sampled import SampledMeter, Sampler, in_thread
from edgekit.bench.protocol import Clock
from edgekit.bench.runtimes.base import Availability
from edgekit.errors import UnavailableError

PERIOD_S = 2.0
COUNTER_PATIENCE_S = 120.0
COUNTER_STEPS = 2
JOULES_PER_UWH = 3.6e-3

Powers = Mapping[str, tuple[Path, ...]]


class PowerSupply:
    """Power of a device on its battery; a domain is a battery, such as `BAT0`.

    Args:
        root: the file system's root.
        clock: time.
        sampler: polls windows in the background; None: the caller does.
    """

    name = "power-supply"
    label: Literal["measured", "estimated"] = "measured"

    def __init__(
        self,
        root: Path = Path("/"),
        clock: Clock | None = None,
        *,
        sampler: Sampler | None = in_thread,
    ) -> None:
        self._folder = root / "sys/class/power_supply"
        self._clock, self._sampler = clock, sampler
        self._inner: SampledMeter | CounterMeter | None = None
        self.primary: tuple[str, ...] = ()
        self.period_s: float | None = None

    def probe(self) -> Availability:
        """Say whether a battery feeds this device, and tells its power."""
        try:
            files = self._ready()
        except UnavailableError as e:
            return Availability(ok=False, reason=e.message, fix=e.hint)
        return Availability(ok=True, reason=f"On battery: {', '.join(files)}.")

    def __enter__(self) -> "PowerSupply":
        """Find the batteries, and what their gauges tell."""
        files = self._ready()
        self.primary = tuple(files)
        if any(paths[0].name == "energy_now" for paths in files.values()):
            self._inner = self._counter(files)
        else:
            self._inner = SampledMeter(
                self.name,
                lambda: self._watts(files),
                primary=self.primary,
                period_s=PERIOD_S,
                clock=self._clock,
                sampler=self._sampler,
                holds=True,
            )
        self.period_s = self._inner.period_s
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Forget the batteries."""
        self._inner = None

    @contextmanager
    def window(self, load: Load | None = None, *, align: bool = True) -> Iterator[Window]:
        """Open a window; see `Meter`. It is invalid once the device is plugged in."""
        if self._inner is None:
            raise UnavailableError("power-supply: the meter is not open.", "Enter it first.")
        with self._inner.window(load, align=align) as window:
            yield window

    def _ready(self) -> Powers:
        files = self._find()
        self._check_discharging(files)
        for path in (path for paths in files.values() for path in paths):
            _integer(path)
        return files

    def _counter(self, files: Powers) -> CounterMeter:
        """A meter over what is left in the batteries, where they tell nothing else."""

        def left() -> dict[str, int]:
            self._check_discharging(files)
            return {name: -_integer(paths[0]) for name, paths in files.items()}

        counter = CounterMeter(
            self.name,
            left,
            ranges={},
            joules_per_tick=JOULES_PER_UWH,
            primary=self.primary,
            clock=self._clock,
            patience_s=COUNTER_PATIENCE_S,
            may_rest=True,
        )
        counter.period_s = counter.measure_period(COUNTER_STEPS, pause_s=0.05)
        return counter

    def _watts(self, files: Powers) -> dict[str, float]:
        self._check_discharging(files)
        return {name: _power(paths) for name, paths in files.items()}

    def _find(self) -> dict[str, tuple[Path, ...]]:
        found: dict[str, tuple[Path, ...]] = {}
        for folder in sorted(self._folder.glob("*")):
            # A mouse's or a headset's battery has the scope `Device`.
            if _text(folder / "type") != "Battery" or _text(folder / "scope") == "Device":
                continue
            for names in (("power_now",), ("current_now", "voltage_now"), ("energy_now",)):
                if all((folder / name).exists() for name in names):
                    found[folder.name] = tuple(folder / name for name in names)
                    break
        if not found:
            raise UnavailableError(
                f"There is no battery that tells its power in {self._folder}.",
                "Use another meter on a device without a battery.",
            )
        kinds = {paths[0].name == "energy_now" for paths in found.values()}
        if len(kinds) > 1:
            raise UnavailableError(
                "The batteries tell different things (power and energy).", "Use another meter."
            )
        return found

    def _check_discharging(self, files: Powers) -> None:
        for folder in sorted(self._folder.glob("*")):
            if _text(folder / "type") != "Battery" and _text(folder / "online") == "1":
                raise UnavailableError(
                    f"{folder.name} feeds the device, so its battery tells nothing of the load.",
                    "Unplug it, and measure again.",
                )
        states = {name: _text(paths[0].parent / "status") for name, paths in files.items()}
        if "Charging" in states.values() or "Discharging" not in states.values():
            said = ", ".join(f"{name} is {state or 'unknown'}" for name, state in states.items())
            raise UnavailableError(
                f"No battery feeds the device alone: {said}.", "Unplug it, and measure again."
            )


def _power(paths: tuple[Path, ...]) -> float:
    """Watts now; drivers differ in the sign of a current that flows out."""
    values = [abs(_integer(path)) for path in paths]
    if len(values) == 2:
        return values[0] * 1e-6 * values[1] * 1e-6
    return values[0] * 1e-6


def _integer(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UnavailableError(
            f"The battery's {path.name} cannot be read: {e}.",
            "Check its permissions; on a phone this needs root.",
        ) from e


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
