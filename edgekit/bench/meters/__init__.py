"""Energy meters. A new one is one file here and one line in `METERS`."""

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, cast

from edgekit.bench.meters.base import EnergyReading, Load, Meter, Window
from edgekit.bench.runtimes.base import Availability
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ARGUMENTS",
    "AUTO",
    "ESTIMATE",
    "METERS",
    "Availability",
    "EnergyReading",
    "Load",
    "Meter",
    "Window",
    "check_meter",
    "make_meter",
    "probe_meter",
    "probe_meters",
]

# In the order in which `auto` tries them: what sees the whole board before what sees a part of it.
METERS = {
    "ina3221": "edgekit.bench.meters.ina3221:Ina3221",
    "pmic": "edgekit.bench.meters.pmic:Pmic",
    "odpm": "edgekit.bench.meters.odpm:Odpm",
    "rapl": "edgekit.bench.meters.rapl:Rapl",
    "nvml": "edgekit.bench.meters.nvml:Nvml",
    "power-supply": "edgekit.bench.meters.power_supply:PowerSupply",
    "csv": "edgekit.bench.meters.external:External",
    "command": "edgekit.bench.meters.command:Command",
}
# Those that need an argument after a colon, and what it is.
ARGUMENTS = {"csv": "FILE", "command": "PROGRAM ARGUMENTS"}
AUTO = "auto"
ESTIMATE = "estimate"


def make_meter(text: str) -> Meter:
    """Make a meter by name; it is opened when it is entered.

    Args:
        text: a name, with its argument after a colon: `rapl`, `csv:power.csv`.

    Raises:
        UsageError: there is no such meter, or its argument is missing or wrong.
    """
    name, colon, argument = text.partition(":")
    if name not in METERS:
        raise UsageError(f"There is no meter {name!r}.", _nearest(name))
    module, attribute = METERS[name].split(":")
    found = getattr(import_module(module), attribute)
    if name in ARGUMENTS:
        return cast("Callable[[str], Meter]", found.from_argument)(argument)
    if colon:
        raise UsageError(f"The meter {name!r} takes no argument.", f"Write --meter {name}.")
    return cast("Callable[[], Meter]", found)()


def check_meter(text: str) -> None:
    """Refuse a meter that does not exist, before an hour is measured without it.

    Args:
        text: as of `make_meter`; `auto` and `estimate` are names, too.

    Raises:
        UsageError: as of `make_meter`.
    """
    if text not in (AUTO, ESTIMATE):
        make_meter(text)


def probe_meters() -> dict[str, Availability]:
    """What each meter says about this machine."""
    return {name: probe_meter(name) for name in METERS}


def probe_meter(name: str) -> Availability:
    """What a meter says about this machine; one that needs an argument says which."""
    if name in ARGUMENTS:
        return Availability(
            ok=False,
            reason="It reads what you name.",
            fix=f"--meter '{name}:{ARGUMENTS[name]}'",
        )
    return make_meter(name).probe()


def _nearest(name: str) -> str:
    known = (*METERS, AUTO, ESTIMATE)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    return f"{guess}Meters: {', '.join(known)}."
