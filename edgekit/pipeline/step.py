"""One step of a run: make an artifact in a folder of its own, or find it made already.

The folder is filled in a staging folder beside it, its manifest is written last, and one rename
puts it in place. So a folder with a manifest is complete, whatever killed the run before.
"""

import hashlib
import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from edgekit import manifest
from edgekit.artifact import NAME_MAP, Artifact, content_hash
from edgekit.errors import EdgekitError, PassError, UsageError
from edgekit.manifest import Manifest
from edgekit.passes.base import Context

STAGING = ".staging"


@dataclass(frozen=True)
class Made:
    """What a step came to: its manifest, and whether it was there already."""

    manifest: Manifest
    cached: bool

    @property
    def artifact(self) -> Artifact:
        """The artifact itself."""
        return self.manifest.artifact


@dataclass
class Store:
    """The artifacts of one run's folder, found by cache key.

    Attributes:
        out: the run's folder.
        fresh: make everything again.
    """

    out: Path
    fresh: bool = False
    _by_key: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Clear what a killed run left, and look at what is there."""
        shutil.rmtree(self.out / STAGING, ignore_errors=True)
        if self.fresh:
            return
        for path in sorted(self.out.glob(f"**/{manifest.FILE}")):
            with suppress(UsageError):
                self._by_key[manifest.read(path.parent).cache_key] = path.parent

    def find(self, key: str, folder: Path) -> Manifest | None:
        """The finished artifact with this key, in `folder`; None where it must be made.

        An artifact with the same key elsewhere in the run is copied: it is the same artifact.
        """
        known = self._by_key.get(key)
        for place in (known,) if self.fresh else dict.fromkeys((folder, known)):
            found = _intact(place, key) if place is not None else None
            if place is None or found is None:
                continue
            if place != folder:
                self._put(folder, partial(_copy, place))
                found = manifest.read(folder)
            return found
        return None

    def make(self, folder: Path, fill: Callable[[Path], Manifest]) -> Manifest:
        """Make `folder` by filling a staging folder, and put it in place in one rename."""
        self._put(folder, fill)
        made = manifest.read(folder)
        self._by_key[made.cache_key] = folder
        return made

    def _put(self, folder: Path, fill: Callable[[Path], Manifest]) -> None:
        if folder.exists() and not (folder / manifest.FILE).exists() and any(folder.iterdir()):
            raise UsageError(
                f"{folder} is in the way: it is not an artifact of edgekit's.",
                "Move it, or give another output folder.",
            )
        (self.out / STAGING).mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(mkdtemp(dir=self.out / STAGING))
        try:
            staging.chmod(0o755)
            manifest.write(fill(staging), staging)
            if folder.exists():
                folder.replace(Path(mkdtemp(dir=self.out / STAGING)) / "old")
            staging.replace(folder)
        finally:
            shutil.rmtree(self.out / STAGING, ignore_errors=True)


def _intact(folder: Path, key: str) -> Manifest | None:
    """The manifest in `folder` if it has this key and its files are what it says."""
    try:
        found = manifest.read(folder)
        files = [folder / f for f in found.artifact.files if f != NAME_MAP]
        same = found.cache_key == key and content_hash(files) == found.artifact.content_hash
    except UsageError:
        return None
    return found if same else None


def _copy(place: Path, out: Path) -> Manifest:
    found = manifest.read(place)
    for file in found.artifact.files:
        shutil.copy2(place / file, out / file)
    return found


def cache_key(**parts: Any) -> str:
    """Hash everything that decides a result. The order of the parts does not count."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def make(
    store: Store,
    folder: Path,
    *,
    step: str,
    config: dict[str, Any],
    key: str,
    context: Context,
    run: Callable[[Context], Artifact],
) -> Made:
    """Make one artifact, or find it made.

    Args:
        store: the run's folder.
        folder: the step's folder.
        step: the step's name, for people.
        config: the pass as data, for the manifest.
        key: its cache key.
        context: `out` is set here; the rest is the caller's.
        run: does the work, given the context.

    Raises:
        PassError: the work failed in a way that the pass did not foresee.
        EdgekitError: as the pass raised it.
    """
    found = store.find(key, folder)
    if found is not None:
        return Made(found, cached=True)

    def fill(staging: Path) -> Manifest:
        context.out = staging
        seed_everything(context.seed)
        started = time.perf_counter()
        artifact = _guarded(step, context, run)
        return Manifest(
            artifact=artifact,
            step=step,
            pass_config=config,
            cache_key=key,
            seed=context.seed,
            versions=manifest.versions(),
            notes=json.loads(json.dumps(context.notes, default=_plain)),
            warnings=tuple(context.warnings),
            seconds=round(time.perf_counter() - started, 3),
        )

    return Made(store.make(folder, fill), cached=False)


def _guarded(step: str, context: Context, run: Callable[[Context], Artifact]) -> Artifact:
    try:
        return run(context)
    except EdgekitError:
        raise
    except OSError as e:
        raise PassError(
            f"Step {step!r} could not write its files: {e.strerror or e}.",
            "Free some disk space or give another folder; finished steps are kept.",
        ) from e
    except Exception as e:
        raise PassError(
            f"Step {step!r} failed: {type(e).__name__}: {str(e).strip()[:500]}",
            "Run with --traceback to see where; finished steps are kept.",
        ) from e


def _plain(value: object) -> Any:
    """Make a note plain data: NumPy scalars and arrays, paths, sets."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and, where it is loaded, torch."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the global generator
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
