"""The power-management chip of the Raspberry Pi 5: volts and amperes of its 12 rails.

`vcgencmd pmic_read_adc` prints a line for each channel, such as `VDD_CORE_A current(7)=1.27304400A`
and `VDD_CORE_V volt(15)=0.86466000V`. The sum over the rails is measured. It is not what the board
draws: the current of the 5 V input has no channel, so the chip's own losses, USB and a HAT are not
in it. A total fitted to a wall meter would be an estimate, and is not made here.
"""

import re
from types import TracebackType

from edgekit.bench.meters.programs import Runner, run_program
from edgekit.bench.meters.sampled import SampledMeter, Sampler, Watts, in_thread
from edgekit.bench.protocol import Clock
from edgekit.bench.runtimes.base import Availability
from edgekit.errors import UnavailableError

COMMAND = ("vcgencmd", "pmic_read_adc")
# Each reading starts a process: four a second cost little, and make a window of 5 s valid.
PERIOD_S = 0.25
_LINE = re.compile(r"^\s*(\w+)_([AV])\s+(?:current|volt)\(\d+\)=(-?\d+(?:\.\d+)?)[AV]\s*$")


class Pmic(SampledMeter):
    """Power of a Raspberry Pi 5's rails; a domain is a rail, such as `VDD_CORE`.

    Args:
        run: runs `vcgencmd` and gives what it prints.
        clock: time.
        sampler: polls windows in the background; None: the caller does.
    """

    def __init__(
        self,
        run: Runner = run_program,
        clock: Clock | None = None,
        *,
        sampler: Sampler | None = in_thread,
    ) -> None:
        self._run = run
        super().__init__(
            "pmic", self._read, primary=(), period_s=PERIOD_S, clock=clock, sampler=sampler
        )

    def probe(self) -> Availability:
        """Say whether the chip is there and readable."""
        try:
            rails = self._read()
        except UnavailableError as e:
            return Availability(ok=False, reason=e.message, fix=e.hint)
        return Availability(ok=True, reason=f"{len(rails)} rails: {', '.join(rails)}.")

    def __enter__(self) -> "Pmic":
        """Find the rails."""
        self.primary = tuple(self._read())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to close."""

    def _read(self) -> Watts:
        try:
            text = self._run(COMMAND)
        except UnavailableError as e:
            raise UnavailableError(e.message, _hint(e.message)) from e
        rails = rails_of(text)
        if not rails:
            raise UnavailableError(
                f"vcgencmd names no rail with volts and amperes: {text.strip()[:100]!r}.",
                "The Raspberry Pi 5 has such a chip; use another meter elsewhere.",
            )
        return rails


def rails_of(text: str) -> dict[str, float]:
    """Watts by rail, for each rail with both a current and a voltage."""
    volts: dict[str, float] = {}
    amperes: dict[str, float] = {}
    for line in text.splitlines():
        if found := _LINE.match(line):
            (amperes if found[2] == "A" else volts)[found[1]] = float(found[3])
    return {rail: volts[rail] * current for rail, current in amperes.items() if rail in volts}


def _hint(message: str) -> str:
    if "no program" in message:
        return "It is a Raspberry Pi's own: sudo apt install raspi-utils. Elsewhere use another."
    if "VCHI" in message or "/dev/vcio" in message or "ermission" in message:
        return "Let your user ask the firmware: sudo usermod -aG video $USER, then log in again."
    return "The Raspberry Pi 5 has such a chip; use another meter elsewhere."
