"""`edgekit export`: a clean ONNX file, in the form that deployment wants."""

from typing import Annotated

import typer

from edgekit.cli import common
from edgekit.cli.pairs import fixed_sizes, pairs
from edgekit.cli.pass_commands import apply


def export(
    model: common.Model,
    out: common.Out,
    *,
    opset: Annotated[
        int | None,
        typer.Option(min=13, help="The ONNX opset; an older ONNX file is written in it."),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", metavar="NAME=SIZES", help="Fix an input: image=1x3x224x224."),
    ] = None,
    output: Annotated[
        list[str] | None, typer.Option("--output", help="Keep this output; may be repeated.")
    ] = None,
    append: Annotated[
        list[str] | None,
        typer.Option("--append", metavar="OUTPUT=WHAT", help="softmax, sigmoid or argmax."),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="Call an input or output otherwise."),
    ] = None,
    target: common.Target = None,
    set_: common.Set = None,
    imports: common.Imports = None,
    json: common.Json = False,
) -> None:
    """Write a clean ONNX file and check that it computes the same numbers.

    `--set image={mean: [...], std: [...]}` takes uint8 frames, channels last; `--set boxes={}`
    decodes boxes and suppresses those that overlap.
    """
    from edgekit.passes.export_onnx import ExportOnnx

    fields = {
        "opset": opset,
        "upgrade": True if opset is not None else None,
        "shapes": fixed_sizes(shape, "--shape"),
        "outputs": output,
        "append": pairs(append, "--append"),
        "rename": pairs(rename, "--rename"),
    }
    apply(
        ExportOnnx,
        fields,
        model,
        out,
        json=json,
        set_=set_,
        target=target,
        imports=imports,
    )
