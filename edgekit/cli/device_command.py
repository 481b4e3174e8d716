"""`edgekit device`: the user's own devices, by name."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import common

app = typer.Typer(no_args_is_help=True, help="Add, list, probe and remove your own devices.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What you call the device.")]


@app.command()
def add(
    name: Name,
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="ssh://[user@]host[:port], adb://SERIAL, or local:// for this one."
        ),
    ],
    *,
    python: Annotated[
        str | None, typer.Option(help="The Python to use there: a name, or a path such as ~/venv/…")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What it is: a name from `edgekit targets`.")
    ] = None,
    meter: Annotated[
        list[str] | None,
        typer.Option("--meter", help="Its energy meter, best first; may be repeated."),
    ] = None,
    ssh_config: Annotated[
        Path | None, typer.Option(help="An SSH configuration in place of your own.")
    ] = None,
    emulated: Annotated[
        bool, typer.Option("--emulated", help="It runs under an emulator: label every figure so.")
    ] = False,
    probe: Annotated[bool, typer.Option(help="Look at it before it is stored.")] = True,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of another of that name.")
    ] = False,
    json: common.Json = False,
) -> None:
    """Add a device under a name. It is looked at first: nothing is stored where it does not answer.

    Nothing is installed on it. See docs/devices.md for what is put there.
    """
    from edgekit import device as devices
    from edgekit.cli import show_device

    _check_names(target, meter or [])
    added = devices.Device(
        name,
        url,
        python=_on_device(python),
        target=target,
        meters=tuple(meter or ()),
        emulated=emulated,
        ssh_config=None if ssh_config is None else str(ssh_config.expanduser().resolve()),
    )
    devices.check(added, replace=replace)
    hello = devices.probe(added) if probe else None
    devices.add(added, replace=replace)
    if json:
        common.print_json(show_device.plain(added, hello))
    else:
        show_device.added(added, hello)


def _on_device(python: str | None) -> str | None:
    """A path below this machine's home folder was `~/…` before the shell replaced it."""
    home = str(Path.home())
    if python is None or home == "/" or not python.startswith(f"{home}/"):
        return python
    return f"~/{python[len(home) + 1 :]}"


def _check_names(target: str | None, meters: list[str]) -> None:
    """Refuse a target or a meter that does not exist while the user is still there to hear it."""
    if target is not None:
        from edgekit.target import load

        load(target)
    if meters:
        from edgekit.bench.meters import check_meter

        for meter in meters:
            check_meter(meter)


@app.command(name="list")
def list_(json: common.Json = False) -> None:
    """List your devices. None of them is asked anything."""
    from edgekit import device as devices
    from edgekit.cli import show_device

    found = list(devices.devices().values())
    if json:
        common.print_json([show_device.plain(each) for each in found])
    else:
        show_device.listed(found)


@app.command()
def probe(name: Name, json: common.Json = False) -> None:
    """Ask a device what it is, what it can run and measure, and what it lacks."""
    from edgekit import device as devices
    from edgekit.cli import show_device

    device = devices.get(name)
    hello = devices.probe(device)
    if json:
        common.print_json(show_device.plain(device, hello))
    else:
        show_device.probed(device, hello)


@app.command()
def remove(name: Name, json: common.Json = False) -> None:
    """Forget a device. What lies on the device itself stays there."""
    from edgekit import device as devices
    from edgekit.cli import show_device

    gone = devices.remove(name)
    if json:
        common.print_json(show_device.plain(gone))
    else:
        show_device.removed(gone)
