"""Sparse training: pulls whole groups of weights towards zero, so that pruning them costs little.

The pull is a proximal step after each step of the optimizer, scaled by its learning rate: it is not
part of the gradient, which Adam would divide by its own size.

- `group-l2`: the group lasso Σ_g √n_g·‖w_g‖ (Wen et al., 2016, https://arxiv.org/abs/1608.03665):
  each group is shortened by the same amount per weight and direction kept, to zero if need be.
- `group-l1`: Σ|w| over the weights of all groups, each weight for itself.
- `bn-scale`: Σ|γ| over the scales of batch norms (Liu et al., 2017,
  https://arxiv.org/abs/1708.06519).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Sparsify = Literal["group-l2", "group-l1", "bn-scale"]
_TINY = 1e-30


@dataclass(frozen=True)
class Member:
    """One dimension of a tensor, and the group that each of its indices belongs to.

    Attributes:
        name: of the parameter.
        axis: of the dimension.
        groups: shape (size of the dimension,), int64; -1 for an index of no group.
    """

    name: str
    axis: int
    groups: Tensor


class Shrinkage:
    """The pull on a network's groups.

    Args:
        kind: see the module.
        strength: with a learning rate η, each weight of a group loses about η·strength a step.
        members: the groups; one weight may belong to two (its row's and its column's).
        parameters: by name, every name of a tied one; they are changed in place.
    """

    def __init__(
        self,
        kind: Sparsify,
        strength: float,
        members: Sequence[Member],
        parameters: Mapping[str, nn.Parameter],
    ) -> None:
        self._kind, self._strength = kind, strength
        self._count = 1 + max((int(m.groups.max()) for m in members), default=-1)
        # Indices of no group count for one more group, whose factor is always 1.
        self._members = [
            (
                parameters[m.name],
                m.axis,
                torch.where(m.groups < 0, self._count, m.groups).to(parameters[m.name].device),
            )
            for m in members
        ]
        self._roots = self._sums(torch.ones_like).sqrt()

    @torch.no_grad()
    def apply(self, rate: float) -> None:
        """Take one step.

        Args:
            rate: the optimizer's learning rate.
        """
        step = rate * self._strength
        if self._kind == "group-l2":
            norms = self._sums(torch.square).sqrt()
            factors = (1 - step * self._roots / norms.clamp(min=_TINY)).clamp(min=0)
            factors[self._count] = 1
            for weight, axis, groups in self._members:
                weight.mul_(_along(factors[groups], weight, axis))
            return
        for weight, axes in self._by_weight():
            inside = torch.zeros_like(weight, dtype=torch.bool)
            for axis, groups in axes:
                inside |= _along(groups < self._count, weight, axis)
            weaker = weight.sign() * (weight.abs() - step).clamp(min=0)
            weight.copy_(torch.where(inside, weaker, weight))

    def _sums(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Sum of a function of the weights over each group, shape (groups + 1,), float32."""
        device = self._members[0][0].device
        total = torch.zeros(self._count + 1, device=device)
        for weight, axis, groups in self._members:
            value = function(weight.detach())
            others = [a for a in range(weight.dim()) if a != axis]
            total.index_add_(0, groups, (value.sum(others) if others else value).float())
        return total

    def _by_weight(self) -> list[tuple[nn.Parameter, list[tuple[int, Tensor]]]]:
        found: dict[int, tuple[nn.Parameter, list[tuple[int, Tensor]]]] = {}
        for weight, axis, groups in self._members:
            found.setdefault(id(weight), (weight, []))[1].append((axis, groups))
        return list(found.values())


def _along(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """A vector along one axis, to broadcast with a tensor."""
    return values.view([-1 if a == axis else 1 for a in range(like.dim())])
