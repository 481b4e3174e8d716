"""Inputs for a benchmark where the user gives none: random, seeded, and of the right shape."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import UsageError

Array = npt.NDArray[Any]
MAX_BYTES = 4 << 30

_TERM = re.compile(r"^(?:(\d+)\s*\*\s*)?([A-Za-z_]\w*)(?:\s*\*\s*(\d+))?$")


def random_feeds(
    inputs: Iterable[Any],
    batch: int = 1,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Array]:
    """Make one array for each input.

    Args:
        inputs: things with `name`, `dtype` and `shape`, or triples of them; a dimension is a size,
            a name (`h`) or a multiple of a name (`32*h`).
        batch: size of a dynamic first dimension that `dims` does not name.
        seed: of the draws.
        dims: sizes of named dimensions.
        ranges: lowest and highest value of an input, by its name. Without one, floating inputs are
            standard normal and integer inputs 0 or 1 (valid as an index into any table).

    Raises:
        UsageError: a dimension has no size, or an input would be larger than 4 GiB.
    """
    generator = np.random.default_rng(seed)
    feeds = {}
    for spec in inputs:
        name, dtype, shape = (
            spec if isinstance(spec, tuple) else (spec.name, spec.dtype, spec.shape)
        )
        sizes = [_size(dim, axis, name, batch, dims or {}) for axis, dim in enumerate(shape)]
        kind = np.dtype(dtype)
        if int(np.prod(sizes, dtype=object)) * kind.itemsize > MAX_BYTES:
            raise UsageError(f"Input {name!r} of shape {sizes} is over 4 GiB.", "Give less.")
        feeds[name] = _draw(generator, kind, sizes, (ranges or {}).get(name))
    return feeds


def _size(dim: int | str, axis: int, name: str, batch: int, dims: Mapping[str, int]) -> int:
    if isinstance(dim, int) and dim >= 0:
        return dim
    match = _TERM.match(str(dim))
    if match and match[2] in dims:
        return int(match[1] or 1) * int(match[3] or 1) * dims[match[2]]
    if axis == 0 and (not match or not (match[1] or match[3])):
        return batch
    raise UsageError(
        f"Dimension {axis} of input {name!r} ({dim or 'unnamed'}) is dynamic and has no size.",
        "Say how large it is (`--dim NAME=SIZE`), or give the inputs themselves.",
    )


def _draw(
    generator: np.random.Generator,
    dtype: np.dtype[Any],
    sizes: list[int],
    limits: tuple[float, float] | None,
) -> Array:
    if dtype.kind == "b":
        return generator.integers(0, 2, sizes).astype(dtype)
    if dtype.kind in "iu":
        low, high = limits or (0, 1)
        return generator.integers(int(low), int(high) + 1, sizes).astype(dtype)
    if limits:
        return generator.uniform(*limits, sizes).astype(dtype)
    return generator.standard_normal(sizes, dtype=np.float32).astype(dtype)
