"""Writing a small program that runs a model."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import manifest
from edgekit.artifact import SNIPPETS
from edgekit.errors import UsageError
from edgekit.manifest import write_text_atomically

if TYPE_CHECKING:
    from edgekit.lower.snippet import Language


def write_snippet(
    model: Path,
    language: "Language" = "python",
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    out: Path | None = None,
) -> str:
    """Write a program that runs a model once, in its own runtime.

    Args:
        model: an artifact's folder, or a file; see `edgekit.lower.snippet.subject_of`.
        language: `python` or `cpp`.
        shapes: of inputs with dynamic dimensions.
        out: the file to write; none unless given. The program finds the model from there.

    Returns:
        The program.

    Raises:
        UsageError: the model, a shape or a dtype does not serve, `out` cannot be written, or it is
            the model itself or a file that belongs to it.
        UnavailableError: the runtime that reads the model is not installed.
    """
    from edgekit.lower.snippet import snippet, subject_of

    subject = subject_of(model, shapes)
    if out is not None:
        _refuse_own(model, out)
        folder = model if model.is_dir() else model.parent
        place = os.path.relpath(folder / subject.file, out.parent)
        subject = replace(subject, file=Path(place).as_posix())
    text = snippet(subject, language)
    if out is not None:
        try:
            write_text_atomically(out, text)
        except OSError as e:
            raise UsageError(f"{out} cannot be written: {e}.", "Choose another file.") from e
    return text


def _refuse_own(model: Path, out: Path) -> None:
    """Refuse to write over the model: its file, its external data, or the JSON beside it."""
    from edgekit.device.parts import beside

    folder, own = model, set[Path]()
    if not model.is_dir():
        folder = model.parent
        own = {model, model.with_name(f"{model.name}.json"), *beside(model).values()}
    with suppress(UsageError):  # the file may lie in an artifact's folder, or anywhere
        files = manifest.read(folder).artifact.files
        own |= {folder / name for name in (manifest.FILE, *files) if name not in SNIPPETS}
    try:
        taken = out.exists() and any(path.exists() and path.samefile(out) for path in own)
    except OSError as e:
        raise UsageError(f"{out} cannot be written: {e}.", "Choose another file.") from e
    if taken:
        raise UsageError(f"{out} belongs to the model itself.", "Give another file with -o.")
