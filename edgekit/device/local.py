"""This machine as a device: the agent as a child process, with no network between."""

import sys

from edgekit.device.registry import Device
from edgekit.device.transport import (
    NO_PYTHON_SCRIPT,
    Channel,
    find_python,
    never_answered,
    pythons_found,
)
from edgekit.errors import EdgekitError, UnavailableError


class Local:
    """The agent in another process of this machine, in this Python unless told otherwise."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def start(self) -> Channel:
        """Start the bootstrap."""
        from edgekit.device.bootstrap import bootstrap

        if self._device.python is None:
            return Channel([sys.executable, "-c", bootstrap()])
        script = find_python(self._device.python) + NO_PYTHON_SCRIPT
        return Channel(["sh", "-c", script, "edgekit", bootstrap()])

    def explain(self, returncode: int, stderr: str) -> EdgekitError:
        """Say why the agent never answered."""
        found = pythons_found(stderr)
        if found is not None:
            return python_too_old(self._device, found)
        return never_answered(
            self._device, returncode, stderr, "Try that Python by hand, or name another (--python)."
        )


def python_too_old(device: Device, found: str) -> UnavailableError:
    """The error of a device without a Python that is new enough."""
    if device.python is not None:
        return UnavailableError(
            f"{device.python} on {device.name} is no Python from 3.10 on (found: {found}).",
            f"Name another: edgekit device add {device.name} {device.url} --python PATH --replace",
        )
    return UnavailableError(
        f"{device.name} has no Python from 3.10 on (found: {found}).",
        "Install one on the device (`sudo apt install python3`, or uv or conda where the system's"
        " is older), and name it with `--python PATH` if it is not on the PATH.",
    )
