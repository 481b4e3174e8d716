"""The user's devices, by the names they gave them: one JSON file that people may read and edit."""

import dataclasses
import difflib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from edgekit.errors import UsageError

FILE = "devices.json"
SCHEMA_VERSION = 1
HERE = "local"
"""What results of this machine itself are called; no device may have that name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*\$?")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9_.-]+)?)\]")
_SERIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
_FORMS = "Write ssh://user@host, ssh://user@host:port, adb://SERIAL or local://."


@dataclass(frozen=True)
class Address:
    """Where a device is.

    Attributes:
        scheme: `ssh`, `adb` or `local`.
        host: a host name, an alias of the SSH configuration, an IP address without brackets, or
            the serial of an Android device; empty for `local`, and for the only Android device.
        user: empty for the one that SSH's own configuration says.
        port: None for the one that SSH's own configuration says.
    """

    scheme: str
    host: str = ""
    user: str = ""
    port: int | None = None


@dataclass(frozen=True)
class Device:
    """A device that the user has added.

    Attributes:
        name: what the user calls it.
        url: `ssh://[user@]host[:port]`, `adb://[serial]` or `local://`.
        python: the Python to use there: a name, or a path that may begin with `~/`; None: the
            first that is new enough.
        target: the target profile it belongs to, a name from `edgekit targets`.
        meters: energy meters to try there, best first.
        emulated: it runs under an emulator that it cannot see: every figure is labelled so.
        ssh_config: an SSH configuration file to use in place of the user's own.
    """

    name: str
    url: str
    python: str | None = None
    target: str | None = None
    meters: tuple[str, ...] = ()
    emulated: bool = False
    ssh_config: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} cannot be the name of a device.",
                "Use up to 63 letters, digits, dots, dashes and underscores; begin with a letter"
                " or a digit.",
            )
        if self.name == HERE:
            raise UsageError(f"{HERE!r} is this machine itself.", "Give the device another name.")
        scheme = parse_url(self.url).scheme
        if self.python is not None:
            _check_python(self.python)
        if self.ssh_config is not None and scheme != "ssh":
            raise UsageError(
                f"{self.url} is not reached over SSH.", "Leave the SSH configuration out."
            )

    @property
    def address(self) -> Address:
        """The parts of the URL."""
        return parse_url(self.url)


def parse_url(url: str) -> Address:
    """Read a device's URL.

    Raises:
        UsageError: it is none that edgekit knows; passwords in it are refused.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise UsageError(f"{url!r} is not the URL of a device.", _FORMS)
    if scheme == "ssh":
        return _ssh_address(url, rest)
    if scheme == "adb":
        if rest and not _SERIAL.fullmatch(rest):
            raise UsageError(
                f"{url!r} does not hold the serial of an Android device.",
                "Take it from `adb devices`.",
            )
        return Address("adb", rest)
    if scheme == "local":
        if rest:
            raise UsageError(f"{url!r} has something after local://.", "Write local://.")
        return Address("local")
    raise UsageError(f"{url!r} begins with {scheme}://, which edgekit does not know.", _FORMS)


def _ssh_address(url: str, rest: str) -> Address:
    user, at, place = rest.rpartition("@")
    if ":" in user:
        shown = f"ssh://{user.partition(':')[0]}@{place}"
        raise UsageError(
            "The URL holds a password. It would lie readable in a file, and SSH takes none from"
            " the command line.",
            f"Put your key on the device (`ssh-copy-id`) and write {shown}.",
        )
    user = unquote(user)
    if at and not _USER.fullmatch(user):
        raise UsageError(f"{url!r} has no valid user before the @.", _FORMS)
    place = place.removesuffix("/")
    if match := _IPV6.match(place):
        host, tail = match[1], place[match.end() :]
        host = host.replace("%25", "%")  # how a URL writes the % of an interface
    else:
        host, colon, number = place.partition(":")
        tail = colon + number
        if ":" in number:
            raise UsageError(
                f"{url!r} has more than one colon in its host.",
                "Write an IPv6 address in brackets: ssh://user@[fe80::1]:22.",
            )
        if not _HOST.fullmatch(host):
            raise UsageError(f"{url!r} has no valid host.", _FORMS)
    if not tail:
        return Address("ssh", host, user)
    port = int(tail[1:]) if re.fullmatch(r":[0-9]{1,5}", tail) else 0
    if not 0 < port < 1 << 16:
        raise UsageError(f"{url!r} has no valid port.", "Write a port from 1 to 65535, or none.")
    return Address("ssh", host, user, port)


def _check_python(python: str) -> None:
    # The path passes through the device's login shell, whichever that is.
    if not re.fullmatch(r"(?:~/)?[A-Za-z0-9_./+@:=, -]+", python) or python.startswith("-"):
        raise UsageError(
            f"{python!r} cannot be the Python of a device.",
            "Give a name or a path of letters, digits, spaces and . _ / + @ : = , -;"
            " it may begin with ~/.",
        )


def config_folder() -> Path:
    """The folder of the user's edgekit configuration: `EDGEKIT_CONFIG`, or XDG's place."""
    if own := os.environ.get("EDGEKIT_CONFIG"):
        return Path(own)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "edgekit"


def devices() -> dict[str, Device]:
    """Every device, by name, in the order of adding.

    Raises:
        UsageError: the file is broken; it is left as it is.
    """
    path = config_folder() / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}.", "Check its permissions.") from e
    except ValueError as e:
        raise _broken(path, f"it is not JSON: {e}") from e
    if not isinstance(data, dict) or not isinstance(data.get("devices"), dict):
        raise _broken(path, "it has no `devices`")
    if data.get("schema_version") != SCHEMA_VERSION:
        raise _broken(path, f"its schema_version is not {SCHEMA_VERSION}")
    return {name: _device(path, name, fields) for name, fields in data["devices"].items()}


def _device(path: Path, name: str, fields: Any) -> Device:
    known = {field.name for field in dataclasses.fields(Device)} - {"name"}
    if not isinstance(fields, Mapping) or not isinstance(fields.get("url"), str):
        raise _broken(path, f"device {name!r} has no url")
    if unknown := sorted(set(fields) - known):
        raise _broken(path, f"device {name!r} has an unknown key {unknown[0]!r}")
    meters = fields.get("meters", [])
    texts = {key: fields.get(key) for key in ("python", "target", "ssh_config")}
    if not isinstance(meters, list) or any(
        value is not None and not isinstance(value, str) for value in (*meters, *texts.values())
    ):
        raise _broken(path, f"device {name!r} has a value of a wrong type")
    try:
        return Device(
            name,
            fields["url"],
            meters=tuple(meters),
            emulated=bool(fields.get("emulated", False)),
            **texts,
        )
    except UsageError as e:
        raise _broken(path, e.message.rstrip(".")) from e


def _broken(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} is broken ({why}).",
        "Mend it by hand, or move it away and add the devices again.",
    )


def get(name: str) -> Device:
    """The device of that name.

    Raises:
        UsageError: there is none; the hint names the nearest.
    """
    known = devices()
    if name in known:
        return known[name]
    raise _unknown(name, known)


def _unknown(name: str, known: Mapping[str, Device]) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        hint = f"Do you mean {near[0]!r}? `edgekit device list` shows all."
    elif known:
        hint = f"Devices: {', '.join(known)}."
    else:
        hint = f"Add it: edgekit device add {name} ssh://user@host"
    return UsageError(f"There is no device {name!r}.", hint)


def add(device: Device, *, replace: bool = False) -> None:
    """Store a device.

    Args:
        device: what to store. Storing the same again changes nothing.
        replace: put it in the place of another of that name.

    Raises:
        UsageError: another device has that name, or the file is broken or cannot be written.
    """
    with _locked() as path:
        check(device, replace=replace)
        _write(path, {**devices(), device.name: device})


def check(device: Device, *, replace: bool = False) -> None:
    """Hold a device against those that are stored, before anything is asked of it.

    Raises:
        UsageError: another device has that name, or the file is broken.
    """
    there = devices().get(device.name)
    if there is not None and there != device and not replace:
        raise UsageError(
            f"There is a device {device.name!r} already, at {there.url}.",
            "Give another name, or say --replace.",
        )


def remove(name: str) -> Device:
    """Forget a device, and return what it was. Nothing on the device itself changes.

    Raises:
        UsageError: there is none of that name.
    """
    with _locked() as path:
        known = devices()
        if name not in known:
            raise _unknown(name, known)
        gone = known.pop(name)
        _write(path, known)
    return gone


@contextmanager
def _locked() -> Iterator[Path]:
    """Keep other writers out, and yield the file's path."""
    folder = config_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / f".{FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as e:
        raise UsageError(
            f"{folder} cannot be written: {e.strerror}.",
            "Check its permissions, or set EDGEKIT_CONFIG to a folder of your own.",
        ) from e
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder / FILE
    finally:
        os.close(handle)


def _write(path: Path, known: Mapping[str, Device]) -> None:
    from edgekit.manifest import write_text_atomically

    plain = {}
    for name, device in known.items():
        fields = dataclasses.asdict(device)
        del fields["name"]
        plain[name] = {
            key: value for key, value in fields.items() if value not in (None, (), False)
        }
    data = {"schema_version": SCHEMA_VERSION, "devices": plain}
    try:
        write_text_atomically(path, json.dumps(data, indent=2) + "\n")
    except OSError as e:
        raise UsageError(
            f"{path} cannot be written: {e.strerror}.", "Check the disk and its permissions."
        ) from e
