"""What OpenSSH says, and what edgekit makes of it: messages recorded from OpenSSH 8 to 10."""

import pytest

from edgekit.device import Device
from edgekit.device.ssh import Ssh
from edgekit.errors import DeviceError, UnavailableError

DEVICE = Device("pi5", "ssh://pi@raspberrypi.local:2222")


@pytest.mark.parametrize(
    ("code", "stderr", "error", "message", "hint"),
    [
        (
            255,
            "ssh: connect to host raspberrypi.local port 2222: Connection timed out\r\n",
            DeviceError,
            "did not answer in time",
            "firewall",
        ),
        (
            255,
            "Connection timed out during banner exchange\r\n"
            "Connection to 10.0.0.9 port 2222 timed out\r\n",
            DeviceError,
            "did not answer in time",
            "firewall",
        ),
        (
            255,
            "ssh: connect to host raspberrypi.local port 2222: No route to host\r\n",
            DeviceError,
            "cannot be reached",
            "network",
        ),
        (
            255,
            "ssh: Could not resolve hostname raspberrypi.local: Name or service not known\r\n",
            DeviceError,
            "there is no host 'raspberrypi.local'",
            "IP address",
        ),
        (
            255,
            "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\n@ WARNING: UNPROTECTED PRIVATE KEY FILE! @\n"
            "Permissions 0644 for '/home/me/.ssh/id_ed25519' are too open.\n"
            'Load key "/home/me/.ssh/id_ed25519": bad permissions\n'
            "pi@raspberrypi.local: Permission denied (publickey).\r\n",
            DeviceError,
            "refuses the key /home/me/.ssh/id_ed25519",
            "chmod 600 /home/me/.ssh/id_ed25519",
        ),
        (
            255,
            "kex_exchange_identification: Connection closed by remote host\r\n"
            "Connection closed by 10.0.0.9 port 2222\r\n",
            DeviceError,
            r"cannot be reached: Connection closed by 10\.0\.0\.9",
            "by hand: ssh -p 2222 -l pi raspberrypi.local",
        ),
        (
            255,
            "/home/me/.ssh/config: line 3: Bad configuration option: hots\n"
            "/home/me/.ssh/config: terminating, 1 bad configuration options\n",
            DeviceError,
            "terminating, 1 bad configuration options",
            "by hand",
        ),
        (255, "", DeviceError, "ssh gave no reason", "by hand"),
        (
            1,
            "'sh' is not recognized as an internal or external command,\r\n",
            UnavailableError,
            "no POSIX shell",
            "`sh`",
        ),
        (127, "bash: sh: command not found\n", UnavailableError, "no POSIX shell", "`sh`"),
        (
            93,
            "Welcome!\nedgekit-no-python: python3 is Python 3.8.10;\n",
            UnavailableError,
            r"no Python from 3\.10 on \(found: python3 is Python 3\.8\.10\)",
            "--python PATH",
        ),
        (93, "edgekit-no-python:\n", UnavailableError, "found: no Python at all", "apt install"),
        (
            1,
            "This account is currently not available.\n",
            DeviceError,
            "not available",
            "by hand: ssh -p",
        ),
    ],
)
def test_a_failure_has_its_message_and_its_mend(code, stderr, error, message, hint):
    found = Ssh(DEVICE).explain(code, stderr)
    assert type(found) is error
    with pytest.raises(error, match=message):
        raise found
    assert found.message.startswith("pi5")
    assert hint in found.hint
