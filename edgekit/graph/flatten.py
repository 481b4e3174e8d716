"""Nested inputs and outputs as flat, named tensors.

A program whose output is a dataclass does not reload in a fresh process, and no other format knows
of one; so a captured network takes and returns tensors, and their names say where they were.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from edgekit.errors import UsageError


def flatten(value: Any, name: str = "") -> tuple[list[tuple[str, Tensor]], list[str]]:
    """Flatten dictionaries, dataclasses, lists and tuples of tensors.

    Args:
        value: what a forward takes or returns.
        name: what `value` itself is called.

    Returns:
        Named tensors in order, and the names of what is not a tensor (`None` is not mentioned).

    Raises:
        UsageError: a key-value cache, a packed sequence or a complex tensor.
    """
    refuse(value, name)
    if isinstance(value, Tensor):
        return [(identifier(name or "output"), value)], []
    if value is None:
        return [], []
    children = _children(value)
    if children is None:
        return [], [f"{name or 'output'} ({type(value).__name__})"]
    single = len(children) == 1 and not isinstance(value, Mapping)
    found: list[tuple[str, Tensor]] = []
    others: list[str] = []
    for key, child in children:
        if isinstance(key, int):
            inner = name if single else f"{name or 'output'}_{key}"
        else:
            inner = f"{name}_{key}" if name else key
        tensors, rest = flatten(child, inner)
        found += tensors
        others += rest
    return found, others


def _children(value: Any) -> list[tuple[str | int, Any]] | None:
    if isinstance(value, Mapping):
        return [(str(key), child) for key, child in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(field, getattr(value, field)) for field in value._fields]
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return None


def refuse(value: Any, name: str) -> None:
    """Refuse what no runtime of an edge device takes.

    Raises:
        UsageError: with the reason.
    """
    where = f"{name!r}" if name else "The output"
    if isinstance(value, PackedSequence):
        raise UsageError(
            f"{where} is a packed sequence, whose layout depends on the data.",
            "Take padded tensors and their lengths instead.",
        )
    kind = type(value).__name__
    if is_refused(value):
        raise UsageError(
            f"{where} is a key-value cache ({kind}), a state that grows from call to call.",
            "Capture the model without it (`use_cache=False`).",
        )
    if isinstance(value, Tensor) and value.is_complex():
        raise UsageError(
            f"{where} is complex ({value.dtype}), which ONNX and the runtimes do not compute.",
            "Use `torch.view_as_real` outside the captured module.",
        )
    if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_quantized):
        raise UsageError(
            f"{where} is a sparse or quantized tensor.", "Give plain (dense, strided) tensors."
        )


def is_refused(value: Any) -> bool:
    """Whether `value` is a container that is refused whole: a packed sequence or a cache."""
    return isinstance(value, PackedSequence) or type(value).__name__.endswith("Cache")


def identifier(text: str) -> str:
    """A name that every format takes: letters, digits and underscores.

    >>> identifier("layer.0/out")
    'layer_0_out'
    """
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    return name if re.match(r"[A-Za-z_]", name) else f"_{name}"


def unique(names: list[str], taken: set[str] | None = None) -> list[str]:
    """Make names distinct, from each other and from `taken`.

    >>> unique(["a", "a"], {"b"})
    ['a', 'a_1']
    """
    seen = set(taken or ())
    found = []
    for name in names:
        candidate, count = name, 0
        while candidate in seen:
            count += 1
            candidate = f"{name}_{count}"
        seen.add(candidate)
        found.append(candidate)
    return found
