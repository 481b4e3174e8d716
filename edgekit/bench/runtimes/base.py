"""What the harness needs from a runtime, and nothing more.

A protocol, not a base class: an adapter shares no code with the others, and a test's fake is as
good as any. See `docs/` for how to add one: one file here, one line in `runtimes/__init__.py`, and
`tests/conformance/test_runtimes.py` passes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgekit.errors import UsageError

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Availability:
    """Whether something can be used here.

    Attributes:
        ok: it can.
        reason: what is missing, one sentence; what was found where `ok`.
        fix: how to get what is missing; empty where `ok`.
    """

    ok: bool
    reason: str
    fix: str = ""


@dataclass(frozen=True)
class IoSpec:
    """Name, NumPy dtype and shape of an input or output; a dynamic dimension is its name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def with_defaults(
    title: str, defaults: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a runtime, with its defaults where nothing is given.

    Args:
        title: the runtime's name for people.
        defaults: every option that it takes.
        options: what was given.

    Raises:
        UsageError: it has no such option.
    """
    for name in options:
        if name not in defaults:
            raise UsageError(
                f"{title} has no option {name!r} here.", f"Options: {', '.join(defaults)}."
            )
    return {**defaults, **options}


class Runtime(Protocol):
    """A loaded model, as a context manager: entering loads it, leaving frees it."""

    DEFAULTS: Mapping[str, Any]
    """Every option that it takes, with its default."""

    inputs: tuple[IoSpec, ...]
    outputs: tuple[IoSpec, ...]
    options: Mapping[str, Any]
    """Every option that the model runs with, the defaults included. JSON types only."""

    def __init__(self, model: Path, options: Mapping[str, Any]) -> None: ...

    @classmethod
    def probe(cls) -> Availability:
        """Say whether this runtime can run here. Never raises, and loads no model."""
        ...

    def __enter__(self) -> "Runtime":
        """Load the model.

        Raises:
            UsageError: the file is not a model that this runtime can load, or an option is wrong.
            UnavailableError: the runtime, a driver or a device is missing.
        """
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once and return every output by name, on the host."""
        ...

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Prepare the inputs, and return one inference as a call without arguments.

        The call ends when the outputs exist: it synchronises where the device is asynchronous.
        It is what the harness times.
        """
        ...

    def synchronize(self) -> None:
        """Wait until the device has nothing left to do."""
        ...


def check_feeds(inputs: tuple[IoSpec, ...], feeds: Feeds, model: Path) -> None:
    """Hold feeds against a model's inputs.

    Raises:
        UsageError: names the first input that is missing, unknown, or has another dtype or shape.
    """
    known = {spec.name for spec in inputs}
    for name in feeds:
        if name not in known:
            raise UsageError(
                f"{model.name} has no input {name!r}.", f"Its inputs: {', '.join(sorted(known))}."
            )
    sizes: dict[str, tuple[int, str]] = {}
    for spec in inputs:
        if spec.name not in feeds:
            raise UsageError(
                f"Input {spec.name!r} of {model.name} is not fed.",
                f"Give {spec.dtype}[{_shape_text(spec.shape)}].",
            )
        _check_one(spec, feeds[spec.name], sizes, model)


def _check_one(spec: IoSpec, array: Array, sizes: dict[str, tuple[int, str]], model: Path) -> None:
    what = f"Input {spec.name!r} of {model.name}"
    if array.dtype != np.dtype(spec.dtype):
        raise UsageError(f"{what} is {array.dtype}.", f"Give {spec.dtype}.")
    wanted = f"Give {spec.dtype}[{_shape_text(spec.shape)}]."
    given = _shape_text(array.shape)
    if len(array.shape) != len(spec.shape):
        raise UsageError(f"{what} has the shape [{given}].", wanted)
    for size, dim in zip(array.shape, spec.shape, strict=True):
        if isinstance(dim, int):
            if size != dim:
                raise UsageError(f"{what} has the shape [{given}].", wanted)
            continue
        before, where = sizes.setdefault(dim, (size, spec.name))
        if dim and before != size:
            raise UsageError(
                f"{what} has {dim} = {size}, and input {where!r} has {dim} = {before}.",
                "Give every input the same size of a dimension that they share.",
            )


def _shape_text(shape: tuple[int | str, ...]) -> str:
    return ", ".join(str(dim) if dim != "" else "?" for dim in shape)
