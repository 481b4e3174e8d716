"""Keep a benchmark's raw nanoseconds: one archive, written whole or not at all."""

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import UsageError
from edgekit.manifest import write_atomically
from edgekit.pipeline.step import guarded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.pipeline.benchmark import Outcome


def check_place(path: Path, option: str = "--save") -> None:
    """Refuse a file that cannot be written, before time is spent on measuring.

    Raises:
        UsageError: it is a folder, its folder is missing or read-only, or the disk is full.
    """
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder.", "Give a file.")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:
            file.write(b"\0")
            file.flush()
    except OSError as e:
        raise UsageError(
            f"{option} {path} cannot be written: {e.strerror or e}.", "Give another file."
        ) from e


def save_raw(path: Path, outcomes: "Sequence[Outcome]") -> None:
    """Write `NAME/ns`, `NAME/round` and `NAME/stride`; with several devices `DEVICE/` comes before.

    Raises:
        PassError: the disk became full meanwhile.
    """
    arrays: dict[str, Any] = {}
    for outcome in outcomes:
        if outcome.result is None:
            continue
        before = f"{outcome.device}/" if len(outcomes) > 1 else ""
        for name, raw in outcome.result.raw.items():
            arrays[f"{before}{name}/ns"], arrays[f"{before}{name}/round"] = raw.ns, raw.round
            arrays[f"{before}{name}/stride"] = np.array(raw.stride)
    with guarded("Saving the raw samples"):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(path, buffer.getvalue())
