"""SSH by the system's own client: the user's configuration, keys and host-key checks hold.

One `ssh` process carries everything. Nothing is asked (`BatchMode`): where a person would be, the
error says what to type.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

from edgekit.device.local import python_too_old
from edgekit.device.registry import Device
from edgekit.device.transport import (
    NO_PYTHON_SCRIPT,
    Channel,
    find_python,
    last_words,
    never_answered,
    pythons_found,
    remote_command,
)
from edgekit.errors import DeviceError, EdgekitError, UnavailableError, UsageError

PROGRAM = "EDGEKIT_SSH"
"""Environment variable: another ssh program, with arguments, such as `ssh -o ConnectTimeout=60`."""

_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    # What a user's configuration may hold for interactive work, and what would stand in the way.
    "ClearAllForwardings=yes",
    "ControlMaster=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
)
_UNREACHABLE = (
    ("Connection refused", "refused the connection", "Start its SSH server, or check the port."),
    (
        "Connection timed out|Operation timed out|timed out during banner exchange|"
        "Timeout, server .* not responding",
        "did not answer in time",
        "Check that it is switched on and in this network, and that no firewall is between.",
    ),
    (
        "No route to host|Network is unreachable|Host is down",
        "cannot be reached",
        "Check that it is switched on and in this network.",
    ),
)


class Ssh:
    """A device over SSH.

    Args:
        device: its URL is `ssh://[user@]host[:port]`.
    """

    def __init__(self, device: Device) -> None:
        self._device, self._address = device, device.address

    def start(self) -> Channel:
        """Start ssh, and in it the bootstrap.

        Raises:
            UnavailableError: there is no ssh program.
            UsageError: the device's SSH configuration file is missing.
        """
        script = find_python(self._device.python) + NO_PYTHON_SCRIPT
        config = self._device.ssh_config
        if config is not None and not Path(config).expanduser().is_file():
            raise UsageError(
                f"The SSH configuration {config} of {self._device.name} does not exist.",
                f"Add the device again, with `--replace`: edgekit device add {self._device.name}",
            )
        # ssh speaks English in the C locale, and `explain` reads it.
        env = {**os.environ, "LC_ALL": "C"}
        command = [*self._program(), *self._options(), "--", self._address.host]
        try:
            return Channel([*command, remote_command(script)], env)
        except OSError as e:
            raise UnavailableError(
                f"There is no program {command[0]!r} here: {e.strerror}.",
                "Install the OpenSSH client (`sudo apt install openssh-client`)"
                f" or set {PROGRAM} to one.",
            ) from e

    def explain(self, returncode: int, stderr: str) -> EdgekitError:
        """Say why ssh ended before the device answered."""
        if (found := pythons_found(stderr)) is not None:
            return python_too_old(self._device, found)
        if re.search(r"^Host key verification failed", stderr, re.MULTILINE):
            return self._host_key(stderr)
        if match := re.search(r"Permission denied \(([^)]*)\)", stderr):
            return self._denied(match[1], stderr)
        if "Could not resolve hostname" in stderr:
            return DeviceError(
                f"{self._what()}: there is no host {self._address.host!r}.",
                "Check the name, or use the device's IP address.",
            )
        for pattern, what, hint in _UNREACHABLE:
            if re.search(pattern, stderr):
                return DeviceError(f"{self._what()} {what}.", hint)
        if returncode == 127 or "is not recognized as an internal or external command" in stderr:
            return UnavailableError(
                f"{self._what()} has no POSIX shell: {last_words(stderr)}",
                "edgekit needs `sh` on the device: Linux, Android (Termux), macOS or BSD.",
            )
        if returncode == 255:
            words = last_words(stderr) or "ssh gave no reason"
            hint = f"Try it by hand: {self.by_hand()}"
            return DeviceError(f"{self._what()} cannot be reached: {words}", hint)
        return never_answered(self._device, returncode, stderr, f"Try it by hand: {self.by_hand()}")

    def by_hand(self, *options: str) -> str:
        """What the user types to log in with the same configuration."""
        return shlex.join([*self._program(), *options, *self._place(), self._address.host])

    def _what(self) -> str:
        return f"{self._device.name} ({self._device.url})"

    def _program(self) -> list[str]:
        program = shlex.split(os.environ.get(PROGRAM, "")) or ["ssh"]
        config = self._device.ssh_config
        return [*program, "-F", str(Path(config).expanduser())] if config else program

    def _place(self) -> list[str]:
        port = [] if self._address.port is None else ["-p", str(self._address.port)]
        return [*port, "-l", self._address.user] if self._address.user else port

    def _options(self) -> list[str]:
        options = [word for option in _OPTIONS for word in ("-o", option)]
        return ["-T", *options, *self._place()]

    def _host_key(self, stderr: str) -> DeviceError:
        settings = self.settings()
        files = settings.get("userknownhostsfile", ["~/.ssh/known_hosts"])[0].split()
        name = settings.get("hostname", [self._address.host])[0]
        name = settings.get("hostkeyalias", [name])[0]
        port = settings.get("port", ["22"])[0]
        entry = name if port == "22" else f"[{name}]:{port}"
        if "REMOTE HOST IDENTIFICATION HAS CHANGED" in stderr:
            match = re.search(r"^Offending .* in (.+):\d+\s*$", stderr, re.MULTILINE)
            file = match[1] if match else files[0]
            return DeviceError(
                f"{self._what()} shows another host key than before: it was installed anew, or"
                " something else answers in its place.",
                "If you know why, forget the old key and look at the new one:"
                f" {shlex.join(['ssh-keygen', '-f', file, '-R', entry])}"
                f" && {self.by_hand()}",
            )
        scan = shlex.join(["ssh-keyscan", "-p", port, name])
        return DeviceError(
            f"The host key of {self._what()} is not known here.",
            f"Log in once and compare its fingerprint: {self.by_hand()}"
            f" (or, in a network that you trust: {scan} >> {files[0]})",
        )

    def _denied(self, methods: str, stderr: str) -> DeviceError:
        settings = self.settings()
        paths = [Path(path).expanduser() for path in settings.get("identityfile", [])]
        keys = [str(path) for path in paths if path.is_file()]
        agent = settings.get("identityagent", [os.environ.get("SSH_AUTH_SOCK", "none")])[0]
        offered = [*keys, *(["those of ssh-agent"] if agent not in {"none", ""} else [])]
        user = settings.get("user", [self._address.user])[0]
        said = f"Keys tried: {', '.join(offered)}." if offered else "There is no key to try here."
        if match := re.search(r"Permissions \d+ for '(.+)' are too open", stderr):
            return DeviceError(
                f"{self._what()}: ssh refuses the key {match[1]}, which others may read.",
                shlex.join(["chmod", "600", match[1]]),
            )
        copy = ["ssh-copy-id", *(["-i", keys[0]] if keys else [])]
        copy += ["-F", str(self._device.ssh_config)] if self._device.ssh_config else []
        copy += ["-p", settings.get("port", ["22"])[0], f"{user}@{self._address.host}"]
        first = "" if keys else "ssh-keygen -t ed25519 && "
        return DeviceError(
            f"{self._what()} lets {user!r} in by none of {methods}. {said}",
            f"Put your key on the device: {first}{shlex.join(copy)}"
            " (a key with a passphrase must be in ssh-agent: `ssh-add`).",
        )

    def settings(self) -> dict[str, list[str]]:
        """What ssh would use for this device, by `ssh -G`: lower-case keyword to its values."""
        command = [*self._program(), *self._options(), "-G", "--", self._address.host]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=10, check=False, errors="replace"
            )
        except (OSError, subprocess.TimeoutExpired):
            return {}
        found: dict[str, list[str]] = {}
        for line in done.stdout.splitlines():
            key, _, value = line.partition(" ")
            found.setdefault(key, []).append(value)
        return found
