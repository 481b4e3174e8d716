"""Views: which index of the input is which index of the output.

A view keeps the order of the elements and changes the dimensions. Read from the last dimension, it
falls into blocks with equal products: one dimension to one (the same indices), several to one
(C·H·W flattened), one to several (heads by head size), or several to several. In a block the
dimensions factor into *fine* dimensions. The kept set must stay rectangular, so one fine dimension
is free to lose indices, and every index of it goes with its whole slab; the others stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch.fx import Node

from edgekit.prune.atoms import Dim, Dims, Fixed, Ids
from edgekit.prune.registry import Op, Size, is_one


@dataclass(frozen=True)
class _Span:
    """A dimension inside a block: strides of its last and of the next element outside it."""

    position: int
    low: int
    high: int


def _number(size: Size) -> Any:
    """A size as an int or as SymPy's expression: comparing SymInts would add guards."""
    return size if isinstance(size, int) else size.node.expr


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b) or (hasattr(a - b, "expand") and bool((a - b).expand() == 0))


def _smaller(a: Any, b: Any) -> bool | None:
    """Whether a < b where b/a or a/b is a whole number, None where it cannot be told."""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    if isinstance(a, int) != isinstance(b, int):
        return isinstance(a, int)
    ratio = (a / b).cancel()
    if ratio.is_number:
        return bool(ratio < 1)
    if (1 / ratio).is_polynomial():
        return True
    return False if ratio.is_polynomial() else None


def blocks(
    before: Sequence[Size], after: Sequence[Size]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Part two shapes of equal size into the smallest runs of equal products, from the last.

    Args:
        before: sizes without ones.
        after: sizes without ones.

    Returns:
        positions in `before` and in `after` of each block, in rising order within a block.
    """
    made = []
    i, j = len(before), len(after)
    while i > 0 and j > 0:
        top_i, top_j = i, j
        i, j = i - 1, j - 1
        left, right = _number(before[i]), _number(after[j])
        while not _equal(left, right):
            smaller = _smaller(left, right)
            if smaller is True and i > 0:
                i -= 1
                left = left * _number(before[i])
            elif smaller is False and j > 0:
                j -= 1
                right = right * _number(after[j])
            else:
                i, j = 0, 0
                break
        made.append((tuple(range(i, top_i)), tuple(range(j, top_j))))
    if i or j:
        made.append((tuple(range(i)), tuple(range(j))))
    return made


def _spans(shape: Sequence[Size], positions: Sequence[int]) -> list[_Span]:
    """Strides of the trailing dimensions whose sizes are numbers."""
    spans, stride = [], 1
    for position in reversed(positions):
        size = shape[position]
        if not isinstance(size, int):
            break
        spans.append(_Span(position, stride, stride * size))
        stride *= size
    return spans


def _whole(op: Op, dims: Dims, positions: Sequence[int]) -> Fixed:
    op.freeze([dims[p] for p in positions])
    fixed = [d for p in positions if isinstance(d := dims[p], Fixed)]
    return fixed[0] if len(fixed) == len(positions) and fixed else Fixed(op.cause)


def _candidates(ins: list[_Span], outs: list[_Span], dims: Dims) -> list[tuple[int, int]]:
    """Fine dimensions (low and high stride) that may lose indices, the largest first."""
    marks = sorted({1, *(s.high for s in ins), *(s.high for s in outs)})
    if any(b % a for a, b in pairwise(marks)):
        return []
    top = min(ins[-1].high, outs[-1].high) if ins and outs else 1
    free = [s for s in ins if not isinstance(dims[s.position], Fixed)]
    found = [
        (low, high)
        for low, high in pairwise(marks)
        if high <= top and any(s.low <= low and high <= s.high for s in free)
    ]
    return sorted(found, key=lambda f: (-(f[1] // f[0]), -f[1]))


# What may lie between a view that makes heads and the attention that uses them.
_CARRIES = frozenset(
    {"permute", "transpose", "select", "unbind", "split", "split_with_sizes", "chunk", "slice",
     "contiguous", "clone", "mul", "div", "add", "neg", "cat", "expand", "reshape", "view",
     "unsqueeze", "squeeze", "flatten", "layer_norm", "rms_norm", "to", "_to_copy", "movedim"}
)  # fmt: skip
_ATTENDS = frozenset({"scaled_dot_product_attention", "softmax", "_softmax"})
_PRODUCTS = frozenset({"matmul", "bmm", "baddbmm", "einsum"})


def leads_to_attention(node: Node) -> bool:
    """Whether what a view makes is a query, key or value."""
    seen, ahead = {node}, [(node, 0)]
    while ahead:
        here, products = ahead.pop()
        for user in here.users:
            schema = getattr(user.target, "_schema", None)
            kind = schema.name.partition("::")[2] if schema else "getitem"
            if kind in _ATTENDS:
                return True
            # A query or key meets the softmax after one product, a value not at all.
            after = products + (kind in _PRODUCTS)
            if user in seen or after > 1 or (kind not in _CARRIES | _PRODUCTS | {"getitem"}):
                continue
            if kind in _PRODUCTS and _is_weighted_by_softmax(user, here):
                return True
            seen.add(user)
            ahead.append((user, after))
    return False


def _is_weighted_by_softmax(product: Node, value: Node) -> bool:
    """Whether the other operand of a product is attention's weights."""
    others = [n for n in product.all_input_nodes if n is not value]
    for other in others:
        for _ in range(4):
            schema = getattr(other.target, "_schema", None)
            if schema is None:
                break
            if schema.name.partition("::")[2] in _ATTENDS:
                return True
            if not other.all_input_nodes:
                break
            other = other.all_input_nodes[0]
    return False


def _slab(span: _Span, low: int, high: int) -> tuple[int, int, int]:
    return (span.high // high, high // low, low // span.low)


def _couple(
    op: Op, key: str, dims: Dims, ins: list[_Span], outs: list[_Span]
) -> tuple[int, Ids] | None:
    """Choose the fine dimension that may lose indices.

    Returns:
        position of the output dimension that holds it, and that dimension's atoms; None where
        there is nothing to choose from.
    """
    found = _candidates(ins, outs, dims)
    if not found:
        return None
    wanted = op.policy.attention(op.node) if len(outs) > 1 and len(found) > 1 else None
    if wanted is not None and leads_to_attention(op.node):
        found.sort()
        if wanted == "heads":  # from the head size outwards: (…, heads, head size)
            found.append(found.pop(0))
    low, high = found[op.choose(key, len(found))]
    span = next(s for s in ins if s.low <= low and high <= s.high)
    dim = dims[span.position]
    if isinstance(dim, Fixed):
        return None
    cube = dim.reshape(_slab(span, low, high))
    free = cube[0, :, 0]
    op.unite(cube, np.broadcast_to(free[None, :, None], cube.shape))
    for other in ins:
        if other is not span:
            op.freeze(dims[other.position])
    op.probe(key, len(found), free)
    target = next(s for s in outs if s.low <= low and high <= s.high)
    spread = np.broadcast_to(free[None, :, None], _slab(target, low, high))
    return target.position, spread.reshape(-1)


def refactor(op: Op, dims: Dims, before: Sequence[Size], after: Sequence[Size]) -> Dims:
    """Dimensions of a view.

    Args:
        op: the operator.
        dims: the input's dimensions.
        before: the input's sizes.
        after: the output's sizes.

    Returns:
        the output's dimensions.
    """
    out: list[Dim] = [Fixed("(size one)") for _ in after]
    src = [i for i, s in enumerate(before) if not is_one(s)]
    dst = [i for i, s in enumerate(after) if not is_one(s)]
    for number, (left, right) in enumerate(
        blocks([before[i] for i in src], [after[i] for i in dst])
    ):
        ins, outs = [src[i] for i in left], [dst[i] for i in right]
        if len(ins) == len(outs) == 1 and _equal(_number(before[ins[0]]), _number(after[outs[0]])):
            out[outs[0]] = dims[ins[0]]
            continue
        in_spans, out_spans = _spans(before, ins), _spans(after, outs)
        coupled = _couple(op, str(number), dims, in_spans, out_spans)
        known = {s.position for s in in_spans} if coupled else set()
        rest = _whole(op, dims, [p for p in ins if p not in known])
        for position in outs:
            out[position] = rest if coupled is None else Fixed(op.cause)
        if coupled is not None:
            out[coupled[0]] = coupled[1]
    return tuple(out)
