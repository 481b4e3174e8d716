"""Running `torch.export` with named dynamic dimensions, and reading the names back.

A dimension is written as people write it: `"batch"`, `"h"`, or a multiple such as `"32*h"`. Where a
network cannot be captured with a dimension left open, the dimension becomes static and a warning
says so, because a static program is worth more than none.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes

from edgekit.errors import EdgekitError, PassError, UsageError
from edgekit.graph.quiet import quiet
from edgekit.graph.recurrent import open_time

Axes = tuple[int | str, ...]

_NAME = re.compile(r"(?:(?P<before>\d+)\s*\*\s*)?(?P<name>[A-Za-z_]\w*)(?:\s*\*\s*(?P<after>\d+))?")
_ATTEMPTS = 4


@dataclass(frozen=True)
class Trace:
    """What `trace` found.

    Attributes:
        exported: the program, in the training IR.
        names: symbol (`s31`) to the name of the dimension (`batch`).
        warnings: dimensions that did not stay as they were asked for, one sentence each.
    """

    exported: ExportedProgram
    names: dict[str, str]
    warnings: tuple[str, ...]


def parse_dim(text: str) -> tuple[int, str]:
    """Read a dynamic dimension.

    Args:
        text: a name, or a multiple of one: `batch`, `32*h`.

    Returns:
        The multiple (1 for a bare name) and the name.

    Raises:
        UsageError: neither a name nor a multiple of one.

    >>> parse_dim("32*h")
    (32, 'h')
    """
    found = _NAME.fullmatch(text.strip())
    factor = 0
    if found is not None and not (found["before"] and found["after"]):
        factor = int(found["before"] or found["after"] or 1)
    if found is None or not 1 <= factor < 2**31:
        raise UsageError(
            f"{text!r} is not a dimension.", "Write a name such as `batch`, or a multiple: `32*h`."
        )
    return factor, found["name"]


def fit(name: str, tensor: Tensor, axes: Axes) -> Tensor:
    """Raise an example along the dynamic axes that would specialise: from one unit to two.

    `torch.export` takes a dimension of 1 for a constant, so a batch of 1 is repeated.

    Args:
        name: the input's name, for messages.
        tensor: an example, any shape and dtype.
        axes: one entry an axis: its size, or the name of a dynamic dimension.

    Returns:
        The example, repeated where it must be.

    Raises:
        UsageError: `axes` does not describe `tensor`.
    """
    if len(axes) != tensor.dim():
        raise UsageError(
            f"The dynamic dimensions of input {name!r} have {len(axes)} entries, "
            f"and the example has {tensor.dim()} axes.",
            f"Give one entry an axis; the example's shape is {tuple(tensor.shape)}.",
        )
    for axis, entry in enumerate(axes):
        size = tensor.shape[axis]
        if isinstance(entry, int):
            if entry != size:
                raise UsageError(
                    f"Axis {axis} of input {name!r} is declared {entry}, the example has {size}.",
                    "Make the declaration and the example agree.",
                )
            continue
        factor, _ = parse_dim(entry)
        if size % factor or size == 0:
            raise UsageError(
                f"Axis {axis} of input {name!r} is declared {entry!r}, the example has {size}.",
                f"Give an example whose axis {axis} is a multiple of {factor}.",
            )
        if size == factor:
            tensor = torch.cat([tensor, tensor], dim=axis)
    return tensor


def trace(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    axes: Mapping[str, Axes],
    export: Callable[..., ExportedProgram] = torch.export.export,
) -> Trace:
    """Export `module`, whose forward takes the tensors of `inputs` in that order.

    Args:
        module: in the mode that is to be captured.
        inputs: name to example, already fitted by `fit`.
        axes: for each input, its axes: sizes, and names of dynamic dimensions.
        export: `torch.export.export`, or something that takes the same arguments.

    Raises:
        UsageError: inputs disagree about a dimension that they share.
        PassError: `torch.export` cannot capture the module; the message carries the reason.
    """
    _check_shared(inputs, axes)
    args = tuple(inputs.values())
    shapes: Any = tuple(_dim_objects(axes[name]) for name in inputs)
    failure: Exception | None = None
    for _ in range(_ATTEMPTS):
        try:
            return _named(run_export(export, module, args, shapes), axes)
        except EdgekitError:
            raise
        except Exception as e:  # noqa: BLE001 - any error of the model's own code comes through
            failure = failure or e
            if (refined := _refine(e, shapes)) is None:
                break
            shapes = refined
    for kept in _fewer_dims(axes):
        shapes = tuple(_dim_objects(kept[name]) for name in inputs)
        try:
            return _named(run_export(export, module, args, shapes), axes)
        except Exception:  # noqa: BLE001, S112 - the first failure is the one worth telling
            continue
    raise capture_error(failure) from failure


def run_export(
    export: Callable[..., ExportedProgram], module: nn.Module, args: tuple[Any, ...], shapes: Any
) -> ExportedProgram:
    """Export without third parties' warnings, and with gradients on (fast paths drop dropout)."""
    with quiet(), torch.enable_grad(), open_time():
        return export(module, args, dynamic_shapes=shapes, strict=False)


def capture_error(error: Exception | None) -> PassError:
    """The essence of what `torch.export` said, without its pages of traceback."""
    lines = [line.strip() for line in str(error).splitlines()]
    noise = (
        "For more information",
        "The error above occurred",
        "Suggested fixes",
        "While executing",
    )
    kept = [line for line in lines if line and not line.startswith(noise)][:3]
    text = " ".join(kept)[:600] or "no reason given"
    hint = "Make the forward free of data-dependent control flow and of shapes that depend on data."
    if isinstance(error, RuntimeError | TypeError | ValueError) and "Dynamo" not in repr(error):
        hint = "Run the module on the example first: its own code raised this."
    return PassError(f"The module cannot be captured: {type(error).__name__}: {text}", hint)


def _check_shared(inputs: Mapping[str, Tensor], axes: Mapping[str, Axes]) -> None:
    """Every use of a dimension's name stands for one size."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, tensor in inputs.items():
        for axis, entry in enumerate(axes[name]):
            if isinstance(entry, int):
                continue
            factor, dim = parse_dim(entry)
            here = (tensor.shape[axis] // factor, f"axis {axis} of {name!r}")
            size, where = sizes.setdefault(dim, here)
            if size != here[0]:
                raise UsageError(
                    f"Dimension {dim!r} is {size} in {where} and {here[0]} in {here[1]}.",
                    "Give dimensions that may differ different names.",
                )


def _dim_objects(axes: Axes) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for axis, entry in enumerate(axes):
        if isinstance(entry, str):
            factor, name = parse_dim(entry)
            found[axis] = Dim(name) if factor == 1 else factor * Dim(name)
    return found


def _refine(error: Exception, shapes: Any) -> Any:
    """Follow torch's own suggestion: a multiple, a bound, a constant; None where it has none."""
    if "Suggested fixes" not in str(error):
        return None
    try:
        return refine_dynamic_shapes_from_suggested_fixes(str(error), shapes)
    except Exception:  # noqa: BLE001 - it parses a message; when it cannot, static is the answer
        return None


def _fewer_dims(axes: Mapping[str, Axes]) -> list[dict[str, Axes]]:
    """Sets of axes with fewer open dimensions, best first; the last one is static."""
    dims = list(
        dict.fromkeys(parse_dim(e)[1] for a in axes.values() for e in a if isinstance(e, str))
    )
    keep = [[d for d in dims if d != one] for one in reversed(dims)] if len(dims) > 2 else []
    keep += [[one] for one in dims] if len(dims) > 1 else []
    keep.append([])

    def only(kept: list[str]) -> dict[str, Axes]:
        return {
            name: tuple(
                e if isinstance(e, str) and parse_dim(e)[1] in kept else -1 for e in entries
            )
            for name, entries in axes.items()
        }

    return [only(kept) for kept in keep]


def _named(exported: ExportedProgram, axes: Mapping[str, Axes]) -> Trace:
    """Match the symbols of the captured inputs with the names that were asked for."""
    nodes = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    names: dict[str, str] = {}
    notes: list[str] = []
    for (name, asked), placeholder in zip(
        axes.items(), exported.graph_signature.user_inputs, strict=True
    ):
        shape = nodes[str(placeholder)].meta["val"].shape
        for axis, (entry, size) in enumerate(zip(asked, shape, strict=True)):
            if not isinstance(entry, str):
                continue
            factor, dim = parse_dim(entry)
            if isinstance(size, int):
                notes.append(
                    f"Axis {axis} of input {name!r} was asked to be {entry!r}; "
                    f"the network only captures with {size}. If it does take others, ask for"
                    f" multiples, such as '8*{dim}'."
                )
                continue
            expression = size.node.expr
            symbols = sorted(expression.free_symbols, key=str)
            names.setdefault(str(symbols[0]), dim)
            if expression != factor * symbols[0]:
                notes.append(
                    f"Axis {axis} of input {name!r} was asked to be {entry!r}; "
                    f"the network needs {shape_text(size, names)!r}."
                )
    return Trace(exported, names, tuple(dict.fromkeys(notes)))


def shape_text(size: int | torch.SymInt, names: Mapping[str, str]) -> int | str:
    """A size as a `TensorSpec` writes it: an integer, a name, or an expression of names."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    if expression.is_Integer:
        return int(expression)
    renamed = expression.xreplace(
        {s: sympy.Symbol(names.get(str(s), str(s)), integer=True) for s in expression.free_symbols}
    )
    return str(renamed)
