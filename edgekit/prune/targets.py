"""What a layer's answer is added to, and by how much that is off already.

In a residual block the last layer of one branch is added to the other branch, which in the smaller
network differs from the original's. A layer that is fitted to its own old answer leaves that
difference in the sum; fitted to its old answer *and* the difference, it takes out what it can.
Between the layer and the sum there may be a batch norm or another factor for each channel.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from edgekit.prune.atoms import Fixed
from edgekit.prune.coupling import Coupling, attribute, bind
from edgekit.prune.fittable import Layer
from edgekit.prune.shrink import Keep

if TYPE_CHECKING:
    from edgekit.prune.recover import Run

_SMALL = 1e-3  # a factor so far below the largest cannot carry a correction


def corrected(
    layer: Layer,
    answers: list[Tensor],
    coupling: Coupling,
    keep: Keep,
    small: "Run",
    large: "Run",
    there: Mapping[str, Node],
) -> list[Tensor]:
    """What the layer has to say so that the sum it goes into is right.

    Args:
        layer: that is to be fitted.
        answers: what it said in the original, at the outputs that stay, for each batch.
        coupling: of the network.
        keep: which indices stayed.
        small: the smaller network, run up to the layer.
        large: the original, run up to the layer.
        there: the original's nodes by name.

    Returns:
        the answers with what they have to make up for; as they are where nothing is added.
    """
    node, scale = layer.node, None
    while len(node.users) == 1:
        reader = next(iter(node.users))
        kind = getattr(getattr(reader.target, "_schema", None), "name", "")
        given = bind(reader) if kind else {}
        if kind == "aten::batch_norm" and not given["training"]:
            factor = _factor(given, coupling, answers[0].dim())
            scale = factor if scale is None else scale * factor
        elif kind == "aten::add" and given.get("alpha", 1) == 1:
            other = given["other"] if given["self"] is node else given["self"]
            if not _usable(other, node, small, large, there):
                break
            gaps = _gaps(other, coupling, keep, small, large, there)
            if [g.shape for g in gaps] != [y.shape for y in answers]:
                break
            answers = [y + _divided(g, scale) for y, g in zip(answers, gaps, strict=True)]
        elif kind != "aten::dropout" or given["train"]:
            break
        node = reader
    return answers


def _usable(other: Any, node: Node, small: "Run", large: "Run", there: Mapping[str, Node]) -> bool:
    """Whether the other operand is known by now, in both networks."""
    if not isinstance(other, Node) or other is node or other.op == "get_attr":
        return False
    twin = there.get(other.name)
    return twin is not None and small.has(other) and large.has(twin)


def _gaps(
    other: Node,
    coupling: Coupling,
    keep: Keep,
    small: "Run",
    large: "Run",
    there: Mapping[str, Node],
) -> list[Tensor]:
    """The original's operand, at the indices that stay, less the smaller network's."""
    dims = coupling.values[other]
    gaps = []
    for was, now in zip(large.values(there[other.name]), small.values(other), strict=True):
        for axis, dim in enumerate(dims if isinstance(dims, tuple) else ()):
            if not isinstance(dim, Fixed) and keep.removed(dim) is not None:
                was = was.index_select(axis, torch.from_numpy(keep.mask(dim).nonzero()[0]))
        gaps.append(was - now)
    return gaps


def _factor(given: Mapping[str, Any], coupling: Coupling, rank: int) -> Tensor:
    """A batch norm's factor for each channel, to broadcast with the layer's answer."""
    variance = attribute(coupling.module, str(given["running_var"].target))
    scale = torch.rsqrt(variance.detach() + given["eps"])
    if given["weight"] is not None:
        scale = scale * attribute(coupling.module, str(given["weight"].target)).detach()
    return scale.view([-1 if axis == 1 else 1 for axis in range(rank)])


def _divided(gap: Tensor, scale: Tensor | None) -> Tensor:
    """Undo the factor; nothing is asked of channels whose factor is next to none."""
    if scale is None:
        return gap
    enough = scale.abs() > _SMALL * scale.abs().max()
    return torch.where(enough, gap / torch.where(enough, scale, 1.0), 0.0)
