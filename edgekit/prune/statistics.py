"""Normalisations and means over what stays: the one thing that the zero-mask oracle must be told.

Where a channel of a layer norm is removed, the smaller network takes mean and variance over the
channels that are left. Zeros in the large one would count, so its statistics are computed here from
sums over the kept indices, apart from the operators that the smaller network uses.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgekit.prune.coupling import bind

Cut = tuple[int, Tensor]  # an axis and its removed positions


def _kept(x: Tensor, cuts: Sequence[Cut], axes: Sequence[int]) -> Tensor:
    """1 where all of an element's indices along `axes` stay, else 0; broadcasts with `x`."""
    mask = torch.ones([x.shape[a] if a in axes else 1 for a in range(x.dim())], dtype=x.dtype)
    mask = mask.to(x.device)
    for axis, removed in cuts:
        if axis in axes:
            mask = mask.index_fill(axis, removed.to(x.device), 0)
    return mask


def _moments(x: Tensor, kept: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance (biased) and number over the kept elements; axes stay with size one."""
    number = kept.expand([s if a in axes else 1 for a, s in enumerate(x.shape)]).sum()
    # Not a product: NaN or infinity at a removed index must not spread.
    held = torch.where(kept > 0, x, torch.zeros_like(x))
    mean = held.sum(list(axes), keepdim=True) / number
    apart = torch.where(kept > 0, x - mean, torch.zeros_like(x))
    return mean, apart.square().sum(list(axes), keepdim=True) / number, number


def _affine(y: Tensor, given: Mapping[str, Any], axis: int) -> Tensor:
    """Apply an element-wise weight and bias, shape (channels,), along an axis."""
    shape = [-1 if a == axis else 1 for a in range(y.dim())]
    if given.get("weight") is not None:
        y = y * given["weight"].view(shape)
    if given.get("bias") is not None:
        y = y + given["bias"].view(shape)
    return y


def _layer_norm(given: Mapping[str, Any], cuts: Sequence[Cut]) -> Tensor:
    """Over the last dimension: where there are several, none of them loses indices."""
    x, axis = given["input"], given["input"].dim() - 1
    mean, variance, _ = _moments(x, _kept(x, cuts, [axis]), [axis])
    return _affine((x - mean) / torch.sqrt(variance + given["eps"]), given, axis)


def _rms_norm(given: Mapping[str, Any], cuts: Sequence[Cut]) -> Tensor:
    """As `_layer_norm`, without the mean."""
    x, axis = given["input"], given["input"].dim() - 1
    eps = torch.finfo(x.dtype).eps if given["eps"] is None else given["eps"]
    kept = _kept(x, cuts, [axis])
    square = (x * kept).square().sum(axis, keepdim=True) / kept.sum()
    return _affine(x * torch.rsqrt(square + eps), given, axis)


def _group_norm(given: Mapping[str, Any], cuts: Sequence[Cut]) -> Tensor:
    """A single group: whole groups of several pass without."""
    x = given["input"]
    axes = list(range(1, x.dim()))
    mean, variance, _ = _moments(x, _kept(x, cuts, axes), axes)
    return _affine((x - mean) / torch.sqrt(variance + given["eps"]), given, 1)


def _batch_norm(given: Mapping[str, Any], cuts: Sequence[Cut]) -> Tensor:
    """Without running statistics: each channel's own, over every other dimension."""
    x = given["input"]
    axes = [a for a in range(x.dim()) if a != 1]
    mean, variance, _ = _moments(x, _kept(x, cuts, axes), axes)
    return _affine((x - mean) / torch.sqrt(variance + given["eps"]), given, 1)


def _axes_of(given: Mapping[str, Any], x: Tensor) -> list[int]:
    axes = given.get("dim")
    if axes is None or axes == []:
        return list(range(x.dim()))
    return [a % x.dim() for a in ([axes] if isinstance(axes, int) else axes)]


def _squeezed(y: Tensor, given: Mapping[str, Any], axes: Sequence[int]) -> Tensor:
    return y if given.get("keepdim") else y.squeeze(list(axes))


def _mean(given: Mapping[str, Any], cuts: Sequence[Cut]) -> Tensor:
    x = given["self"]
    axes = _axes_of(given, x)
    mean, _, _ = _moments(x, _kept(x, cuts, axes), axes)
    return _squeezed(mean, given, axes)


def _var(given: Mapping[str, Any], cuts: Sequence[Cut]) -> Tensor:
    x = given["self"]
    axes = _axes_of(given, x)
    _, variance, number = _moments(x, _kept(x, cuts, axes), axes)
    correction = given.get("correction", 1)
    if "unbiased" in given:
        correction = 1 if given["unbiased"] else 0
    spare = number - (1 if correction is None else correction)
    return _squeezed(variance * number / spare, given, axes)


_OVER_KEPT: dict[str, tuple[str, Callable[[Mapping[str, Any], Sequence[Cut]], Tensor]]] = {
    "aten::layer_norm": ("input", _layer_norm),
    "aten::rms_norm": ("input", _rms_norm),
    "aten::group_norm": ("input", _group_norm),
    "aten::batch_norm": ("input", _batch_norm),
    "aten::mean": ("self", _mean),
    "aten::var": ("self", _var),
}


def over_kept(
    node: Node, removed: Mapping[str, list[Cut]], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Tensor | None:
    """What an operator gives with its statistics taken over the kept indices.

    Args:
        node: the operator's call.
        removed: by node name, the removed positions of each axis.
        args: values of the call's arguments.
        kwargs: likewise.

    Returns:
        the result at its full size; None where the operator itself says the same.
    """
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.name not in _OVER_KEPT:
        return None
    name, function = _OVER_KEPT[schema.name]
    bound, values = bind(node), dict(zip((a.name for a in schema.arguments), args, strict=False))
    cuts = removed.get(getattr(bound[name], "name", ""), [])
    if not cuts or (schema.name == "aten::group_norm" and bound["num_groups"] != 1):
        return None
    if len(bound.get("normalized_shape", (0,))) > 1 or bound.get("running_mean") is not None:
        return None
    return function({**bound, **values, **kwargs}, cuts)
