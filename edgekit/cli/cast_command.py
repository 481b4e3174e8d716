"""`edgekit cast`: half precision, with a guard for what overflows."""

from typing import Annotated

import typer

from edgekit.cli import common
from edgekit.cli.pass_commands import apply


def cast(
    model: common.Model,
    out: common.Out,
    *,
    data: common.Data,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="float16 or bfloat16; the target's unless given."),
    ] = None,
    target: common.Target = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude", help="A pattern of nodes, layers or operators that stay float32."
        ),
    ] = None,
    set_: common.Set = None,
    imports: common.Imports = None,
    json: common.Json = False,
) -> None:
    """Cast to half precision, but for what half cannot hold on calibration data."""
    from edgekit.passes.cast_half import CastHalf

    apply(
        CastHalf,
        {"precision": precision, "exclude": exclude},
        model,
        out,
        json=json,
        set_=set_,
        data=data,
        target=target,
        imports=imports,
    )
