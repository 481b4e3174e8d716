"""Writing a small program that runs a model."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

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
        UsageError: the model, a shape or a dtype does not serve, or `out` cannot be written.
        UnavailableError: the runtime that reads the model is not installed.
    """
    from edgekit.lower.snippet import snippet, subject_of

    subject = subject_of(model, shapes)
    if out is not None:
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
