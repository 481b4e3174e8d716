"""`edgekit snippet`: a small program that runs a model in its runtime."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import common
from edgekit.cli.pairs import fixed_sizes


class Language(StrEnum):
    """What `--language` takes."""

    python = "python"
    cpp = "cpp"


def snippet(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="An artifact's folder, an .onnx, .ort or .xml file, or an engine with its JSON.",
        ),
    ],
    *,
    language: Annotated[
        Language, typer.Option("--language", help="Python, or C++17.")
    ] = Language.python,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape", metavar="NAME=SIZES", help="Of a dynamic input: image=1x3x224x224."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file to write; standard output unless given."),
    ] = None,
    json: common.Json = False,
) -> None:
    """Print a small program that runs a model in its runtime, without edgekit."""
    from edgekit.pipeline import write_snippet

    text = write_snippet(model, language.value, shapes=fixed_sizes(shape, "--shape"), out=out)
    if json:
        common.print_json({"language": language.value, "text": text})
    elif out is None:
        typer.echo(text, nl=False)
    else:
        common.out_console().print(f"{out}: {language.value}, for {model}", markup=False)
