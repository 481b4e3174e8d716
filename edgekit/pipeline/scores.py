"""What evaluating an artifact came to, and how it is kept beside it."""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import manifest
from edgekit.pipeline.step import MEASURED, SCORES


@dataclass(frozen=True)
class Judged:
    """What an artifact's answers came to on the evaluation split.

    Attributes:
        evaluation: the metric with its interval, as data; None without targets.
        scores: one score a sample, None without targets.
        labels: the class answered for each sample, None where answers are no classes.
        parity: largest differences from the parent artifact by output.
        macs: for one sample, None where the file does not tell.
        parameters: likewise.
        reason: why there is no evaluation.
    """

    evaluation: dict[str, Any] | None
    scores: NDArray[Any] | None
    labels: NDArray[Any] | None
    parity: dict[str, Any] | None
    macs: int | None
    parameters: int | None
    reason: str = ""


def read_judged(root: Path, key: str) -> Judged | None:
    """What an earlier run found under the same key; None where it must be found again.

    Both files hold the key: a run that was killed between them leaves two that do not go together.
    """
    known = read_json(root / MEASURED)
    if known is None or known.get("key") != key:
        return None
    try:
        with (root / SCORES).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                return None
            scores, labels = arrays.get("scores"), arrays.get("labels")
        return Judged(scores=scores, labels=labels, **known["judged"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def write_judged(root: Path, key: str, found: Judged) -> None:
    """Keep what was found, each file whole or not at all."""
    given = {"scores": found.scores, "labels": found.labels}
    arrays: dict[str, Any] = {name: a for name, a in given.items() if a is not None}
    packed = io.BytesIO()
    np.savez_compressed(packed, key=np.array(key), **arrays)
    manifest.write_atomically(root / SCORES, packed.getvalue())
    plain = {
        "evaluation": found.evaluation,
        "parity": found.parity,
        "macs": found.macs,
        "parameters": found.parameters,
        "reason": found.reason,
    }
    write_json(root / MEASURED, {"key": key, "judged": plain})


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON mapping, None where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, plain: dict[str, Any]) -> None:
    """Write a JSON mapping, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text_atomically(path, json.dumps(plain, indent=1) + "\n")
