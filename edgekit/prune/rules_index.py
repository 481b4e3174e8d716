"""Rules of operators that pick, order or repeat indices, and of windows that become channels."""

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from edgekit.prune.atoms import WINDOW, Dim, Fixed
from edgekit.prune.registry import Decline, Kept, Op, Value, rule


def _constant(op: Op, index: object) -> Tensor | None:
    """An index tensor that is part of the network: shape (n,), int64."""
    if not isinstance(index, Node) or index.op != "get_attr":
        return None
    found: object = op.node.graph.owning_module
    for part in str(index.target).split("."):
        found = getattr(found, part)
    return found if isinstance(found, Tensor) and found.dim() == 1 and not _is_mask(found) else None


def _is_mask(index: Tensor) -> bool:
    return index.dtype in (torch.bool, torch.uint8)


def _renumber(op: Op, kept: Kept, axis: int, index: Node) -> None:
    """Replace a constant index by one that names the indices that stay."""
    dim, constant = op.dims("self")[axis], _constant(op, index)
    if isinstance(dim, Fixed) or constant is None:
        return
    mask = kept.mask(dim)
    places = np.cumsum(mask) - 1
    old = constant.cpu().numpy() % dim.size
    new = torch.from_numpy(places[old[mask[old]]]).to(constant)
    module = op.node.graph.owning_module
    name = f"{op.node.name}_index"
    module.register_buffer(name, new)  # type: ignore[union-attr]
    with op.node.graph.inserting_before(op.node):
        fresh = op.node.graph.get_attr(name)
    op.node.replace_input_with(index, fresh)


def _picked(op: Op, axis: int, index: Node) -> Dim | None:
    """Atoms in the order in which a constant index names them; None where it is not constant."""
    dim, constant = op.dims("self")[axis], _constant(op, index)
    if isinstance(dim, Fixed) or constant is None:
        return None
    op.freeze(op.dims(index))
    picked: Dim = dim[constant.cpu().numpy() % dim.size]
    return picked


def _single_index(op: Op) -> tuple[int, Node] | None:
    """The axis and the index where one dimension alone is indexed."""
    given = [(a, i) for a, i in enumerate(op.arguments["indices"]) if i is not None]
    return given[0] if len(given) == 1 else None


def _set_index(op: Op, kept: Kept) -> None:
    single = _single_index(op)
    if single is not None:
        _renumber(op, kept, *single)


@rule("index", rewrite=_set_index)
def index(op: Op) -> Value:
    """Indexed dimensions stay, unless a constant names their indices; the others pass."""
    x = op.dims("self")
    indices = list(op.arguments["indices"])
    nodes = [i for i in indices if i is not None]
    if any(_is_mask(n.meta["val"]) for n in nodes):
        raise Decline
    single = _single_index(op)
    picked = _picked(op, *single) if single else None
    if single and picked is not None:
        axis = single[0]
        return (*x[:axis], picked, *x[axis + 1 :])
    axes = [a for a, i in enumerate(indices) if i is not None]
    op.freeze([x[a] for a in axes])
    for node in nodes:
        op.freeze(op.dims(node))
    rank = max(len(op.shape(n)) for n in nodes)
    rest = [d for a, d in enumerate(x) if a not in axes]
    together = axes == list(range(axes[0], axes[-1] + 1))
    place = axes[0] if together else 0
    return (*rest[:place], *(Fixed(op.cause) for _ in range(rank)), *rest[place:])


@rule(
    "index_select",
    rewrite=lambda op, kept: _renumber(
        op, kept, op.axis("dim", len(op.dims("self"))), op.arguments["index"]
    ),
)
def index_select(op: Op) -> Value:
    """Entries of one dimension, in an order that a constant or the data name."""
    x, axis = op.dims("self"), op.axis("dim", len(op.dims("self")))
    picked = _picked(op, axis, op.arguments["index"])
    if picked is None:
        op.freeze(x[axis])
        picked = Fixed(op.cause)
    return (*x[:axis], picked, *x[axis + 1 :])


@rule("gather")
def gather(op: Op) -> Value:
    """Entries of one dimension, elsewhere for each position of the others."""
    x, places = op.dims("self"), op.dims("index")
    axis = op.axis("dim", len(x))
    op.freeze((x[axis], places[axis]))
    out: list[Dim] = []
    for a, (dim, size) in enumerate(zip(x, op.shape("self"), strict=True)):
        if a == axis:
            out.append(Fixed(op.cause))
        elif op.shape("index")[a] is size or op.shape("index")[a] == size:
            out.append(op.unite(dim, places[a]))
        else:
            raise Decline
    return tuple(out)


@rule("cumsum", "cumprod", "logcumsumexp", "sort", "argsort", "topk", "kthvalue", "cummax",
      "cummin")  # fmt: skip
def along(op: Op) -> Value:
    """Mixes the indices of one dimension, which stays; the others pass."""
    x = op.dims("self")
    if op.arguments.get("dim") is None:
        raise Decline
    axis = op.axis("dim", len(x))
    op.freeze(x[axis])
    out = (*x[:axis], Fixed(op.cause), *x[axis + 1 :])
    if op.cause == "aten.kthvalue" and not op.arguments.get("keepdim"):
        out = (*x[:axis], *x[axis + 1 :])
    found = op.node.meta["val"]
    return [out for _ in found] if isinstance(found, tuple | list) else out


def _set_roll(op: Op, kept: Kept) -> None:
    shifts, x = list(op.arguments["shifts"]), list(op.dims("self"))
    for number, (axis, shift) in enumerate(zip(op.arguments["dims"], shifts, strict=True)):
        dim = x[axis]
        if not isinstance(dim, Fixed):
            # As many indices come round as stay of those that came round.
            shifts[number] = int(kept.mask(dim[dim.size - shift % dim.size :]).sum())
            x[axis] = np.roll(dim, shift)
    op.set("shifts", shifts)


@rule("roll", rewrite=_set_roll)
def roll(op: Op) -> Value:
    """Indices move round: each stays what it is."""
    x, shifts = list(op.dims("self")), op.arguments["shifts"]
    if not op.arguments["dims"] or not all(isinstance(s, int) for s in shifts):
        raise Decline
    for axis, shift in zip(op.arguments["dims"], shifts, strict=True):
        dim = x[axis]
        x[axis] = dim if isinstance(dim, Fixed) else np.roll(dim, shift)
    return tuple(x)


@rule("slice_scatter")
def slice_scatter(op: Op) -> Value:
    """What `x[:, 1:] += y` becomes: the slice's axis stays whole, the others go with both."""
    x, source = op.dims("self"), op.dims("src")
    axis = op.axis("dim", len(x))
    size, end = op.shape("self")[axis], op.arguments["end"]
    covers = end is None or (isinstance(end, int) and isinstance(size, int) and end >= size)
    covers = covers and not op.arguments["start"] and op.arguments["step"] == 1
    if not covers:
        op.freeze((x[axis], source[axis]))
    return tuple(
        a if i == axis and not covers else op.unite(a, b)
        for i, (a, b) in enumerate(zip(x, source, strict=True))
    )


@rule("triu", "tril")
def triangle(op: Op) -> Value:
    """Which entries of the last two dimensions are cleared depends on their numbers."""
    x = op.dims("self")
    op.freeze(x[-2:])
    return (*x[:-2], Fixed(op.cause), Fixed(op.cause))


@rule("repeat_interleave")
def repeat_interleave(op: Op) -> Value:
    """Each index of one dimension several times in a row."""
    x, times = op.dims("self"), op.arguments["repeats"]
    if not isinstance(times, int) or op.arguments.get("dim") is None:
        raise Decline
    axis = op.axis("dim", len(x))
    dim = x[axis]
    repeated = np.repeat(dim, times) if not isinstance(dim, Fixed) else Fixed(op.cause)
    return (*x[:axis], repeated, *x[axis + 1 :])


@rule("im2col")
def im2col(op: Op) -> Value:
    """(…, c, h, w) → (…, c·kh·kw, windows): one channel becomes all places of its window."""
    x = op.dims("self")
    op.freeze(x[-2:])
    kernel = int(np.prod(op.arguments["kernel_size"]))
    channel = x[-3]
    spread = Fixed(op.cause) if isinstance(channel, Fixed) else np.repeat(channel, kernel)
    return (*x[:-3], spread, Fixed(WINDOW))


@rule("col2im")
def col2im(op: Op) -> Value:
    """(…, c·kh·kw, windows) → (…, c, h, w): what one channel was made of goes together."""
    x = op.dims("self")
    op.freeze(x[-1])
    channel = x[-2]
    if not isinstance(channel, Fixed):
        places = channel.reshape(-1, int(np.prod(op.arguments["kernel_size"])))
        op.unite(places, np.broadcast_to(places[:, :1], places.shape))
        channel = places[:, 0]
    return (*x[:-2], channel, Fixed(WINDOW), Fixed(WINDOW))


@rule("unfold")
def unfold(op: Op) -> Value:
    """Windows over one dimension, which stays; the window is a new last dimension."""
    x = op.dims("self")
    axis = op.axis("dimension", len(x))
    op.freeze(x[axis])
    return (*x[:axis], Fixed(WINDOW), *x[axis + 1 :], Fixed(WINDOW))
