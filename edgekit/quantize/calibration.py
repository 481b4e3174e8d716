"""Calibration data: read once from a stream, checked, kept on disk, replayed as often as needed.

Quantization reads its samples several times (statistics, bias correction, ranges), and the caller's
stream can be read once; samples of a large network do not fit in memory together.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from tempfile import TemporaryFile
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.lower.check import Arrays, Runner

if TYPE_CHECKING:
    from edgekit.artifact import TensorSpec
    from edgekit.progress import Task


class Samples:
    """Checked calibration samples, in a temporary file that goes when this is closed.

    Attributes:
        count: samples held.
    """

    def __init__(self, inputs: tuple["TensorSpec", ...]) -> None:
        self.count = 0
        self._ranges: dict[str, tuple[float, float]] = {}
        self._inputs = inputs
        self._rows = _rows_at_once(inputs)
        self._feeds = 0
        self._held: list[Arrays] = []
        self._file = TemporaryFile()  # noqa: SIM115 - closed by `close`

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete the temporary file."""
        self._file.close()

    def read(self, batches: Iterable[Mapping[str, NDArray[Any]]], limit: int, task: "Task") -> None:
        """Take up to `limit` samples from a stream.

        Args:
            batches: input arrays by name, first axis the batch.
            limit: samples to take.
            task: is moved on by one for each sample.

        Raises:
            UsageError: no sample, a wrong name, dtype or shape, or NaN or infinity; names the
                input and the sample.
        """
        for batch in batches:
            feed = self._matched(batch)
            for row in _split(feed, self._rows is not None):
                if self.count == limit:
                    return
                self._check(row)
                self.count += 1
                task.advance(1)
                self._keep(row)
        if self.count == 0:
            raise UsageError(
                "There is no calibration sample.", "Give some in `data: split: calibration:`."
            )
        if self._held:  # a fixed batch: fill up with the last sample
            self._write(self._held + [self._held[-1]] * ((self._rows or 1) - len(self._held)))

    def __iter__(self) -> Iterator[Arrays]:
        """The samples as feeds, in the batch size that the model wants (1 where it is free)."""
        self._file.seek(0)
        for _ in range(self._feeds):
            yield {spec.name: np.load(self._file, allow_pickle=False) for spec in self._inputs}

    @property
    def constant(self) -> tuple[str, ...]:
        """Inputs that have one and the same value everywhere, over all samples."""
        return tuple(name for name, (low, high) in self._ranges.items() if low == high)

    def first(self, count: int) -> "First":
        """The first `count` feeds, as often as wanted."""
        return First(self, count)

    def __len__(self) -> int:
        """How many feeds there are."""
        return self._feeds

    def _matched(self, batch: Mapping[str, NDArray[Any]]) -> Arrays:
        names = [spec.name for spec in self._inputs]
        if len(names) == 1 and len(batch) == 1:
            return {names[0]: np.asarray(next(iter(batch.values())))}
        missing = [name for name in names if name not in batch]
        if missing:
            raise UsageError(
                f"The calibration data has no {', '.join(map(repr, missing))}; "
                f"it has {', '.join(batch)}.",
                "Name the data's inputs as the model's.",
            )
        return {name: np.asarray(batch[name]) for name in names}

    def _check(self, row: Arrays) -> None:
        for spec in self._inputs:
            value = row[spec.name]
            if value.dtype != np.dtype(spec.dtype):
                raise UsageError(
                    f"Calibration input {spec.name!r} is {value.dtype}; the model takes "
                    f"{spec.dtype}.",
                    "Convert it in the data's preprocessing.",
                )
            if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
                raise UsageError(
                    f"Calibration sample {self.count} of input {spec.name!r} holds NaN or "
                    "infinity.",
                    "Remove or mend the sample: ranges cannot be taken from it.",
                )
            self._see(spec.name, value)
            fixed = spec.shape if self._rows is None else spec.shape[1:]
            have = value.shape if self._rows is None else value.shape[1:]
            if len(have) != len(fixed) or any(
                isinstance(w, int) and w != h for w, h in zip(fixed, have, strict=True)
            ):
                raise UsageError(
                    f"Calibration input {spec.name!r} has shape {list(value.shape)}; the model "
                    f"takes {list(spec.shape)}.",
                    "Mend the data's preprocessing.",
                )
        self._check_named(row)

    def _see(self, name: str, value: NDArray[Any]) -> None:
        if value.size:
            low, high = self._ranges.get(name, (np.inf, -np.inf))
            self._ranges[name] = min(low, float(value.min())), max(high, float(value.max()))

    def _check_named(self, row: Arrays) -> None:
        """Hold the sizes of named dimensions against each other, and multiples against theirs."""
        sizes: dict[str, int] = {}
        for spec in self._inputs:
            for axis, (dim, size) in enumerate(zip(spec.shape, row[spec.name].shape, strict=True)):
                if isinstance(dim, int) or (axis == 0 and self._rows is not None):
                    continue
                factor, star, name = dim.replace(" ", "").partition("*")
                if not star:
                    factor, name = "1", dim
                if not factor.isdigit() or int(factor) == 0:
                    continue
                wanted = sizes.setdefault(name, size // int(factor)) * int(factor)
                if size != wanted:
                    raise UsageError(
                        f"Calibration input {spec.name!r} has size {size} at axis {axis}, which "
                        f"the model calls {dim!r}; {wanted} would fit.",
                        "Mend the data's preprocessing.",
                    )

    def _keep(self, row: Arrays) -> None:
        if (self._rows or 1) == 1:
            self._write([row])
            return
        self._held.append(row)
        if len(self._held) == self._rows:
            self._write(self._held)
            self._held = []

    def _write(self, rows: list[Arrays]) -> None:
        for spec in self._inputs:
            values = [row[spec.name] for row in rows]
            joined = values[0] if len(values) == 1 else np.concatenate(values)
            np.save(self._file, np.ascontiguousarray(joined), allow_pickle=False)
        self._feeds += 1


class First:
    """The first few feeds of some samples."""

    def __init__(self, samples: Samples, count: int) -> None:
        self._samples, self._count = samples, count

    def __iter__(self) -> Iterator[Arrays]:
        return islice(iter(self._samples), self._count)


def _rows_at_once(inputs: tuple["TensorSpec", ...]) -> int | None:
    """Samples a feed: 1 for a free batch, its size for a fixed one, None where there is none."""
    first = {spec.shape[0] if spec.shape else None for spec in inputs}
    if None in first or len(first) != 1:
        return None
    size = first.pop()
    return size if isinstance(size, int) else 1


def _split(feed: Arrays, by_row: bool) -> Iterator[Arrays]:
    if not by_row:
        yield feed
        return
    counts = {value.shape[0] if value.ndim else 0 for value in feed.values()}
    if len(counts) != 1:
        raise UsageError(
            f"Calibration inputs have different batch sizes: {sorted(counts)}.",
            "Give each input one row a sample.",
        )
    for i in range(counts.pop()):
        yield {name: value[i : i + 1] for name, value in feed.items()}


def extremes(runner: Runner, feeds: Iterable[Arrays]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every output of a model over all feeds, one at a time.

    Args:
        runner: a model whose outputs are the tensors of interest.
        feeds: its inputs.
    """
    found: dict[str, tuple[float, float]] = {}
    for feed in feeds:
        for name, value in runner(feed).items():
            if value.size:
                low, high = found.get(name, (float("inf"), float("-inf")))
                found[name] = min(low, float(value.min())), max(high, float(value.max()))
    return found


def signal_to_noise_db(
    reference: Runner, other: Runner, feeds: Iterable[Arrays]
) -> dict[str, float]:
    """Signal to quantization noise ratio of each floating output, 10·log10(Σr²/Σ(r-x)²), decibels.

    Args:
        reference: the float model.
        other: the quantized model.
        feeds: their inputs.

    Returns:
        By output; infinity where the two are equal.
    """
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for feed in feeds:
        right, got = reference(feed), other(feed)
        for name, value in right.items():
            if np.issubdtype(value.dtype, np.floating):
                r, g = value.astype(np.float64), got[name].astype(np.float64)
                signal[name] = signal.get(name, 0.0) + float(np.square(r).sum())
                noise[name] = noise.get(name, 0.0) + float(np.square(r - g).sum())
    return {
        name: 10 * float(np.log10(signal[name] / n)) if n > 0 and signal[name] > 0 else float("inf")
        for name, n in noise.items()
    }
