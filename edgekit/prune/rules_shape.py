"""Rules of operators that move indices: views, permutations, joins, splits, slices, padding."""

from typing import Any

import numpy as np
import numpy.typing as npt
from torch.fx import Node

from edgekit.prune.atoms import SINGLE, WINDOW, Dim, Fixed
from edgekit.prune.factor import refactor
from edgekit.prune.registry import Decline, Kept, Op, Size, Value, count, is_one, rule


def _resize(op: Op, kept: Kept, argument: str, first: int = 0) -> None:
    dims = op.values[op.node]
    if not isinstance(dims, tuple):
        return
    sizes = list(op.arguments[argument])
    for position, size in enumerate(sizes):
        dim = dims[first + position]
        if not (isinstance(dim, Fixed) or (isinstance(size, int) and size == -1)):
            sizes[position] = count(kept, dim, size)
    op.set(argument, sizes)


def _set_view(op: Op, kept: Kept) -> None:
    _resize(op, kept, "size" if "size" in op.arguments else "shape")


@rule("view", "reshape", "_unsafe_view", rewrite=_set_view)
def view(op: Op) -> Value:
    """The same elements in other dimensions: factors of a dimension that was joined or parted."""
    if "dtype" in op.arguments:
        raise Decline
    return refactor(op, op.dims("self"), op.shape("self"), op.out_shape)


@rule("view_as", "reshape_as")
def view_as(op: Op) -> Value:
    """A view with the sizes of another tensor."""
    made = refactor(op, op.dims("self"), op.shape("self"), op.out_shape)
    return tuple(op.unite(a, b) for a, b in zip(made, op.dims("other"), strict=True))


@rule("flatten", "squeeze", "unsqueeze")
def reshaped(op: Op) -> Value:
    """A view whose sizes follow from its input's."""
    return refactor(op, op.dims("self"), op.shape("self"), op.out_shape)


def _set_unflatten(op: Op, kept: Kept) -> None:
    _resize(op, kept, "sizes", op.axis("dim", len(op.dims("self"))))


@rule("unflatten", rewrite=_set_unflatten)
def unflatten(op: Op) -> Value:
    """A view that parts one dimension."""
    return refactor(op, op.dims("self"), op.shape("self"), op.out_shape)


@rule("permute")
def permute(op: Op) -> Value:
    """Dimensions in another order."""
    x = op.dims("self")
    return tuple(x[a] for a in op.arguments["dims"])


@rule("transpose", "t", "numpy_T", "swapaxes", "mT", "swapdims")
def transpose(op: Op) -> Value:
    """Two dimensions change places."""
    x = list(op.dims("self"))
    if len(x) < 2:
        return tuple(x)
    names = [n for n in op.arguments if n != "self"]
    a, b = (op.axis(n, len(x)) for n in names) if names else (len(x) - 2, len(x) - 1)
    x[a], x[b] = x[b], x[a]
    return tuple(x)


@rule("movedim")
def movedim(op: Op) -> Value:
    """Some dimensions go elsewhere, the rest keep their order."""
    x = op.dims("self")
    source, target = (
        [a % len(x) for a in ([v] if isinstance(v, int) else v)]
        for v in (op.arguments["source"], op.arguments["destination"])
    )
    order = dict(zip(target, source, strict=True))
    rest = iter(a for a in range(len(x)) if a not in source)
    return tuple(x[order[i] if i in order else next(rest)] for i in range(len(x)))


@rule("expand", rewrite=lambda op, kept: _resize(op, kept, "size"))
def expand(op: Op) -> Value:
    """Size-one dimensions are repeated: their copies can go."""
    x, shape, out = op.dims("self"), op.shape("self"), op.out_shape
    new = len(out) - len(x)
    made = [op.fresh(s) for s in out[:new]]
    for dim, old, size in zip(x, shape, out[new:], strict=True):
        made.append(op.fresh(size) if is_one(old) and not is_one(size) else dim)
    return tuple(made)


def _set_repeats(op: Op, kept: Kept) -> None:
    repeats, dims = list(op.arguments["repeats"]), op.values[op.node]
    new = len(repeats) - len(op.dims("self"))
    for i, times in enumerate(repeats):
        one = i < new or is_one(op.shape("self")[i - new])
        if one and isinstance(dims, tuple):
            repeats[i] = count(kept, dims[i], times)
    op.set("repeats", repeats)


@rule("repeat", rewrite=_set_repeats)
def repeat(op: Op) -> Value:
    """The whole tensor again and again: an index goes from every copy."""
    x, repeats = op.dims("self"), op.arguments["repeats"]
    new = len(repeats) - len(x)
    made: list[Dim] = []
    for i, (times, size) in enumerate(zip(repeats, op.out_shape, strict=True)):
        if i < new or is_one(op.shape("self")[i - new]):
            made.append(op.fresh(size))
            continue
        dim = x[i - new]
        if isinstance(times, int):
            made.append(dim if isinstance(dim, Fixed) else np.tile(dim, times))
        else:
            op.freeze(dim)
            made.append(Fixed(op.cause))
    return tuple(made)


@rule("flip")
def flip(op: Op) -> Value:
    """Indices in reverse order."""
    x = list(op.dims("self"))
    for axis in op.arguments["dims"]:
        dim = x[axis]
        x[axis] = dim if isinstance(dim, Fixed) else dim[::-1]
    return tuple(x)


@rule("cat", "concat", "concatenate")
def cat(op: Op) -> Value:
    """Dimensions end to end; the others are coupled."""
    tensors = op.arguments["tensors"]
    all_dims = [op.dims(t) for t in tensors]
    rank = len(op.out_shape)
    if any(len(d) != rank for d in all_dims):
        raise Decline  # PyTorch lets an empty vector stand among them
    axis = op.axis("dim", rank)
    out = [
        op.unite(*(d[a] for d in all_dims)) if a != axis else d for a, d in enumerate(all_dims[0])
    ]
    sizes = [op.shape(t)[axis] for t in tensors]
    if not all(isinstance(s, int) for s in sizes) or all(
        isinstance(d[axis], Fixed) for d in all_dims
    ):
        op.freeze([d[axis] for d in all_dims])
        out[axis] = next((d[axis] for d in all_dims if isinstance(d[axis], Fixed)), Fixed(WINDOW))
    else:
        parts = [op.ids(d[axis], s) for d, s in zip(all_dims, sizes, strict=True)]
        out[axis] = np.concatenate(parts)
    return tuple(out)


@rule("stack")
def stack(op: Op) -> Value:
    """A new dimension, one index for each tensor: it stays; the others are coupled."""
    tensors = op.arguments["tensors"]
    axis = op.axis("dim", len(op.out_shape))
    out = list(op.broadcast([(op.dims(t), op.shape(t)) for t in tensors]))
    return (*out[:axis], Fixed(op.cause), *out[axis:])


def _parts(op: Op) -> list[int]:
    """Sizes of the pieces that a split makes."""
    axis = op.axis("dim", len(op.dims("self")))
    sizes = [piece.shape[axis] for piece in op.node.meta["val"]]
    if not all(isinstance(s, int) for s in sizes):
        raise Decline
    return sizes


def _set_split(op: Op, kept: Kept) -> None:
    import torch

    axis, pieces = op.axis("dim", len(op.dims("self"))), op.values[op.node]
    if not isinstance(pieces, list) or isinstance(op.dims("self")[axis], Fixed):
        return
    sizes = [count(kept, p[axis], s) for p, s in zip(pieces, _parts(op), strict=True)]
    op.node.target = torch.ops.aten.split_with_sizes.default
    op.node.args, op.node.kwargs = (op.arguments["self"], sizes, axis), {}


@rule("split", "split_with_sizes", "chunk", "tensor_split", rewrite=_set_split)
def split(op: Op) -> Value:
    """One dimension in pieces: each piece keeps its own indices."""
    x = op.dims("self")
    axis = op.axis("dim", len(x))
    dim = x[axis]
    if isinstance(dim, Fixed):
        return [x for _ in op.node.meta["val"]]
    ends = np.cumsum(_parts(op))
    pieces = np.split(dim, ends[:-1])
    op.freeze(np.concatenate([p[:0] if p.size > 1 else p for p in pieces]))
    parts: list[Dim] = [p if p.size > 1 else Fixed(SINGLE) for p in pieces]
    return [(*x[:axis], p, *x[axis + 1 :]) for p in parts]


def _single(op: Op, dim: Any) -> Fixed:
    op.freeze(dim)
    return Fixed(SINGLE)


def _bounds(op: Op, size: Size) -> tuple[int, int, int]:
    start, end, step = (op.arguments[n] for n in ("start", "end", "step"))
    start, end = (0 if start is None else start), (size if end is None else end)
    if not all(isinstance(v, int) for v in (start, end, step, size)):
        raise Decline
    return slice(start, end, step).indices(size)


def _is_whole(op: Op) -> bool:
    start, end, step = (op.arguments[n] for n in ("start", "end", "step"))
    return start in (None, 0) and step == 1 and (end is None or end == 2**63 - 1)


def _set_slice(op: Op, kept: Kept) -> None:
    x = op.dims("self")
    axis = op.axis("dim", len(x))
    dim = x[axis]
    if isinstance(dim, Fixed) or _is_whole(op):
        return
    start, end, step = _bounds(op, op.shape("self")[axis])
    mask = kept.mask(dim)
    if step != 1:
        _set_picks(op, mask, axis, range(start, end, step))
        return
    before = int(mask[:start].sum())
    op.set("start", before)
    op.set("end", before + int(mask[start:end].sum()))


def _set_picks(op: Op, mask: npt.NDArray[np.bool_], axis: int, old: range) -> None:
    """What stays of every second index, say, lies at no fixed step: name the indices."""
    import torch

    places = np.cumsum(mask) - 1
    picks = [int(places[i]) for i in old if mask[i]]
    module, name = op.node.graph.owning_module, f"{op.node.name}_index"
    device = op.node.meta["val"].device
    module.register_buffer(name, torch.tensor(picks, device=device))  # type: ignore[union-attr]
    with op.node.graph.inserting_before(op.node):
        index = op.node.graph.get_attr(name)
    op.node.target = torch.ops.aten.index_select.default
    op.node.args, op.node.kwargs = (op.arguments["self"], axis, index), {}


@rule("slice", rewrite=_set_slice)
def slice_(op: Op) -> Value:
    """A range of indices, perhaps with a step."""
    x = op.dims("self")
    axis = op.axis("dim", len(x))
    dim = x[axis]
    if isinstance(dim, Fixed) or _is_whole(op):
        return x
    part = dim[slice(*_bounds(op, op.shape("self")[axis]))]
    return (*x[:axis], part if part.size > 1 else _single(op, part), *x[axis + 1 :])


def _set_narrow(op: Op, kept: Kept) -> None:
    dim = op.dims("self")[op.axis("dim", len(op.dims("self")))]
    if isinstance(dim, Fixed):
        return
    start, length = op.arguments["start"], op.arguments["length"]
    mask = kept.mask(dim)
    op.set("length", int(mask[start : start + length].sum()))
    op.set("start", int(mask[:start].sum()))


@rule("narrow", rewrite=_set_narrow)
def narrow(op: Op) -> Value:
    """A range of indices, by its length."""
    x = op.dims("self")
    axis = op.axis("dim", len(x))
    dim, start, length = x[axis], op.arguments["start"], op.arguments["length"]
    if isinstance(dim, Fixed):
        return x
    if not (isinstance(start, int) and isinstance(length, int) and start >= 0):
        raise Decline
    part = dim[start : start + length]
    return (*x[:axis], part if part.size > 1 else _single(op, part), *x[axis + 1 :])


def _set_select(op: Op, kept: Kept) -> None:
    x = op.dims("self")
    axis = op.axis("dim", len(x))
    dim, index = x[axis], op.arguments["index"]
    if not isinstance(dim, Fixed):
        op.set("index", int(kept.mask(dim)[: index % dim.size].sum()))


@rule("select", rewrite=_set_select)
def select(op: Op) -> Value:
    """One index: it stays, the others of its dimension may go."""
    x, index = op.dims("self"), op.arguments["index"]
    axis = op.axis("dim", len(x))
    dim = x[axis]
    if not isinstance(dim, Fixed):
        if isinstance(index, Node):
            raise Decline
        op.freeze(dim[index : index + 1] if index >= 0 else dim[index % dim.size :][:1])
    return (*x[:axis], *x[axis + 1 :])


def _set_unbind(op: Op, kept: Kept) -> None:
    dim = op.dims("self")[op.axis("dim", len(op.dims("self")))]
    if isinstance(dim, Fixed):
        return
    mask = kept.mask(dim)
    for item in list(op.node.users):
        index: Any = item.args[1]
        if mask[index]:
            item.update_arg(1, int(mask[:index].sum()))
        else:
            item.graph.erase_node(item)


@rule("unbind", rewrite=_set_unbind)
def unbind(op: Op) -> Value:
    """One tensor for each index: those that something reads stay."""
    x = op.dims("self")
    axis = op.axis("dim", len(x))
    dim, rest = x[axis], (*x[:axis], *x[axis + 1 :])
    read: list[Any] = [item.args[1] for item in op.node.users if item.users]
    if not isinstance(dim, Fixed):
        op.freeze(dim[read])
    nobody = tuple(Fixed(op.cause) for _ in rest)
    return [rest if i in read else nobody for i in range(len(op.node.meta["val"]))]


def _set_pad(op: Op, kept: Kept) -> None:
    pads, dims = list(op.arguments["pad"]), op.values[op.node]
    for i in range(len(pads) // 2):
        dim = dims[-1 - i] if isinstance(dims, tuple) else Fixed(WINDOW)
        before, after = pads[2 * i : 2 * i + 2]
        if isinstance(dim, Fixed) or not (before or after):
            continue
        mask = kept.mask(dim)
        pads[2 * i] = int(mask[:before].sum())
        pads[2 * i + 1] = int(mask[mask.size - after :].sum())
    op.set("pad", pads)


@rule("pad", "constant_pad_nd", rewrite=_set_pad)
def pad(op: Op) -> Value:
    """Constant indices before and after: they can go like any other."""
    x, pads = list(op.dims("self")), op.arguments["pad"]
    constant = op.arguments.get("mode", "constant") == "constant"
    for i in range(len(pads) // 2):
        axis = len(x) - 1 - i
        before, after = pads[2 * i : 2 * i + 2]
        dim = x[axis]
        if isinstance(before, int) and before == 0 and isinstance(after, int) and after == 0:
            continue
        if isinstance(dim, Fixed):
            x[axis] = dim if dim.cause != SINGLE else Fixed(WINDOW)
        elif (
            constant
            and isinstance(before, int)
            and isinstance(after, int)
            and min(before, after) >= 0
        ):
            x[axis] = np.concatenate([op.atoms.fresh(before), dim, op.atoms.fresh(after)])
        else:
            op.freeze(dim)
            x[axis] = Fixed(op.cause)
    return tuple(x)
