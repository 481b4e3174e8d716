"""The file of devices: what goes in comes back, and nothing broken is ever written over."""

import json
import multiprocessing
from pathlib import Path

import pytest

from edgekit.device import Device, add, check, devices, get, registry, remove
from edgekit.device.registry import Address, parse_url
from edgekit.errors import UsageError

PI = Device(
    "pi5",
    "ssh://pi@raspberrypi.local:2222",
    python="~/my venv/bin/python",
    target="raspberry-pi-5",
    meters=("ina3221", "rapl"),
    emulated=True,
    ssh_config="/home/me/config",
)


def file():
    return registry.config_folder() / registry.FILE


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ssh://pi@host", Address("ssh", "host", "pi")),
        ("ssh://host", Address("ssh", "host")),
        ("ssh://host/", Address("ssh", "host")),
        ("ssh://my_alias.lan:22", Address("ssh", "my_alias.lan", "", 22)),
        ("ssh://pi@192.168.1.7:65535", Address("ssh", "192.168.1.7", "pi", 65535)),
        ("ssh://pi@[fe80::1]:22", Address("ssh", "fe80::1", "pi", 22)),
        ("ssh://[2001:db8::2]", Address("ssh", "2001:db8::2")),
        ("ssh://[fe80::1%25eth0]", Address("ssh", "fe80::1%eth0")),
        ("ssh://a.b%40corp@host", Address("ssh", "host", "a.b@corp")),
        ("adb://R58M123ABC", Address("adb", "R58M123ABC")),
        ("adb://192.168.1.5:5555", Address("adb", "192.168.1.5:5555")),
        ("adb://", Address("adb")),
        ("local://", Address("local")),
    ],
)
def test_urls(url, address):
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "pi@host",
        "http://host",
        "ssh://",
        "ssh://@host",
        "ssh://pi@",
        "ssh://-oProxyCommand=x",
        "ssh://-l@host",
        "ssh://host:0",
        "ssh://host:65536",
        "ssh://host:ssh",
        "ssh://host:",
        "ssh://fe80::1",
        "ssh://[host]",
        "ssh://[fe80::1]x",
        "ssh://host/path",
        "ssh://host name",
        "ssh://host;reboot",
        "ssh://host\n",
        "adb://-s",
        "adb://a b",
        "local://x",
    ],
)
def test_urls_that_are_none(url):
    with pytest.raises(UsageError) as e:
        parse_url(url)
    assert "://" in e.value.hint or e.value.hint


def test_a_password_is_refused_and_not_repeated():
    with pytest.raises(UsageError, match="holds a password") as e:
        parse_url("ssh://pi:raspberry@host:22")
    assert "raspberry" not in str(e.value)
    assert "ssh://pi@host:22" in e.value.hint


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", ".hidden", "x" * 64, "ä", "local", "a\n"])
def test_names_that_are_refused(name):
    with pytest.raises(UsageError):
        Device(name, "local://")


@pytest.mark.parametrize(
    "python", ["", "-c", "a'b", 'a"b', "$(x)", "a;b", "a\nb", "~pi/python", "a!"]
)
def test_pythons_that_are_refused(python):
    with pytest.raises(UsageError, match="cannot be the Python"):
        Device("x", "local://", python=python)


def test_what_is_added_comes_back():
    assert devices() == {}
    add(PI)
    add(Device("phone", "adb://R58"))
    assert devices() == {"pi5": PI, "phone": Device("phone", "adb://R58")}
    assert get("pi5") == PI
    assert file().stat().st_mode & 0o777 == 0o644
    assert remove("pi5") == PI
    assert list(devices()) == ["phone"]


def test_the_same_again_changes_nothing_and_another_must_say_replace():
    add(PI)
    add(PI)
    other = Device("pi5", "ssh://elsewhere")
    with pytest.raises(UsageError, match="'pi5' already, at ssh://pi@raspberrypi"):
        add(other)
    with pytest.raises(UsageError, match="already"):
        check(other)
    assert get("pi5") == PI
    add(other, replace=True)
    assert get("pi5") == other


@pytest.mark.parametrize("function", [get, remove])
def test_an_unknown_name_has_the_nearest_in_its_hint(function):
    with pytest.raises(UsageError) as e:
        function("pi5")
    assert "edgekit device add pi5" in e.value.hint
    add(PI)
    with pytest.raises(UsageError) as e:
        function("p5")
    assert "'pi5'" in e.value.hint
    with pytest.raises(UsageError) as e:
        function("zzz")
    assert "pi5" in e.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '{"devices": {}}',
        '{"schema_version": 99, "devices": {}}',
        '{"schema_version": 1, "devices": []}',
        '{"schema_version": 1, "devices": {"x": {}}}',
        '{"schema_version": 1, "devices": {"x": {"url": "ftp://x"}}}',
        '{"schema_version": 1, "devices": {"x": {"url": "ssh://a:b@x"}}}',
        '{"schema_version": 1, "devices": {"-x": {"url": "local://"}}}',
        '{"schema_version": 1, "devices": {"x": {"url": "local://", "meters": "rapl"}}}',
        '{"schema_version": 1, "devices": {"x": {"url": "local://", "python": 3}}}',
        '{"schema_version": 1, "devices": {"x": {"url": "local://", "pythn": "a"}}}',
    ],
)
def test_a_broken_file_is_named_and_left_alone(text):
    file().parent.mkdir(parents=True)
    file().write_text(text)
    for action in (devices, lambda: add(PI, replace=True), lambda: remove("x"), lambda: get("x")):
        with pytest.raises(UsageError, match=r"devices\.json is broken"):
            action()
    assert file().read_text() == text


def test_a_file_that_is_not_text():
    file().parent.mkdir(parents=True)
    file().write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is broken"):
        devices()


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKIT_CONFIG", str(tmp_path / "file" / "below"))
    with pytest.raises(UsageError, match="cannot be"):
        add(PI)


def test_where_the_file_lies(monkeypatch, tmp_path):
    monkeypatch.delenv("EDGEKIT_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert file() == tmp_path / "xdg" / "edgekit" / "devices.json"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert file() == tmp_path / "home" / ".config" / "edgekit" / "devices.json"


def test_a_reader_never_sees_half_a_file(monkeypatch):
    add(PI)
    before = file().read_text()

    def crash(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(UsageError, match="cannot be written: No space left"):
        add(Device("other", "local://"))
    assert file().read_text() == before
    assert [p.name for p in file().parent.iterdir() if "devices.json." in p.name] == [
        ".devices.json.lock"
    ]


def _add_many(start):
    for number in range(start, start + 10):
        add(Device(f"d{number}", "local://"))


def test_two_writers_lose_nothing():
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add_many, args=(start,)) for start in (0, 10)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    assert set(devices()) == {f"d{number}" for number in range(20)}
    assert json.loads(file().read_text())["schema_version"] == 1
