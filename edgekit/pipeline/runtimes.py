"""Every runtime by its name: those of the benchmark, and torch, which runs captured programs.

The benchmark travels to devices without the graph package, so torch is not among its own runtimes.
"""

import difflib
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, cast

from edgekit import extras
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.bench import Subject
    from edgekit.bench.measure import Opener
    from edgekit.bench.runtimes import Availability, Runtime

TORCH = {
    "torch": "edgekit.graph.runtime:Torch",
    "torch-compile": "edgekit.graph.runtime:TorchCompile",
}


def names() -> list[str]:
    """The names of all runtimes."""
    from edgekit.bench.runtimes import RUNTIMES

    return [*RUNTIMES, *TORCH]


def check_name(name: str) -> None:
    """Refuse a runtime that does not exist.

    Raises:
        UsageError: the hint names the nearest.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"There is no runtime {name!r}.", f"{guess}Runtimes: {', '.join(known)}.")


def runtime_class(name: str) -> "type[Runtime]":
    """The class of a runtime; its own library is imported for torch only.

    Raises:
        UsageError: there is no such runtime.
        UnavailableError: it is torch's, and torch is not installed.
    """
    check_name(name)
    if name not in TORCH:
        from edgekit.bench import runtimes

        return runtimes.runtime_class(name)
    module, _, cls = TORCH[name].partition(":")
    try:
        return cast("type[Runtime]", getattr(import_module(module), cls))
    except ModuleNotFoundError as e:
        if (missing := extras.missing(e)) is None:
            raise
        raise missing from e


def probe(name: str) -> "Availability":
    """What a runtime says about this machine."""
    from edgekit.bench.runtimes import Availability
    from edgekit.errors import UnavailableError

    try:
        return runtime_class(name).probe()
    except UnavailableError as e:
        return Availability(ok=False, reason=e.message, fix=e.hint)


def opener_for(subjects: "Sequence[Subject]", imports: Sequence[str] = ()) -> "Opener":
    """What opens the subjects' runtimes; torch is only touched where a subject needs it."""
    from edgekit.bench.measure import open_runtime

    if not any(each.runtime in TORCH for each in subjects):
        return open_runtime
    from edgekit.graph.runtime import torch_opener

    return torch_opener(imports)
