"""How devices look on a terminal, and as JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from edgekit.cli import show
from edgekit.cli.common import out_console

if TYPE_CHECKING:
    from edgekit.device import Device, Hello

_FIRST = ("board", "cpu", "isa", "architecture", "cores", "ram_gib", "os", "kernel", "governor")


def plain(device: "Device", hello: "Hello | None" = None) -> dict[str, Any]:
    """A device as data, with what it has said of itself where it was asked."""
    found = dataclasses.asdict(device)
    if hello is not None:
        found["probe"] = dataclasses.asdict(hello)
    return found


def added(device: "Device", hello: "Hello | None") -> None:
    """What was stored, and what the device still lacks."""
    console = out_console()
    where = f"{device.name}: {device.url}"
    if hello is not None:
        about = hello.fingerprint
        board = about.get("board", "unknown")
        what = board if board != "unknown" else about.get("cpu", "unknown")
        where += f", {what}, {about.get('os', 'unknown')}, Python {hello.python}"
    console.print(f"Added {where}", markup=False, highlight=False, soft_wrap=True)
    if hello is not None:
        _say_missing(hello)
        ready = [name for name, found in hello.runtimes.items() if found.get("ok")]
        if ready:
            console.print(
                f"It runs {', '.join(ready)}. Measure on it:"
                f" edgekit bench MODEL --device {device.name}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def listed(devices: "Sequence[Device]") -> None:
    """A table of devices."""
    console = out_console()
    if not devices:
        console.print("There are none. Add one: edgekit device add NAME ssh://user@host")
        return
    table = _table("device", "url", "target", "python", "meters", "")
    for each in devices:
        row = (
            each.name,
            each.url,
            each.target or "–",
            each.python or "–",
            ", ".join(each.meters) or "–",
            "emulated" if each.emulated else "",
        )
        table.add_row(*(Text(text) for text in row))
    console.print(table)


def removed(device: "Device") -> None:
    """What was forgotten, and what stays on the device."""
    console = out_console()
    console.print(f"Forgot {device.name} ({device.url}).", markup=False, highlight=False)
    if device.address.scheme == "ssh":
        console.print(
            "To clear what edgekit put there: rm -r ~/.cache/edgekit, on the device.",
            markup=False,
            highlight=False,
        )


def probed(device: "Device", hello: "Hello") -> None:
    """All that a device says of itself."""
    console = out_console()
    free = show.size(hello.free_bytes)
    rows = {
        "url": device.url,
        "python": f"{hello.python} ({hello.executable})",
        **{key: hello.fingerprint[key] for key in _FIRST if key in hello.fingerprint},
        **{
            key: value for key, value in hello.fingerprint.items() if key not in (*_FIRST, "python")
        },
        "power mode": hello.power_mode or "unknown",
        "free space": free,
        "emulated": "yes" if hello.emulated or device.emulated else "no",
    }
    for key, value in rows.items():
        console.print(f"{key:20} {value}", markup=False, highlight=False, soft_wrap=True)
    _say_missing(hello)
    for title, entries in (("Runtimes", hello.runtimes), ("Energy meters", hello.meters)):
        if entries:
            _table_of(title, entries)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _table_of(title: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
    table = _table(title, "here", "what it says")
    for name, entry in entries.items():
        here = "yes" if entry.get("ok") else "no"
        words = [str(entry.get(key) or "") for key in ("reason", "fix")]
        table.add_row(Text(name), here, Text(" ".join(filter(None, words))))
    out_console().print(table)


def _say_missing(hello: "Hello") -> None:
    if hello.missing:
        text = f"Missing in Python {hello.python}: {', '.join(hello.missing)}. {hello.install}"
        out_console().print(Text(text.strip(), style="yellow"), soft_wrap=True)
    for problem in hello.problems:
        out_console().print(Text(problem, style="yellow"), soft_wrap=True)
