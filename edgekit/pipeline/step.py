"""One step of a run: make an artifact in a folder of its own, or find it made already.

The folder is filled in a staging folder beside it, its manifest is written last, and one rename
puts it in place. So a folder with a manifest is complete, whatever killed the run before.
"""

import errno
import hashlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from edgekit import manifest
from edgekit.artifact import BESIDE, SNIPPETS, Artifact
from edgekit.bench.fingerprint import fingerprint
from edgekit.errors import EdgekitError, PassError, UsageError
from edgekit.extras import missing
from edgekit.manifest import Manifest
from edgekit.passes.base import Context, Pass
from edgekit.passes.capture import ModelConfig
from edgekit.pipeline.cost import OFF, CostMeter

STAGING = ".staging"
MEASURED, SCORES = "measured.json", "scores.npz"
_BESIDE = frozenset({manifest.FILE, *BESIDE, MEASURED, SCORES})
_WRITTEN = ("model.", f"{manifest.FILE}.", f"{MEASURED}.", f"{SCORES}.")  # and drafts of them
KEPT = (
    "{0} is kept as it is, since edgekit has not written it so; it may not fit this model."
    " `edgekit snippet` prints a new one."
)
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


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
        cost: measures the joules of what is made.
    """

    out: Path
    fresh: bool = False
    cost: CostMeter = field(default_factory=lambda: CostMeter(OFF))
    _by_key: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look at what is there."""
        if self.fresh:
            return
        # No deeper than a run's own folders: the user may have named their home.
        for depth in ("*", "*/*", "*/*/*"):
            for path in sorted(self.out.glob(f"{depth}/{manifest.FILE}")):
                with suppress(UsageError):
                    self._by_key[manifest.read(path.parent).cache_key] = path.parent

    def clear(self) -> None:
        """Remove what a killed run left half-made."""
        shutil.rmtree(self.out / STAGING, ignore_errors=True)

    def look(self, key: str, folder: Path) -> Manifest | None:
        """The finished artifact with this key, in `folder` or elsewhere in the run."""
        known = self._by_key.get(key)
        for place in (known,) if self.fresh else dict.fromkeys((folder, known)):
            found = _intact(place, key) if place is not None else None
            if found is not None:
                return found
        return None

    def find(self, key: str, folder: Path, step: str, config: dict[str, Any]) -> Manifest | None:
        """The finished artifact with this key, put into `folder` under this step's name.

        An artifact with the same key elsewhere in the run is copied: it is the same artifact.
        """
        found = self.look(key, folder)
        if found is None or (found.artifact.root == folder and found.step == step):
            return found
        named = found.model_copy(update={"step": step, "pass_config": config})
        self._put(folder, partial(_copy, named))
        return manifest.read(folder)

    def make(self, folder: Path, fill: Callable[[Path], Manifest]) -> Manifest:
        """Make `folder` by filling a staging folder, and put it in place in one rename."""
        self._put(folder, fill)
        made = manifest.read(folder)
        self._by_key[made.cache_key] = folder
        return made

    def _put(self, folder: Path, fill: Callable[[Path], Manifest]) -> None:
        _refuse_strangers(folder)
        edited = _edited(folder)
        (self.out / STAGING).mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(mkdtemp(dir=self.out / STAGING))
        try:
            staging.chmod(0o755)
            manifest.write(_keep(edited, fill(staging), folder, staging), staging)
            if folder.exists():
                folder.replace(Path(mkdtemp(dir=self.out / STAGING)) / "old")
            staging.replace(folder)
        finally:
            self.clear()


def _refuse_strangers(folder: Path) -> None:
    """Replace nothing that edgekit did not write: a file, or a folder with the user's own files."""
    if not folder.is_dir():
        strangers = [folder.name] if folder.exists() else []
    else:
        try:
            known = {*_BESIDE, *manifest.read(folder).artifact.files}
        except UsageError:
            known = {*_BESIDE}
        names = [path.name for path in folder.iterdir()]
        written = {name for name in names if name.lstrip(".").startswith(_WRITTEN)}
        strangers = [n for n in names if n not in known and n not in written]
        strangers += [n for n in names if n in SNIPPETS and not (folder / n).is_file()]
    if strangers:
        raise UsageError(
            f"{folder} is in the way: {min(strangers)} is not edgekit's.",
            "Move it, or give another output folder.",
        )


def _edited(folder: Path) -> list[str]:
    """Snippets in `folder` that are not as edgekit wrote them: the user has gone on from there."""
    try:
        wrote = manifest.read(folder).snippets
    except UsageError:
        wrote = {}
    return [name for name, each in _snippets(folder).items() if each != wrote.get(name)]


def _snippets(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of the snippets in `folder`, by name."""
    paths = [folder / name for name in sorted(SNIPPETS)]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths if p.is_file()}


def _keep(edited: list[str], made: Manifest, folder: Path, staging: Path) -> Manifest:
    """Put the user's snippets of `folder` in the place of new ones, and say so."""
    for name in edited:
        (staging / name).unlink(missing_ok=True)
        shutil.copy2(folder / name, staging / name, follow_symlinks=False)
    warnings = [KEPT.format(name) for name in edited]
    return made.model_copy(update={"warnings": tuple(dict.fromkeys((*made.warnings, *warnings)))})


def _intact(folder: Path, key: str) -> Manifest | None:
    """The manifest in `folder` if it has this key and its files are what it says."""
    try:
        found = manifest.read(folder)
        return found if found.cache_key == key and found.artifact.intact() else None
    except UsageError:
        return None


def _copy(found: Manifest, out: Path) -> Manifest:
    for file in found.artifact.files:
        if file not in SNIPPETS or (found.artifact.root / file).is_file():  # the user may take them
            shutil.copy2(found.artifact.root / file, out / file)
    return found


def step_key(step: Pass, parent: Made, context: Context) -> str:
    """The cache key of a step: everything that decides what it makes."""
    return cache_key(
        config=step.model_dump(mode="json", exclude={"name"}),
        parent=parent.artifact.content_hash,
        format=parent.artifact.format,
        reads=step.reads(context),
        data=context.data.summary() if context.data and step.reads_data else None,
        task=context.task.model_dump() if step.reads_data else None,
        seed=context.seed,
        threads=context.threads if step.trains else None,
        processes=os.environ.get("WORLD_SIZE", "1") if step.trains else None,
        device=fingerprint()["digest"] if step.measures else None,
        versions=manifest.versions(),
    )


def capture_key(model: ModelConfig, context: Context) -> str:
    """The cache key of the original: the model's file, or its code and weights."""
    return cache_key(
        kind="capture",
        model=model.fingerprint(context.base),
        data=context.data.content_hash if context.data else None,
        seed=context.seed,
        versions=manifest.versions(),
    )


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

    def fill(staging: Path) -> Manifest:
        context.out = staging
        seed_everything(context.seed)
        with store.cost.step() as energy:
            started = time.perf_counter()
            artifact = run(context)
            seconds = time.perf_counter() - started
        return Manifest(
            artifact=artifact,
            step=step,
            pass_config=config,
            cache_key=key,
            seed=context.seed,
            versions=manifest.versions(),
            notes=json.loads(json.dumps(context.notes, default=_plain)),
            warnings=tuple(context.warnings),
            snippets=_snippets(staging),
            seconds=round(seconds, 3),
            energy_j=energy.joules,
            energy_label=energy.label,
            energy_note=energy.note,
        )

    with guarded(f"Step {step!r}"):
        found = store.find(key, folder, step, config)
        if found is not None:
            return Made(found, cached=True)
        return Made(store.make(folder, fill), cached=False)


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Turn a failure that nobody foresaw into a PassError that says what failed.

    Args:
        what: begins the message, such as `Step 'prune'`.

    Raises:
        UnavailableError: a library of edgekit's is not installed.
        PassError: the disk is full, memory ran out, or a library failed.
    """
    try:
        yield
    except EdgekitError:
        raise
    except ModuleNotFoundError as e:
        raise missing(e) or PassError(
            f"{what} failed: {e}", "Install that module; finished steps are kept."
        ) from e
    except OSError as e:
        place = f" ({e.filename})" if e.filename else ""
        raise PassError(
            f"{what} could not use its files: {e.strerror or e}{place}.",
            "Free some disk space or give another folder; finished steps are kept."
            if e.errno in _NO_SPACE
            else "Look at that file and its permissions; finished steps are kept.",
        ) from e
    except MemoryError as e:
        raise PassError(
            f"{what} ran out of memory.",
            "Close other programs or take smaller batches; finished steps are kept.",
        ) from e
    except Exception as e:
        raise PassError(
            f"{what} failed: {type(e).__name__}: {str(e).strip()[:500]}",
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
