"""Carries a decision out: smaller tensors, and constant arguments that fit them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit.prune.atoms import Dim, Dims, Fixed, Ids
from edgekit.prune.coupling import Coupling, attribute
from edgekit.prune.registry import Op


@dataclass(frozen=True)
class Keep:
    """Which indices stay.

    Attributes:
        roots: shape (atoms,): the group of each atom.
        keep: shape (atoms,): true at the roots of groups that stay.
    """

    roots: Ids
    keep: npt.NDArray[np.bool_]

    def mask(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """True where an atom stays, shape like `ids`."""
        mask: npt.NDArray[np.bool_] = self.keep[self.roots[ids]]
        return mask

    def removed(self, dim: Dim) -> Tensor | None:
        """Positions of a dimension that go, int64; None where all stay."""
        if isinstance(dim, Fixed):
            return None
        mask = self.mask(dim)
        return None if mask.all() else torch.from_numpy(np.flatnonzero(~mask))


def shrink(coupling: Coupling, keep: Keep) -> GraphModule:
    """Shrink the analysed module in place: tensors first, then constant arguments.

    Args:
        coupling: of the module.
        keep: which indices stay.

    Returns:
        the same module, smaller; its metadata still says the old shapes.
    """
    for op, entry in (*coupling.ops, *coupling.inner_ops):
        if entry.rewrite is not None and _changes(op, keep):
            entry.rewrite(op, keep)
    for name, dims in coupling.tensors.items():
        smaller = _smaller(attribute(coupling.module, name), dims, keep)
        if smaller is not None:
            for alias in coupling.aliases[name]:
                _replace(coupling.module, alias, smaller)
    for part in coupling.module.modules():
        if isinstance(part, GraphModule):
            part.graph.lint()
            part.recompile()
    return coupling.module


def _changes(op: Op, keep: Keep) -> bool:
    for node in (op.node, *op.node.all_input_nodes):
        value = op.values.get(node)
        for dims in value if isinstance(value, list) else [value]:
            if any(keep.removed(dim) is not None for dim in dims or ()):
                return True
    return False


def _smaller(tensor: Tensor, dims: Dims, keep: Keep) -> Tensor | None:
    """The tensor without its removed indices, None where it stays as it is."""
    result = tensor.detach()
    for axis, dim in enumerate(dims):
        if not isinstance(dim, Fixed) and keep.removed(dim) is not None:
            index = torch.from_numpy(np.flatnonzero(keep.mask(dim))).to(tensor.device)
            result = result.index_select(axis, index)
    if result.shape == tensor.shape:
        return None
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(result.contiguous(), requires_grad=tensor.requires_grad)
    return result.contiguous()


def _replace(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner_name), leaf, tensor)
