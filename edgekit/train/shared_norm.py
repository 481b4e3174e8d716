"""Batch norm in a captured graph that is trained by several processes, or frozen.

In a captured graph batch norm is an operator, so torch's `SyncBatchNorm`, which replaces modules,
finds nothing, and it needs a GPU. Here the operator itself is replaced by one that adds the sums of
all processes before it divides: mean and variance are those of the whole batch, and so are the
gradients (Ioffe & Szegedy, 2015, arXiv:1502.03167, over processes).
"""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.fx import GraphModule, Node

_TRAINING = 5  # the argument of aten::batch_norm


def batch_norms(module: GraphModule) -> list[Node]:
    """The batch norms of a graph, in order."""
    wanted = torch.ops.aten.batch_norm.default
    return [node for node in module.graph.nodes if node.target == wanted]


def freeze(module: GraphModule, nodes: list[Node], *, frozen: bool = True) -> None:
    """Let these batch norms use their running statistics in training, or those of batches again."""
    for node in nodes:
        node.update_arg(_TRAINING, not frozen)
    module.recompile()


def share(module: GraphModule, nodes: list[Node], *, on: bool) -> None:
    """Let these batch norms take their statistics over all processes, or over their own batch."""
    for node in nodes:
        node.target = shared_batch_norm if on else torch.ops.aten.batch_norm.default
    module.recompile()


def shared_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> Tensor:
    """`aten::batch_norm` over the batches of all processes; shapes and dtypes are the same.

    The variance is taken around the common mean, in a second exchange: E[x²] - E[x]² would lose
    half the digits.
    """
    if not training:
        return torch.batch_norm(
            x, weight, bias, running_mean, running_var, False, momentum, eps, cudnn
        )
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
    values = x.float()
    count = values.new_tensor([values.numel() / values.shape[1]])
    sums = _total(torch.cat([values.sum(axes), count]))
    number = sums[-1].detach()
    mean = sums[:-1] / number
    centred = values - mean.view(shape)
    squares = _total(centred.square().sum(axes))
    variance = squares / number
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(squares / (number - 1), momentum)
    result = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        result = result * weight.view(shape)
    if bias is not None:
        result = result + bias.view(shape)
    return result.to(x.dtype)


def _total(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        """Add up."""
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        """Every process's loss depends on this process's value."""
        total = gradient.clone().contiguous()
        distributed.all_reduce(total)
        return total
