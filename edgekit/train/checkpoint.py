"""The state of a training on disk, so that one that was killed goes on where it was.

Everything random is drawn from the seed, the epoch and the number of the batch or step, so the
state is weights, optimizer, averages and two counters, and what follows is the same bit for bit.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgekit.errors import PassError, UsageError
from edgekit.manifest import versions, write_atomically

EVERY_S = 30.0
"""Seconds between two checkpoints."""

_VERSION = 1


@dataclass(frozen=True)
class Keep:
    """What a training keeps on disk.

    Attributes:
        state: a file for its state, removed when it is done; None keeps nothing.
        answers: a folder that holds one folder for the answers of each teacher to each set of
            samples; None asks a teacher again.
        identity: what the teacher's answers depend on, beside the samples: its hash. A state of
            another identity is not gone on from.
        every_s: seconds between two states.
    """

    state: Path | None = None
    answers: Path | None = None
    identity: str = ""
    every_s: float = EVERY_S

    def answers_to(self, content_hash: str, ids: Sequence[str]) -> Path | None:
        """The folder for the answers to these samples, in order, of data with this hash."""
        if self.answers is None:
            return None
        parts = json.dumps([self.identity, content_hash, list(ids), versions()])
        return self.answers / hashlib.sha256(parts.encode()).hexdigest()[:24]


class Checkpoint:
    """One training's state in one file.

    Args:
        keep: the file, and how often it is written.
        data: what the data is (`Dataset.summary`): a training goes on with the same data or not
            at all.
        settings: everything else that decides what comes out.
    """

    def __init__(
        self,
        keep: Keep,
        data: dict[str, Any],
        settings: dict[str, Any],
    ) -> None:
        self._path, self._data, self._every_s = keep.state, data, keep.every_s
        settings = {**settings, "identity": keep.identity, "versions": versions()}
        text = json.dumps(settings, sort_keys=True, default=str)
        self._settings = hashlib.sha256(text.encode()).hexdigest()
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state to go on from; None where there is none, or one of other settings.

        Raises:
            UsageError: the data is not that of the state, or the file is broken.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            found: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
            known, settings, data = found["version"], found["settings"], json.loads(found["data"])
        except Exception as e:
            raise UsageError(
                f"The checkpoint {self._path} is broken: {str(e).splitlines()[0][:200]}",
                "Delete it to begin anew.",
            ) from e
        if known != _VERSION or settings != self._settings:
            return None
        changed = [k for k in sorted({*data, *self._data}) if data.get(k) != self._data.get(k)]
        if changed:
            raise UsageError(
                f"The data {self._data.get('source', '')} has changed since training was"
                f" interrupted ({', '.join(changed).replace('_', ' ')}).",
                f"Bring it back as it was, or delete {self._path} to begin anew.",
            )
        state: dict[str, Any] = found["state"]
        return state

    def due(self) -> bool:
        """Whether the last time is long enough ago."""
        return self._path is not None and time.monotonic() - self._saved >= self._every_s

    def offer(self, state: Callable[[], dict[str, Any]], *, now: bool = False) -> None:
        """Save the state where the last time is long enough ago.

        Args:
            state: gives it: tensors and plain data.
            now: in any case.

        Raises:
            PassError: the disk is full, or the folder cannot be written.
        """
        if self._path is None or not (now or self.due()):
            return
        buffer = io.BytesIO()
        torch.save(
            {
                "version": _VERSION,
                "settings": self._settings,
                "data": json.dumps(self._data),
                "state": state(),
            },
            buffer,
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, buffer.getvalue())
        except OSError as e:
            raise PassError(
                f"The checkpoint {self._path} cannot be written: {e.strerror or e}.",
                "Free some disk space, or give another folder; the last checkpoint is kept.",
            ) from e
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Training is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
