"""`edgekit convert`: an ONNX file in the format of another runtime."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import common

if TYPE_CHECKING:
    from edgekit.lower.convert import Conversion


class Format(StrEnum):
    """What `--to` takes."""

    ort = "ort"
    openvino = "openvino"


def convert(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An .onnx file, or its artifact's folder.")
    ],
    out: common.Out,
    *,
    to: Annotated[
        Format, typer.Option("--to", help="ONNX Runtime's .ort, or OpenVINO's .xml and .bin.")
    ],
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Store OpenVINO's weights in float16.")
    ] = False,
    atol: Annotated[
        float | None,
        typer.Option(min=0, help="Absolute tolerance; 1e-4 unless given, 1e-2 with --fp16."),
    ] = None,
    rtol: Annotated[
        float | None,
        typer.Option(min=0, help="Relative tolerance; 1e-3 unless given, 1e-2 with --fp16."),
    ] = None,
    seed: common.Seed = 0,
    json: common.Json = False,
) -> None:
    """Write an ONNX file for another runtime and check that it computes the same numbers."""
    from dataclasses import asdict

    from edgekit.pipeline import convert_model

    with common.progress():
        found = convert_model(model, out, to.value, fp16=fp16, atol=atol, rtol=rtol, seed=seed)
    common.print_json(asdict(found)) if json else show(found, out)


def show(found: "Conversion", out: Path) -> None:
    """Print what was written, how close it is, and what a phone takes of it."""
    from rich.text import Text

    from edgekit.cli.show import size

    console = common.out_console()
    console.print(Text(f"{out / found.model}: {size(found.size_bytes)}, by {found.runtime}"))
    console.print(
        Text(f"differs by {found.max_abs_error:.3g} at most, on {'; '.join(found.checked)}")
    )
    if found.operators:
        count = sum(len(names) for names in found.operators.values())
        console.print(Text(f"needs {count} operators, listed for a reduced build"))
    for each in found.mobile:
        lacks = f"; not {', '.join(each.unsupported)}" if each.unsupported else ""
        console.print(
            Text(
                f"{each.provider}: {each.verdict} as it is, {each.verdict_fixed} with fixed"
                f" shapes; takes {each.supported} of {each.nodes} nodes in"
                f" {each.partitions} pieces{lacks}"
            )
        )
    for warning in found.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
