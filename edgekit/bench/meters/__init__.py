"""Energy meters. A new one is one file here and one line in `METERS`."""

import difflib
from importlib import import_module
from typing import cast

from edgekit.bench.meters.base import EnergyReading, Load, Meter, Window
from edgekit.bench.runtimes.base import Availability
from edgekit.errors import UsageError

__all__ = [
    "METERS",
    "Availability",
    "EnergyReading",
    "Load",
    "Meter",
    "Window",
    "make_meter",
    "probe_meters",
]

METERS = {
    "nvml": "edgekit.bench.meters.nvml:Nvml",
    "rapl": "edgekit.bench.meters.rapl:Rapl",
    "ina3221": "edgekit.bench.meters.ina3221:Ina3221",
}
PLANNED = {"pmic": "The Raspberry Pi 5's PMIC is not supported yet."}


def make_meter(name: str) -> Meter:
    """Make a meter by name; it is opened when it is entered.

    Raises:
        UsageError: no such meter; the hint names the nearest one.
    """
    if name not in METERS:
        near = difflib.get_close_matches(name, METERS, n=1, cutoff=0.4)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"There is no meter {name!r}.", f"{guess}Meters: {', '.join(METERS)}.")
    module, attribute = METERS[name].split(":")
    return cast("Meter", getattr(import_module(module), attribute)())


def probe_meters() -> dict[str, Availability]:
    """What each meter says about this machine."""
    return {name: make_meter(name).probe() for name in METERS}
