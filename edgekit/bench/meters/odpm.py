"""On-device power monitors of Android phones (Pixel 6 and newer): joules of each power rail.

`/sys/bus/iio/devices/iio:device*/energy_value` holds a line for each rail, such as
`CH0(T=349894)[S10M_VDD_TPU], 5578756`: microwatt-seconds since boot. There is one such file for
each of the two power-management chips. The rails are different loads, so they are added up; what
has no monitor (the screen on some phones) is not in the sum.
"""

import re
from pathlib import Path
from types import TracebackType

from edgekit.bench.meters.counter import CounterMeter, Ticks
from edgekit.bench.protocol import Clock
from edgekit.bench.runtimes.base import Availability
from edgekit.errors import UnavailableError

UNIT_J = 1e-6
_LINE = re.compile(r"^CH\d+\(T=\d+\)\[(\w+)\],\s*(\d+)\s*$")


class Odpm(CounterMeter):
    """Energy of a phone's rails; a domain is a rail, such as `S2M_VDD_CPUCL2`.

    Args:
        root: the file system's root.
        clock: time.
    """

    def __init__(self, root: Path = Path("/"), clock: Clock | None = None) -> None:
        self._folder = root / "sys/bus/iio/devices"
        super().__init__(
            "odpm",
            self._read,
            ranges={},
            joules_per_tick=UNIT_J,
            primary=(),
            clock=clock,
            may_rest=True,
        )

    def probe(self) -> Availability:
        """Say whether the monitors are there and readable."""
        try:
            rails = self._read()
        except UnavailableError as e:
            return Availability(ok=False, reason=e.message, fix=e.hint)
        return Availability(ok=True, reason=f"{len(rails)} rails: {', '.join(rails)}.")

    def __enter__(self) -> "Odpm":
        """Find the rails, and measure how often they are updated."""
        self.primary = tuple(self._read())
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
        files = sorted(self._folder.glob("iio:device*/energy_value"))
        if not files:
            raise UnavailableError(
                f"There is no power monitor in {self._folder}.",
                "Android phones from the Pixel 6 on have them; use another meter elsewhere.",
            )
        rails: dict[str, int] = {}
        for file in files:
            for line in _text(file).splitlines():
                if found := _LINE.match(line):
                    rails[found[1]] = int(found[2])
        if not rails:
            raise UnavailableError(
                f"{files[0]} names no rail.", "Its kernel writes it otherwise: use another meter."
            )
        return rails


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as e:
        raise UnavailableError(
            f"{file} cannot be read: {e.strerror}.", "On a phone this needs root (adb root)."
        ) from e
