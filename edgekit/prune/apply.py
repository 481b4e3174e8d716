"""Carries a pruned program back into the user's own module, where the module's source allows it.

A captured program has its sizes rewritten everywhere. A module's source may have sizes written into
it (`x.view(b, 64, 8)`), which nothing outside can change: then the module is refused and left as it
was.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from edgekit.errors import UsageError
from edgekit.graph.program import Program
from edgekit.prune.coupling import bind
from edgekit.prune.sensitivity import TRANSPOSED, kind_of

TOLERANCE = 1e-4
_MEND = "Use the pruned program itself: it needs no source."


def apply_to(module: nn.Module, small: Program, *, seed: int = 0) -> None:
    """Give a module the weights and sizes of its pruned program, in place.

    Args:
        module: what the program was captured from; eval or training mode is kept.
        small: the pruned program.
        seed: of the inputs that both are compared on.

    Raises:
        UsageError: the module has other weights, holds a part whose size edgekit cannot set, or
            does not compute what the program does afterwards; the module is then as it was.
    """
    tensors = _tensors(small)
    own = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    for name in own:
        if name not in tensors:
            raise UsageError(f"The pruned program has no tensor {name!r}.", _MEND)
    undo: list[Callable[[], None]] = []
    try:
        _replace(module, own, tensors, undo)
        _resize(module, small, undo)
        _compare(module, small, seed)
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def _tensors(small: Program) -> dict[str, Tensor]:
    made = small.module()
    return {
        **dict(made.named_parameters(remove_duplicate=False)),
        **dict(made.named_buffers(remove_duplicate=False)),
    }


def _replace(
    module: nn.Module,
    own: dict[str, Tensor],
    tensors: dict[str, Tensor],
    undo: list[Callable[[], None]],
) -> None:
    """Put the small tensors in; one tensor under several names stays one."""
    made: dict[int, Tensor] = {}
    for name, old in own.items():
        fresh = made.get(id(old))
        if fresh is None:
            value = tensors[name].detach().clone().to(old.device, old.dtype)
            fresh = (
                nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
            )
            made[id(old)] = fresh
        owner_name, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        undo.append(_setter(owner, leaf, old))
        setattr(owner, leaf, fresh)


def _setter(owner: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(owner, name, value)


def _resize(module: nn.Module, small: Program, undo: list[Callable[[], None]]) -> None:
    """Set the attributes that say how large a part is."""
    uses, parted = _uses(small), _parted(small)
    for name, part in module.named_modules():
        sizes = _sizes(part, uses.get(f"{name}.weight" if name else "weight"))
        if isinstance(part, nn.Unflatten) and name in parted:
            sizes = {"unflattened_size": parted[name]}
        if sizes is None and any(True for _ in part.parameters(recurse=False)):
            _refuse(name, part)
        for attribute, value in (sizes or {}).items():
            undo.append(_setter(part, attribute, getattr(part, attribute)))
            setattr(part, attribute, value)
        if isinstance(part, nn.RNNBase):
            part.flatten_parameters()


def _refuse(name: str, part: nn.Module) -> None:
    """A part that cannot be told its sizes; one of an unknown kind may not need to be."""
    if isinstance(part, nn.MultiheadAttention):
        raise UsageError(
            f"{name or 'The module'} is a MultiheadAttention, whose heads must divide its width.",
            _MEND,
        )


def _uses(small: Program) -> dict[str, dict[str, Any]]:
    """By weight's name, the arguments of the operator that reads it."""
    found = {}
    for node in small.module().graph.nodes:
        if kind_of(node):
            given = bind(node)
            weight = given.get("weight")
            if isinstance(weight, Node) and weight.op == "get_attr":
                found[str(weight.target)] = {**given, "kind": kind_of(node)}
    return found


def _parted(small: Program) -> dict[str, tuple[int, ...]]:
    """By the path of an `nn.Unflatten`, the sizes that it now parts a dimension into."""
    found = {}
    paths = small.name_map()
    for node in small.exported.graph.nodes:
        if node.target is torch.ops.aten.unflatten.int and node.name in paths:
            sizes = bind(node)["sizes"]
            if all(isinstance(size, int) for size in sizes):
                found[paths[node.name]] = tuple(sizes)
    return found


def _sizes(part: nn.Module, use: dict[str, Any] | None) -> dict[str, Any] | None:
    """Attributes of a part of a known kind, read off its weights; None for other kinds."""
    weight = getattr(part, "weight", None)
    if isinstance(part, nn.Linear):
        return {"out_features": part.weight.shape[0], "in_features": part.weight.shape[1]}
    if isinstance(part, nn.modules.conv._ConvNd) and use is not None:
        first, second, groups = *part.weight.shape[:2], int(use.get("groups", 1))
        inward, outward = (first, second * groups) if use["kind"] in TRANSPOSED else (
            second * groups, first,
        )  # fmt: skip
        return {"in_channels": inward, "out_channels": outward, "groups": groups}
    if isinstance(part, nn.modules.batchnorm._NormBase):
        size = weight if weight is not None else part.running_mean
        return {} if size is None else {"num_features": size.shape[0]}
    if isinstance(part, nn.GroupNorm) and use is not None:
        return {"num_channels": part.weight.shape[0], "num_groups": use["num_groups"]}
    if isinstance(part, nn.LayerNorm | nn.RMSNorm) and weight is not None:
        return {"normalized_shape": tuple(weight.shape)}
    if isinstance(part, nn.Embedding):
        return {"num_embeddings": part.weight.shape[0], "embedding_dim": part.weight.shape[1]}
    if isinstance(part, nn.RNNBase):
        reads, recurs = (tuple(getattr(part, f"weight_{n}_l0").shape) for n in ("ih", "hh"))
        gates = {"LSTM": 4, "GRU": 3}.get(part.mode, 1)
        sizes = {"input_size": reads[1], "hidden_size": reads[0] // gates}
        return {**sizes, "proj_size": recurs[1]} if part.proj_size else sizes
    if isinstance(part, nn.RNNCellBase):
        return {"input_size": part.weight_ih.shape[1], "hidden_size": part.weight_hh.shape[1]}
    if isinstance(part, nn.PReLU):
        return {"num_parameters": part.weight.shape[0]}
    return None


def _compare(module: nn.Module, small: Program, seed: int) -> None:
    """Run both, in eval mode."""
    inputs = small.example_inputs(batch=2, seed=seed)
    named = {spec.name: t for spec, t in zip(small.inputs, inputs, strict=True)}
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            expected = small.module()(*inputs)
            try:
                found = _flat(_call(module, named, inputs))
            except (RuntimeError, ValueError, TypeError, IndexError) as e:
                first = (str(e).splitlines() or [type(e).__name__])[0]
                raise UsageError(
                    f"The module does not run with the pruned sizes: {first}", _MEND
                ) from e
    finally:
        for part, was in training.items():
            part.training = was
    same = len(found) == len(expected) and all(
        a.shape == b.shape
        and torch.allclose(a.double(), b.double(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        for a, b in zip(found, expected, strict=False)
    )
    if not same:
        raise UsageError(
            "The module does not compute what the pruned program does: its source depends on "
            "sizes that were pruned.", _MEND,
        )  # fmt: skip


def _call(module: nn.Module, named: dict[str, Tensor], inputs: tuple[Tensor, ...]) -> Any:
    """By name where the module's own names are the program's, else in order."""
    import inspect

    known = inspect.signature(module.forward).parameters
    return module(**named) if set(named) <= set(known) else module(*inputs)


def _flat(outputs: Any) -> list[Tensor]:
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
