"""`edgekit export`: a clean ONNX file, in the form that deployment wants."""

from typing import Annotated

import typer

from edgekit.cli import common
from edgekit.cli.pass_commands import apply
from edgekit.errors import UsageError


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
        "shapes": _sizes(shape),
        "outputs": output,
        "append": _pairs(append, "--append"),
        "rename": _pairs(rename, "--rename"),
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


def _pairs(texts: list[str] | None, option: str) -> dict[str, str] | None:
    if not texts:
        return None
    pairs = [text.partition("=") for text in texts]
    for text, (name, _, value) in zip(texts, pairs, strict=True):
        if not name or not value:
            raise UsageError(f"{option} {text!r} is not NAME=VALUE.", "See the command's --help.")
    return {name: value for name, _, value in pairs}


def _sizes(texts: list[str] | None) -> dict[str, list[int]] | None:
    pairs = _pairs(texts, "--shape")
    if pairs is None:
        return None
    for name, value in pairs.items():
        if not all(part.isdecimal() for part in value.split("x")):
            raise UsageError(f"--shape {name}={value} has no sizes.", "Write 1x3x224x224.")
    return {name: [int(part) for part in value.split("x")] for name, value in pairs.items()}
