"""`edgekit meters`: what energy meters a device has, and how to get those that it has not."""

from typing import Annotated, Any

import typer

from edgekit.cli import common

_TITLES = {
    "ina3221": "Jetson's power monitors (INA3221, INA238)",
    "pmic": "Raspberry Pi 5's rails",
    "odpm": "Android's on-device power monitors",
    "rapl": "x86 processor packages and memory",
    "nvml": "NVIDIA GPUs since Volta",
    "power-supply": "the battery of a laptop or phone",
    "csv": "an external meter's recording",
    "command": "a program that prints watts",
}


def meters(
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="NAME", help="One of `edgekit device list`."),
    ] = None,
    json: common.Json = False,
) -> None:
    """Say what energy meters this machine has, or a device; what is missing, and how to get it."""
    from edgekit.pipeline.machine import meters as look

    with common.progress():
        found = look(device)
    common.print_json(found) if json else _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("meter", "measures", "here", "what it says, and how to get it"):
        table.add_column(column, overflow="fold")
    ready = []
    for name, entry in found["meters"].items():
        words = [str(entry.get(key) or "") for key in ("reason", "fix")]
        here = "yes" if entry.get("ok") else "no"
        table.add_row(name, _TITLES.get(name, ""), here, Text(" ".join(filter(None, words))))
        ready += [name] if entry.get("ok") else []
    console = common.out_console()
    console.print(table)
    where = "" if found["where"] == "local" else f" --device {found['where']}"
    if ready:
        text = f"edgekit bench MODEL{where} --meter {ready[0]} measures joules per inference."
    else:
        text = (
            "Nothing here measures energy by itself. An external meter does (csv, command);"
            f" edgekit bench MODEL{where} --target NAME --meter estimate reckons a floor."
        )
    console.print(Text(text), soft_wrap=True)
