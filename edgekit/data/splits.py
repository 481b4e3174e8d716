"""Draw disjoint calibration, training and evaluation splits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.data.config import SPLITS, Split
from edgekit.errors import RecipeError

Rows = NDArray[np.intp]
_SHOWN = 5


def draw(split: Split, ids: list[str], targets: NDArray[Any] | None, base: Path) -> dict[str, Rows]:
    """Divide samples among the splits.

    The draw depends on the seed, the order of the samples and their classes only. Evaluation is
    drawn first, so that it stays the same when the other splits are resized.

    Args:
        split: how many, or which ids.
        ids: all samples' ids.
        targets: classes are kept in proportion where targets are integers, one a sample.
        base: the folder that id files are relative to.

    Returns:
        Row indices by split, sorted; disjoint.

    Raises:
        RecipeError: an id is in two splits or unknown, or the data is too small.
    """
    given = _given(split, ids, base)
    taken = set().union(*(set(rows.tolist()) for rows in given.values())) if given else set()
    order = shuffled([i for i in range(len(ids)) if i not in taken], targets, split.seed)
    found = dict(given)
    start = 0
    for name in ("evaluation", "calibration"):
        if name in found:
            continue
        count = _count(getattr(split, name), len(ids))
        if name == "calibration" and name not in split.model_fields_set:
            # The default is for the usual data set; a small one keeps samples to train on.
            count = min(count, (len(order) - start) // 4)
        found[name] = np.sort(order[start : start + count])
        start += count
    if start > len(order):
        raise RecipeError(
            f"The splits want {start} samples; the data has {len(order)} of {len(ids)} to give.",
            "Make `data: split:` smaller.",
        )
    if "train" not in found:
        rest = order[start:]
        if split.train is not None:
            wanted = _count(split.train, len(ids))
            if wanted > len(rest):
                raise RecipeError(
                    f"`split: train:` wants {wanted} samples; {len(rest)} of {len(ids)} are left.",
                    "Make the splits smaller.",
                )
            rest = rest[:wanted]
        found["train"] = np.sort(rest)
    return {name: found[name] for name in SPLITS}


def _count(share: float, total: int) -> int:
    return share if isinstance(share, int) else round(share * total)


def shuffled(rows: list[int], targets: NDArray[Any] | None, seed: int) -> Rows:
    """Shuffle rows so that every prefix has about the classes' shares.

    Args:
        rows: row indices.
        targets: classes count where they are integers, one a sample.
        seed: another seed gives another order.
    """
    order = np.array(rows, dtype=np.intp)
    rng = np.random.default_rng(seed)
    order = order[rng.permutation(len(order))]
    if targets is None or targets.ndim != 1 or targets.dtype.kind not in "iub" or not len(order):
        return order
    place = np.empty(len(order))
    for label in np.unique(targets[order]):
        members = np.flatnonzero(targets[order] == label)
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return order[np.argsort(place, kind="stable")]


def _given(split: Split, ids: list[str], base: Path) -> dict[str, Rows]:
    index = {name: i for i, name in enumerate(ids)}
    found: dict[str, Rows] = {}
    for name, file in split.files.items():
        try:
            text = (base / file).read_text(encoding="utf-8")
        except OSError as e:
            raise RecipeError(
                f"`split: files: {name}:` cannot be read: {base / file}.", "Check the path."
            ) from e
        wanted = [line.strip() for line in text.splitlines() if line.strip()]
        unknown = [i for i in wanted if i not in index]
        if unknown:
            raise RecipeError(
                f"{file} names samples that the data has not: {', '.join(unknown[:_SHOWN])}.",
                f"Write ids as the data gives them, such as {ids[0]!r}, one a line.",
            )
        found[name] = np.array(sorted({index[i] for i in wanted}), dtype=np.intp)
    _refuse_overlap(found, ids)
    return found


def _refuse_overlap(found: Mapping[str, Rows], ids: list[str]) -> None:
    names = list(found)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = np.intersect1d(found[first], found[second])
            if len(both):
                shown = ", ".join(ids[j] for j in both[:_SHOWN])
                raise RecipeError(
                    f"The splits {first} and {second} overlap in {len(both)} samples: {shown}.",
                    "Give each sample to one split only.",
                )
