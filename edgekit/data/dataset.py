"""A data set: samples with stable ids, in three disjoint splits, given out in batches."""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifact import TensorSpec
from edgekit.data import sources
from edgekit.data.config import DataConfig, Preprocess
from edgekit.data.images import ImageFiles
from edgekit.data.sources import Samples
from edgekit.data.splits import draw, shuffled
from edgekit.errors import UsageError

Array = NDArray[Any]
Column = Array | ImageFiles
_SHOWN = 5


@dataclass
class Batch:
    """Some samples.

    Attributes:
        ids: their ids.
        inputs: by name; first axis the sample, floats as float32, preprocessed.
        targets: one row a sample, None without targets.
    """

    ids: list[str]
    inputs: dict[str, Array]
    targets: Array | None


class Dataset:
    """Samples with stable ids in disjoint splits.

    Args:
        samples: all samples.
        config: how they are prepared and split.
        base: the folder that the split's id files are relative to.

    Raises:
        UsageError: the data is empty, uneven, or holds NaN or infinity.
        RecipeError: the splits overlap or are larger than the data.
    """

    def __init__(self, samples: Samples, config: DataConfig, base: Path) -> None:
        _check(samples)
        if config.limit is not None and config.limit < len(samples.ids):
            samples = _limited(samples, config.limit, config.split.seed)
        self._samples = samples
        self._preprocess = config.preprocess
        self.config, self.base = config, base
        self._dtypes: dict[str, str] = {}
        self.ids = samples.ids
        self.targets = samples.targets
        self.classes = samples.classes
        self.splits = draw(config.split, samples.ids, samples.targets, base)
        self.content_hash = _hash(samples, config.preprocess)

    def __len__(self) -> int:
        """Count all samples."""
        return len(self.ids)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What a network is fed: the first axis is `batch`."""
        return tuple(
            TensorSpec(
                name=name,
                dtype=str(self._given(name, array[:1]).dtype),
                shape=("batch", *array.shape[1:]),
            )
            for name, array in self._samples.inputs.items()
        )

    def count(self, split: str) -> int:
        """How many samples a split has."""
        return len(self.splits[split])

    def batches(
        self,
        split: str,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Give out a split in batches.

        Args:
            split: `calibration`, `train` or `evaluation`.
            batch_size: samples at once.
            shuffle_seed: shuffle with this seed; None keeps the split's order.
            drop_last: leave out a last batch that is not full.
        """
        rows = self.splits[split]
        if shuffle_seed is not None:
            rows = np.random.default_rng(shuffle_seed).permutation(rows)
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            if drop_last and len(chosen) < batch_size:
                return
            yield self.rows(chosen)

    def for_model(self, specs: Sequence[TensorSpec]) -> "Dataset":
        """The same samples under a network's input names, in its order and dtypes.

        A single input takes a single array whatever their names; others match by name.

        Args:
            specs: what the network takes.

        Raises:
            UsageError: an input has no array, or one whose shape or dtype does not fit.
        """
        have = {spec.name: spec for spec in self.inputs}
        names = {spec.name: spec.name for spec in specs}
        if len(names) == 1 and len(have) == 1:
            names = dict(zip(names, have, strict=True))
        missing = [repr(name) for name, source in names.items() if source not in have]
        if missing:
            raise UsageError(
                f"The data has no {', '.join(missing)}; it has {', '.join(have)}.",
                "Name the data's inputs as the network's, in `data: inputs:`.",
            )
        for spec in specs:
            _check_fit(spec, have[names[spec.name]])
        found = copy.copy(self)
        arrays = {name: self._samples.inputs[source] for name, source in names.items()}
        found._samples = replace(self._samples, inputs=arrays)
        found._dtypes = {spec.name: spec.dtype for spec in specs}
        return found

    def part(self, share: float, seed: int) -> "Dataset":
        """The same data set with a share of its training samples.

        Classes keep their shares, and a smaller part is part of each larger one.

        Args:
            share: between 0 and 1.
            seed: of the draw.

        Raises:
            UsageError: that is fewer than two samples.
        """
        rows = self.splits["train"]
        count = round(share * len(rows))
        if count < 2:
            raise UsageError(
                f"A share of {share:g} of {len(rows)} training samples is {count}: too few.",
                "Give a larger share, or more training samples.",
            )
        found = copy.copy(self)
        chosen = shuffled(rows.tolist(), self.targets, seed)[:count]
        found.splits = {**self.splits, "train": np.sort(chosen)}
        return found

    def rows(self, chosen: NDArray[np.intp]) -> Batch:
        """Prepare the samples at these row indices."""
        return Batch(
            ids=[self.ids[i] for i in chosen],
            inputs={
                name: self._given(name, array[chosen])
                for name, array in self._samples.inputs.items()
            },
            targets=None if self.targets is None else self.targets[chosen],
        )

    def _given(self, name: str, array: Array) -> Array:
        prepared = _prepared(array, self._preprocess)
        return prepared.astype(self._dtypes.get(name, prepared.dtype), copy=False)

    def summary(self) -> dict[str, Any]:
        """What a manifest says of the data: source, hash, and each split's count and ids' hash."""
        config = self.config
        source = next(n for n in ("npz", "folder", "csv", "python") if getattr(config, n))
        name = str(getattr(config, source))
        return {
            "source": f"{source}: {name if source == 'python' else Path(name).name}",
            "content_hash": self.content_hash,
            "samples": len(self),
            "split_seed": config.split.seed,
            "splits": {
                split: {
                    "count": len(rows),
                    "ids_sha256": hashlib.sha256(
                        "\n".join(self.ids[i] for i in rows).encode()
                    ).hexdigest(),
                }
                for split, rows in self.splits.items()
            },
        }


def open_data(config: DataConfig, base: Path) -> Dataset:
    """Open a data set.

    Args:
        config: a recipe's `data:` section.
        base: the recipe's folder, which relative paths start from.

    Raises:
        UsageError: the data is missing, empty, uneven, or holds NaN or infinity.
        RecipeError: the splits overlap or are larger than the data.
    """
    return Dataset(sources.read(config, base), config, base)


def _check_fit(wanted: TensorSpec, have: TensorSpec) -> None:
    rank = {"bool": 0, "uint": 1, "int": 1, "float": 2, "bfloat": 2}
    kinds = [rank[spec.dtype.rstrip("0123456789")] for spec in (wanted, have)]
    sizes = zip(wanted.shape[1:], have.shape[1:], strict=False)
    same = len(wanted.shape) == len(have.shape)
    if kinds[1] > kinds[0] or not same or any(isinstance(a, int) and a != b for a, b in sizes):
        hint = "Store the samples so, or prepare them with `data: preprocess:`."
        if not wanted.shape or have.shape[1:] == wanted.shape:
            hint = (
                "This input has no axis of samples (a state, a sampling rate): make it a constant"
                " of the network."
            )
        raise UsageError(f"The network takes {wanted}, and the data gives {have}.", hint)


def _check(samples: Samples) -> None:
    count = len(samples.ids)
    lengths = {f"input {name!r}": len(array) for name, array in samples.inputs.items()}
    if samples.targets is not None:
        lengths["targets"] = len(samples.targets)
    if not samples.inputs or count == 0 or 0 in lengths.values():
        raise UsageError("The data is empty.", "Give at least one sample.")
    uneven = {what: n for what, n in lengths.items() if n != count}
    if uneven:
        what, n = next(iter(uneven.items()))
        raise UsageError(
            f"The data is uneven: {what} has {n} samples, the ids {count}.",
            "Give every input, the targets and the ids one row a sample.",
        )
    if len(set(samples.ids)) < count:
        seen: set[str] = set()
        twice = next(i for i in samples.ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise UsageError(f"The sample id {twice!r} stands twice.", "Make ids unique.")
    named: dict[str, Column] = dict(samples.inputs)
    if samples.targets is not None:
        named["targets"] = samples.targets
    for name, array in named.items():
        _check_finite(name, array, samples.ids)


def _check_finite(name: str, array: Column, ids: list[str]) -> None:
    if isinstance(array, ImageFiles) or array.dtype.kind != "f":
        return
    # A sum is finite exactly when nothing in it is NaN and no infinities are left uncancelled;
    # it is cheap, and only data that fails it is looked at closely.
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):
            return
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if len(bad):
        shown = ", ".join(f"{ids[i]} (row {i})" for i in bad[:_SHOWN])
        raise UsageError(
            f"{len(bad)} samples of {name!r} hold NaN or infinity: {shown}.",
            "Mend or remove these samples.",
        )


def _limited(samples: Samples, limit: int, seed: int) -> Samples:
    rows = np.sort(shuffled(list(range(len(samples.ids))), samples.targets, seed)[:limit])
    return Samples(
        {
            name: array.take(rows) if isinstance(array, ImageFiles) else array[rows]
            for name, array in samples.inputs.items()
        },
        None if samples.targets is None else samples.targets[rows],
        [samples.ids[i] for i in rows],
        samples.classes,
    )


def _prepared(array: Array, preprocess: Preprocess) -> Array:
    """Floats and, where anything is to be done to them, images as float32; indices as they are."""
    touched = preprocess.scale is not None or preprocess.mean is not None
    touched = touched or preprocess.std is not None or array.dtype == np.uint8
    if array.dtype.kind != "f" and not touched:
        return array.astype(np.int64) if array.dtype.kind in "iu" else array
    out = array.astype(np.float32)
    if preprocess.scale is not None:
        out *= np.float32(preprocess.scale)
    if preprocess.mean is not None:
        out -= _per_channel(preprocess.mean, out, preprocess.layout)
    if preprocess.std is not None:
        out /= _per_channel(preprocess.std, out, preprocess.layout)
    return np.ascontiguousarray(out)


def _per_channel(values: tuple[float, ...], like: Array, layout: str) -> Array:
    if len(values) == 1:
        return np.array(values, dtype=np.float32)
    axis = 1 if layout == "nchw" else like.ndim - 1
    if like.ndim < 2 or like.shape[axis] != len(values):
        raise UsageError(
            f"`preprocess` has {len(values)} channel values for data of shape {like.shape[1:]}.",
            "Give one value, or one for each channel.",
        )
    shape = [1] * like.ndim
    shape[axis] = len(values)
    return np.array(values, dtype=np.float32).reshape(shape)


def _hash(samples: Samples, preprocess: Preprocess) -> str:
    digest = hashlib.sha256(preprocess.model_dump_json().encode())
    arrays: dict[str, Column] = dict(samples.inputs)
    if samples.targets is not None:
        arrays["\0targets"] = samples.targets
    for name, array in arrays.items():
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        if isinstance(array, ImageFiles):
            digest.update(array.digest)
        else:
            digest.update(np.ascontiguousarray(array).data)
    digest.update("\n".join((*samples.ids, *(samples.classes or ()))).encode())
    return digest.hexdigest()
