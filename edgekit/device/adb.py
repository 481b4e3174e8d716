"""Android over ADB: `adb shell -T`, which carries both directions as they are (Android 7 and on).

Android has no Python of its own. Two things can stand in: a Python that somebody has put on the
device (`device.python`, or /data/local/tmp/python), and Termux's, which ADB may only enter where
the installed Termux is a debug build, as those of its GitHub releases are. Any other Termux is
reached over SSH: its own `sshd`, and `adb forward`.
"""

import re
import shutil

from edgekit.device.local import python_too_old
from edgekit.device.registry import Device
from edgekit.device.transport import (
    NO_PYTHON_SCRIPT,
    Channel,
    find_python,
    never_answered,
    pythons_found,
    remote_command,
)
from edgekit.errors import DeviceError, EdgekitError, UnavailableError

_TERMUX = "/data/data/com.termux/files"
_PUT = "/data/local/tmp"
# The shell user has no home that it may write to.
_PLACE = f'case "$HOME" in ""|/) export HOME={_PUT};; esac; '
_ENTER_TERMUX = (
    "if run-as com.termux true >/dev/null 2>&1; then "
    f"exec run-as com.termux {_TERMUX}/usr/bin/env HOME={_TERMUX}/home PREFIX={_TERMUX}/usr"
    f" TMPDIR={_TERMUX}/usr/tmp PATH={_TERMUX}/usr/bin XDG_CACHE_HOME="
    f' {_TERMUX}/usr/bin/python3 -c "$1"; fi; '
)
_FAILURES = (
    (
        "more than one device",
        "There are several Android devices, and the URL names none.",
        "Take a serial from `adb devices`, and add the device as adb://SERIAL.",
    ),
    (
        "unauthorized",
        "{what} has not been allowed to be used from this machine.",
        "Unlock it and accept the question about USB debugging, or, where none appears: adb"
        " kill-server, and plug it in again.",
    ),
    (
        "offline",
        "{what} is offline.",
        "Plug it in again, or `adb reconnect`.",
    ),
    (
        "no devices/emulators found|device .*not found",
        "{what} is not there.",
        "Plug it in and switch on USB debugging (or `adb connect HOST:5555`), then look at"
        " `adb devices`.",
    ),
    (
        "no permissions",
        "This user may not use {what} over USB.",
        "Add a udev rule for it (on Debian and Ubuntu: sudo apt install"
        " android-sdk-platform-tools-common), and plug it in again.",
    ),
    (
        "authorizing|connecting",
        "{what} is still connecting.",
        "Wait a moment, and try again.",
    ),
    (
        "doesn't support PTY args",
        "{what} is older than Android 7.",
        "Reach its Termux over SSH in place of ADB: docs/devices.md says how.",
    ),
)


class Adb:
    """An Android device over ADB.

    Args:
        device: its URL is `adb://SERIAL`, or `adb://` where there is only one.
    """

    def __init__(self, device: Device) -> None:
        self._device, self._serial = device, device.address.host

    def start(self) -> Channel:
        """Start adb, and in it the bootstrap.

        Raises:
            UnavailableError: there is no adb program.
        """
        adb = shutil.which("adb")
        if adb is None:
            raise UnavailableError(
                "There is no program 'adb' here.",
                "Install it (`sudo apt install adb`, or Android's platform-tools), and put it on"
                " the PATH.",
            )
        serial = ["-s", self._serial] if self._serial else []
        return Channel([adb, *serial, "shell", "-T", remote_command(self._script())])

    def _script(self) -> str:
        python = self._device.python
        if python is not None:
            return find_python(python, first=_PLACE) + NO_PYTHON_SCRIPT
        first = f'{_PLACE}PATH="$PATH:{_PUT}/python/bin"; '
        return find_python(None, first=first) + _ENTER_TERMUX + NO_PYTHON_SCRIPT

    def explain(self, returncode: int, stderr: str) -> EdgekitError:
        """Say why adb ended before the device answered."""
        what = f"{self._device.name} ({self._device.url})"
        found = pythons_found(stderr)
        if found is not None and self._device.python is None and found == "no Python at all":
            return UnavailableError(
                f"{what} has no Python that ADB may start: Android has none of its own, and there"
                " is no native runner for it yet.",
                "Install Termux with python and python-onnxruntime and reach it over SSH"
                " (docs/devices.md), or put a Python on the device and name it with --python.",
            )
        if found is not None:
            return python_too_old(self._device, found)
        for pattern, message, hint in _FAILURES:
            if re.search(pattern, stderr):
                return DeviceError(message.format(what=what), hint)
        return never_answered(self._device, returncode, stderr, "Look at `adb devices -l`.")
