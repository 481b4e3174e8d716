"""Rules of operators that work inside channels: normalisation, pooling, interpolation, reductions.

Where an operator mixes the indices of a dimension (a maximum, a softmax), removing one changes the
others: that dimension is frozen. Channels beside it pass. Sums lose a term that is zero, and
statistics are those of what stays: see `Policy.normalization`.
"""

import numpy as np

from edgekit.prune.atoms import SINGLE, WINDOW, Dim, Fixed
from edgekit.prune.registry import Kept, Op, Value, count, rule
from edgekit.prune.rules_pointwise import pointwise


def _per_channel(op: Op, channel: Dim, names: tuple[str, ...]) -> Dim:
    for name in names:
        dims = op.optional(name)
        if dims is not None:
            channel = op.unite(channel, dims[0])
    return channel


@rule("batch_norm")
def batch_norm(op: Op) -> Value:
    """y[c] = (x[c] - mean[c])/√(var[c] + ε)·weight[c] + bias[c]: everything is per channel.

    Without running statistics they are the input's own, over every other dimension, as where a
    convolution's weights are standardised.
    """
    x = op.dims("input")
    if op.arguments["running_mean"] is None and op.policy.normalization == "keep":
        op.freeze((x[0], *x[2:]))
    names = ("weight", "bias", "running_mean", "running_var")
    return (x[0], _per_channel(op, x[1], names), *x[2:])


@rule("instance_norm")
def instance_norm(op: Op) -> Value:
    """Statistics of each channel of each sample, over its pixels."""
    x = op.dims("input")
    op.freeze(x[2:])
    names = ("weight", "bias", "running_mean", "running_var")
    return (x[0], _per_channel(op, x[1], names), *(Fixed(WINDOW) for _ in x[2:]))


def _set_norm_groups(op: Op, kept: Kept) -> None:
    channels, groups = op.shape("input")[1], op.arguments["num_groups"]
    if groups == 1:
        return
    per_group = channels // groups
    op.set("num_groups", count(kept, op.dims("input")[1], channels) // per_group)


@rule("group_norm", rewrite=_set_norm_groups)
def group_norm(op: Op) -> Value:
    """Statistics of each group of channels: groups go whole. A single group is a layer norm."""
    x, channels = op.dims("input"), op.shape("input")[1]
    groups = int(op.arguments["num_groups"])
    op.freeze(x[2:])
    channel = _per_channel(op, x[1], ("weight", "bias"))
    if groups == 1:
        if op.policy.normalization == "keep":
            op.freeze(channel)
    elif not isinstance(channel, Fixed):
        by_group = channel.reshape(groups, channels // groups)
        op.unite(by_group, np.broadcast_to(by_group[:, :1], by_group.shape))
    return (x[0], channel, *(Fixed(WINDOW) for _ in x[2:]))


def _set_normalized_shape(op: Op, kept: Kept) -> None:
    x, shape = op.dims("input"), list(op.arguments["normalized_shape"])
    op.set("normalized_shape", [*shape[:-1], count(kept, x[-1], shape[-1])])


@rule("layer_norm", "rms_norm", rewrite=_set_normalized_shape)
def layer_norm(op: Op) -> Value:
    """Statistics over the last dimensions: over what stays of a single one; several stay whole."""
    x = op.dims("input")
    first = len(x) - len(op.arguments["normalized_shape"])
    if first == len(x) - 1 and op.policy.normalization == "prune":
        return (*x[:-1], _per_channel(op, x[-1], ("weight", "bias")))
    op.freeze(x[first:])
    for name in ("weight", "bias"):
        if op.arguments.get(name) is not None:
            op.freeze(op.dims(name))
    return (*x[:first], *(Fixed(op.cause) for _ in x[first:]))


def _windowed(op: Op, spatial: int) -> Value:
    x = op.dims("self" if "self" in op.arguments else "input")
    keep = len(x) - spatial
    op.freeze(x[keep:])
    out = (*x[:keep], *(Fixed(WINDOW) for _ in range(spatial)))
    found = op.node.meta["val"]
    return [out for _ in found] if isinstance(found, tuple | list) else out


@rule("max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "adaptive_max_pool1d",
      "upsample_nearest1d", "upsample_linear1d", "_upsample_nearest_exact1d",
      "max_pool1d_with_indices", "reflection_pad1d", "replication_pad1d")  # fmt: skip
def windowed_1d(op: Op) -> Value:
    """Works on the last dimension, in each channel alone."""
    return _windowed(op, 1)


@rule("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
      "max_pool2d_with_indices", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d",
      "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
      "reflection_pad2d", "replication_pad2d")  # fmt: skip
def windowed_2d(op: Op) -> Value:
    """Works on the last two dimensions, in each channel alone."""
    return _windowed(op, 2)


@rule("max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d",
      "max_pool3d_with_indices", "upsample_nearest3d", "upsample_trilinear3d",
      "_upsample_nearest_exact3d", "reflection_pad3d", "replication_pad3d")  # fmt: skip
def windowed_3d(op: Op) -> Value:
    """Works on the last three dimensions, in each channel alone."""
    return _windowed(op, 3)


def _axes(op: Op, rank: int) -> set[int]:
    axes = op.arguments.get("dim")
    if axes is None or axes == []:
        axes = range(rank)
    return {a % rank for a in ([axes] if isinstance(axes, int) else axes)}


def _reduced(op: Op, reduced: set[int]) -> Value:
    x = op.dims("self")
    if op.arguments.get("keepdim"):
        out = tuple(Fixed(SINGLE) if a in reduced else d for a, d in enumerate(x))
    else:
        out = tuple(d for a, d in enumerate(x) if a not in reduced)
    found = op.node.meta["val"]
    return [out for _ in found] if isinstance(found, tuple | list) else out


@rule("sum", "linalg_vector_norm", "norm", "any")
def summed(op: Op) -> Value:
    """What is zero adds nothing: any index may go, and a whole dimension that is a number of them.

    The order of a norm must be over 0: with others, what is not there counts.
    """
    x = op.dims("self")
    axes = _axes(op, len(x))
    order = op.arguments.get("ord", op.arguments.get("p", 2))
    order = 2 if order is None else order
    if not (isinstance(order, int | float) and order > 0):
        op.freeze([x[a] for a in axes])
    return _reduced(op, axes)


@rule("mean", "var")
def averaged(op: Op) -> Value:
    """The mean and variance of what stays, as in a normalisation that is written out."""
    x = op.dims("self")
    axes = _axes(op, len(x))
    if op.policy.normalization == "keep":
        op.freeze([x[a] for a in axes])
    return _reduced(op, axes)


@rule("amax", "amin", "max", "min", "std", "argmax", "argmin", "prod", "logsumexp", "all",
      "var_mean", "std_mean", "median")  # fmt: skip
def reduction(op: Op) -> Value:
    """One number for a whole dimension: that dimension must stay, the others pass."""
    x = op.dims("self")
    if "other" in op.arguments:  # the larger or smaller of two tensors, element by element
        return pointwise(op)
    reduced = _axes(op, len(x))
    op.freeze([x[a] for a in reduced])
    return _reduced(op, reduced)


@rule("grid_sampler")
def grid_sampler(op: Op) -> Value:
    """Pixels of every channel, taken from places that a grid names."""
    x, grid = op.dims("input"), op.dims("grid")
    op.freeze((*x[2:], *grid[1:]))
    return (op.unite(x[0], grid[0]), x[1], *(Fixed(WINDOW) for _ in x[2:]))


@rule("pixel_shuffle")
def pixel_shuffle(op: Op) -> Value:
    """(…, c·r², h, w) → (…, c, r·h, r·w): the r² channels that make one go together."""
    x = op.dims("self")
    op.freeze(x[-2:])
    channel = x[-3]
    if not isinstance(channel, Fixed):
        square = channel.reshape(-1, int(op.arguments["upscale_factor"]) ** 2)
        op.unite(square, np.broadcast_to(square[:, :1], square.shape))
        channel = square[:, 0]
    return (*x[:-3], channel, Fixed(WINDOW), Fixed(WINDOW))


@rule("pixel_unshuffle")
def pixel_unshuffle(op: Op) -> Value:
    """(…, c, r·h, r·w) → (…, c·r², h, w): one channel becomes r²."""
    x = op.dims("self")
    op.freeze(x[-2:])
    channel = x[-3]
    if not isinstance(channel, Fixed):
        channel = np.repeat(channel, int(op.arguments["downscale_factor"]) ** 2)
    elif op.shape("self")[-3] == 1:
        channel = Fixed(op.cause)
    return (*x[:-3], channel, Fixed(WINDOW), Fixed(WINDOW))


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(op: Op) -> Value:
    """Channels (groups, n) become (n, groups): every group loses the same channels."""
    x = op.dims("self")
    channel = x[1]
    if not isinstance(channel, Fixed):
        rows = channel.reshape(int(op.arguments["groups"]), -1)
        op.unite(rows, np.broadcast_to(rows[:1], rows.shape))
        channel = rows.T.reshape(-1)
    return (x[0], channel, *x[2:])
