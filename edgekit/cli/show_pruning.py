"""What `edgekit prune --dry-run` and `--explain` print."""

from typing import Any

from rich.table import Table
from rich.text import Text

from edgekit.cli.common import out_console
from edgekit.cli.show import count, size


def plan(found: dict[str, Any]) -> None:
    """Groups, what is frozen and by what, and the costs before and after."""
    console = out_console()
    console.print(_groups(found["groups"]))
    if found["frozen"]:
        table = Table("frozen by", "weights", "layers", box=None, header_style="bold")
        for cause, frozen in found["frozen"].items():
            layers = list(frozen["layers"])
            shown = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" * (len(layers) > 3))
            table.add_row(Text(cause), count(frozen["parameters"]), Text(shown))
        console.print(table)
    for name, key, spell in (
        ("MACs", "macs", count), ("weights", "parameters", count), ("size", "weight_bytes", size)
    ):  # fmt: skip
        before, after = found[f"{key}_before"], found[f"{key}_after"]
        share = f" ({after / before:.1%})" if before else ""
        console.print(f"{name:8} {spell(before)} -> {spell(after)}{share}", highlight=False)
    for warning in found["warnings"]:
        console.print(Text(warning, style="yellow"))


def layer(found: dict[str, Any]) -> None:
    """One layer's tensors, and the groups that hold its width."""
    console = out_console()
    table = Table("tensor", "dimension", "size", "may go", "kept by", box=None, header_style="bold")
    for name, dims in found["tensors"].items():
        for axis, dim in enumerate(dims):
            row = (str(axis), str(dim["size"]), str(dim["free"]), Text(", ".join(dim["kept_by"])))
            table.add_row(Text(name if axis == 0 else ""), *row)
    console.print(table)
    if found["groups"]:
        console.print(_groups(found["groups"]))
    else:
        console.print("No width of this layer can change.", highlight=False)


def _groups(groups: Any) -> Table:
    table = Table("coupled layers", "channels", "after", box=None, header_style="bold")
    for group in groups:
        names = Text("\n".join(group["layers"]) or "(no layer)")
        table.add_row(names, str(group["before"]), str(group["after"]))
    return table
