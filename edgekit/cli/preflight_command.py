"""`edgekit preflight`: will the target take this file?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import common

if TYPE_CHECKING:
    from edgekit.lower.preflight import Preflight


def preflight(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An .onnx file, or its artifact's folder.")
    ],
    *,
    target: Annotated[str, typer.Option("--target", help="A name from `edgekit targets`.")],
    dla: Annotated[
        int | None, typer.Option("--dla", min=0, help="Place layers on this DLA core.")
    ] = None,
    shapes: common.Shapes = None,
    json: common.Json = False,
) -> None:
    """Ask the target's parser, or the nearest one here, what it would refuse. Exit 5: not fit."""
    from dataclasses import asdict

    from edgekit.pipeline import preflight_model, raise_unless_fit

    with common.progress():
        found = preflight_model(model, target, dla=dla, shapes=common.shape_triples(shapes))
    common.print_json(asdict(found)) if json else show(found)
    raise_unless_fit(found)


def show(found: "Preflight") -> None:
    """Print the verdict, what stands against it, and where layers run."""
    from rich.text import Text

    console = common.out_console()
    verdict = "fit" if found.fit else "not fit"
    console.print(
        Text(f"{verdict} for {found.target} ({found.evidence}: {found.checked_by})", style="bold")
    )
    where = ", ".join(f"{count} on {device}" for device, count in found.devices.items())
    console.print(Text(f"opset {found.opset}; {len(found.placements)} nodes: {where}"))
    for each in found.findings:
        layer = f" of layer {each.layer}" if each.layer else ""
        place = f"{each.node} ({each.operator}){layer}: " if each.node else ""
        style = "red" if each.severity == "error" else "yellow"
        console.print(
            Text(f"{each.severity}: ", style=style) + Text(f"{place}{each.message} [{each.rule}]")
        )
        console.print(Text(f"  mend: {each.mend}"))
    for reason, nodes in fallbacks(found).items():
        shown = ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
        console.print(Text(f"falls back to the GPU: {shown}: {reason}"))
    for note in found.notes:
        console.print(Text(f"note: {note}"))


def fallbacks(found: "Preflight") -> dict[str, list[str]]:
    """Why layers leave the DLA, and which."""
    grouped: dict[str, list[str]] = {}
    for each in found.placements:
        if each.device == "gpu-fallback":
            grouped.setdefault(each.reason, []).append(each.node)
    return grouped
