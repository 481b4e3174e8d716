"""ADB, with a FAKE `adb` on the PATH: no Android device is at hand.

The fake takes the arguments of the real one, prints the real one's complaints, and runs the remote
command in this machine's `sh`. What it cannot show: Android's own shell, SELinux, and Termux.
"""

import os
import subprocess
import sys

import pytest

from edgekit.device import Device, bench, probe
from edgekit.device.adb import Adb
from edgekit.errors import DeviceError, UnavailableError
from tests.device.conftest import SHORT

FAKE = """\
#!/bin/sh
echo "$@" > "$FAKE_ADB_LOG"
if [ -n "$FAKE_ADB_ERROR" ]; then echo "$FAKE_ADB_ERROR" >&2; exit 1; fi
[ "$1" = -s ] && { serial=$2; shift 2; }
[ "$1 $2" = "shell -T" ] || { echo "fake adb: unexpected $*" >&2; exit 9; }
shift 2
export HOME=/ PATH="$FAKE_ADB_PATH"
exec /bin/sh -c "$*"
"""


@pytest.fixture
def adb(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    fake = folder / "adb"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_ADB_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FAKE_ADB_PATH", "/usr/bin:/bin")
    return tmp_path


PHONE = Device("phone", "adb://R58M", python=sys.executable)


def test_a_network_is_measured_over_adb(adb, subject):
    result, _ = bench(PHONE, [subject], SHORT)
    assert result.where == "phone"
    assert result.subject("net").n > 0
    assert (adb / "log").read_text().startswith("-s R58M shell -T sh -c '")


def test_the_only_device_needs_no_serial(adb):
    assert probe(Device("phone", "adb://", python=sys.executable)).python
    assert (adb / "log").read_text().startswith("shell -T ")


@pytest.mark.parametrize(
    ("complaint", "message", "hint"),
    [
        ("error: device unauthorized.", "has not been allowed", "USB debugging"),
        ("error: device offline", "is offline", "adb reconnect"),
        ("adb: device 'R58M' not found", "is not there", "adb devices"),
        ("error: no devices/emulators found", "is not there", "adb devices"),
        ("error: more than one device/emulator", "several Android devices", "adb://SERIAL"),
        ("error: device still authorizing", "still connecting", "try again"),
        ("adb: no permissions (missing udev rules?)", "may not use", "udev"),
        ("error: target doesn't support PTY args -Tt", "older than Android 7", "SSH"),
        ("adb: something new", "something new", "adb devices"),
    ],
)
def test_what_adb_complains_about(adb, monkeypatch, complaint, message, hint):
    monkeypatch.setenv("FAKE_ADB_ERROR", complaint)
    with pytest.raises(DeviceError, match=message) as e:
        probe(PHONE)
    assert hint in e.value.hint


def test_android_without_python(adb, monkeypatch):
    bare = adb / "bare"  # what Android has: a shell and a few tools, no Python
    bare.mkdir()
    for tool in ("sh", "head", "env"):
        (bare / tool).symlink_to(f"/usr/bin/{tool}")
    monkeypatch.setenv("FAKE_ADB_PATH", str(bare))
    monkeypatch.setattr("edgekit.device.transport._MORE_PLACES", "")
    with pytest.raises(UnavailableError, match="no Python that ADB may start") as e:
        probe(Device("phone", "adb://R58M"))
    assert "Termux" in e.value.hint


def test_termux_is_entered_by_run_as(adb, monkeypatch):
    bare = adb / "bare"
    bare.mkdir()
    for tool in ("sh", "head"):
        (bare / tool).symlink_to(f"/usr/bin/{tool}")
    run_as = bare / "run-as"  # a fake as well: it shows how Termux is entered
    run_as.write_text(
        '#!/bin/sh\n[ "$1" = com.termux ] || exit 1\n[ "$2" = true ] && exit 0\n'
        f'for last; do :; done\nexec {sys.executable} -c "$last"\n'
    )
    run_as.chmod(0o755)
    monkeypatch.setenv("FAKE_ADB_PATH", str(bare))
    monkeypatch.setattr("edgekit.device.transport._MORE_PLACES", "")
    monkeypatch.setenv("HOME", str(adb))
    assert probe(Device("phone", "adb://R58M")).python


def test_no_adb_program(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="no program 'adb'"):
        probe(PHONE)


def test_the_script_is_valid_in_a_plain_shell():
    for device in (PHONE, Device("phone", "adb://")):
        script = Adb(device)._script()
        subprocess.run(["sh", "-n", "-c", script], check=True)
