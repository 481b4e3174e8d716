"""The manifest: what is known about an artifact, in one JSON file written last.

A folder with a valid `manifest.json` holds a complete artifact; a folder without one is the rest of
a run that was stopped. That is all there is to resuming.
"""

import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekit import __version__
from edgekit.artifact import Artifact
from edgekit.errors import UsageError

FILE = "manifest.json"
SCHEMA_VERSION = 1
LIBRARIES = (
    "torch",
    "nncf",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnxslim",
    "numpy",
    "tensorrt",
    "tensorrt_rtx",
)


class Manifest(BaseModel):
    """Where an artifact came from and what making it said and cost.

    Attributes:
        artifact: the artifact itself.
        step: the step's name in its recipe, such as `prune` or `x86/quantize`.
        pass_config: the pass with its hyper-parameters, as data.
        cache_key: hash of everything that decided the result (hex).
        seed: the seed that the step ran with.
        versions: edgekit, Python and the libraries.
        notes: what the pass found worth telling (pruned layers, frozen operators, calibration ids).
        warnings: what the user should know, one sentence each.
        snippets: SHA-256 (hex) of `infer.py` and `infer.cpp` as edgekit wrote them, by name.
        seconds: wall time of the step.
        energy_j: energy of the step in joules, None where it was not measured.
        energy_label: `measured`, `estimated` or `unavailable`.
        energy_note: what was measured, such as `rapl: package-0`, or why nothing was.
        created_utc: ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    artifact: Artifact
    step: str
    pass_config: dict[str, Any]
    cache_key: str
    seed: int
    versions: dict[str, str]
    notes: dict[str, Any] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    snippets: dict[str, str] = Field(default_factory=dict)
    seconds: float
    energy_j: float | None = None
    energy_label: Literal["measured", "estimated", "unavailable"] = "unavailable"
    energy_note: str = ""
    created_utc: str = Field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )


def versions() -> dict[str, str]:
    """Versions of edgekit, Python and the libraries that decide results, without importing them."""
    found = {"edgekit": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write(manifest: Manifest, root: Path) -> None:
    """Write `manifest` into `root`, whole or not at all."""
    write_text_atomically(root / FILE, manifest.model_dump_json(indent=2) + "\n")


def read(root: Path) -> Manifest:
    """Read the manifest of the artifact in `root`.

    Raises:
        UsageError: the folder holds no complete artifact, or one of another edgekit.
    """
    path = root / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise UsageError(
            f"{root} holds no complete artifact ({FILE} is missing).",
            "Give an artifact folder that edgekit finished, or a .pt2 or .onnx file.",
        ) from e
    except OSError as e:
        raise UsageError(
            f"{path} cannot be read: {e.strerror}.", "Check the folder and its permissions."
        ) from e
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{path} is not valid JSON.", "Make the artifact again.") from e
    try:
        data["artifact"]["root"] = root
        return Manifest.model_validate(data)
    except (ValidationError, KeyError, TypeError) as e:
        raise UsageError(
            f"{path} is not a manifest of schema version {SCHEMA_VERSION}.",
            "Make the artifact again with this version of edgekit.",
        ) from e


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old one or the new one."""
    write_atomically(path, text.encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
