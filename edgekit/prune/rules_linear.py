"""Rules of operators that contract: convolutions, linear layers, matrix products, attention.

A contracted index takes part in a sum: with it removed, the sum has one term less, which is what a
zero there would give.
"""

import numpy as np

from edgekit.graph.equation import letters
from edgekit.prune.atoms import SINGLE, WINDOW, Dim, Dims, Fixed, Ids
from edgekit.prune.registry import Decline, Kept, Op, Size, Value, count, is_one, rule


def _set_groups(op: Op, kept: Kept) -> None:
    if op.arguments["groups"] == 1:
        return
    weight, shape = op.dims("weight"), op.shape("weight")
    channel = 1 - len(weight)
    tensor = op.node if _transposed(op) else "input"
    outer = count(kept, op.dims(tensor)[channel], op.shape(tensor)[channel])
    op.set("groups", outer // count(kept, weight[1], shape[1]))


def _transposed(op: Op) -> bool:
    return "transpose" in op.cause or bool(op.arguments.get("transposed", False))


@rule(
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "convolution", rewrite=_set_groups,
)  # fmt: skip
def convolution(op: Op) -> Value:
    """y[b,o,p] = Σ_{i,k} x[b,i,p+k]·w[o,i,k] + bias[o], within groups of channels.

    The weight is (out, in/groups, *kernel); transposed, (in, out/groups, *kernel).
    """
    x, w, bias = op.dims("input"), op.dims("weight"), op.optional("bias")
    axis = len(x) - len(w) + 1
    if any(isinstance(s, int) is False for s in op.shape("weight")):
        raise Decline
    for dim in w[2:]:
        op.atoms.freeze(dim, WINDOW)
    op.freeze(x[axis + 1 :])
    groups = int(op.arguments["groups"])
    if groups == 1:
        w_in, w_out = (w[0], w[1]) if _transposed(op) else (w[1], w[0])
        op.unite(x[axis], w_in)
        out: Dim = w_out
    else:
        out = _grouped(op, x[axis], w, groups)
    if bias is not None:
        out = op.unite(out, bias[0])
    return (*x[:axis], out, *(Fixed(WINDOW) for _ in w[2:]))


def _grouped(op: Op, x: Dim, w: Dims, groups: int) -> Dim:
    """Whole groups go, or the same channels of every group: whichever leaves more to choose."""
    first, second = (int(s) for s in op.shape("weight")[:2])
    depthwise = (first // groups if _transposed(op) else second) == 1
    ways = [_whole_groups, _within_groups]
    if depthwise:
        ways = ways[:1]
    elif groups < max(first // groups, second):
        ways.reverse()
    way = ways[op.choose("groups", len(ways))]
    out, free = way(op, x, w, groups)
    op.probe("groups", len(ways), free)
    return out


def _whole_groups(op: Op, x: Dim, w: Dims, groups: int) -> tuple[Dim, Ids]:
    op.freeze(w[1])
    first, second = (int(s) for s in op.shape("weight")[:2])
    w0 = op.ids(w[0], first).reshape(groups, -1)
    group = w0[:, 0]
    op.unite(w0, np.broadcast_to(group[:, None], w0.shape))
    if _transposed(op):
        op.unite(x, w0.reshape(-1))
        return np.repeat(group, second), group
    per_group = second
    op.unite(x, np.repeat(group, per_group))
    return w0.reshape(-1), group


def _within_groups(op: Op, x: Dim, w: Dims, groups: int) -> tuple[Dim, Ids]:
    first, second = (int(s) for s in op.shape("weight")[:2])
    w0 = op.ids(w[0], first).reshape(groups, -1)
    w1 = op.ids(w[1], second)
    op.unite(w0, np.broadcast_to(w0[:1], w0.shape))
    if _transposed(op):
        op.unite(x, w0.reshape(-1))
        return np.tile(w1, groups), np.concatenate([w0[0], w1])
    op.unite(x, np.tile(w1, groups))
    return w0.reshape(-1), np.concatenate([w0[0], w1])


@rule("_weight_norm")
def weight_norm(op: Op) -> Value:
    """w[o,…] = g[o]·v[o,…]/‖v[o,…]‖: the norm is that of what stays."""
    v, g = op.dims("v"), op.dims("g")
    axis = op.axis("dim", len(v))
    if op.policy.normalization == "keep":
        op.freeze([d for a, d in enumerate(v) if a != axis])
    return (*v[:axis], op.unite(v[axis], g[axis]), *v[axis + 1 :])


@rule("linear")
def linear(op: Op) -> Value:
    """y[…,o] = Σ_i x[…,i]·w[o,i] + bias[o]."""
    x, w, bias = op.dims("input"), op.dims("weight"), op.optional("bias")
    if len(w) != 2:
        raise Decline
    op.unite(x[-1], w[1])
    out = w[0] if bias is None else op.unite(w[0], bias[0])
    return (*x[:-1], out)


def _product(op: Op, left: str, right: str) -> Dims:
    a, b = op.dims(left), op.dims(right)
    sa, sb = op.shape(left), op.shape(right)
    op.unite(a[-1], b[-2] if len(b) > 1 else b[-1])
    batch: Dims = ()
    if len(a) > 2 or len(b) > 2:
        batch = op.broadcast([(a[:-2], sa[:-2]), (b[:-2], sb[:-2])])
    return (*batch, *(a[-2:-1]), *(b[-1:] if len(b) > 1 else ()))


@rule("matmul", "mm", "bmm", "mv", "dot")
def matmul(op: Op) -> Value:
    """y[…,m,n] = Σ_k a[…,m,k]·b[…,k,n]."""
    names = list(op.arguments)
    return _product(op, names[0], names[1])


@rule("addmm", "baddbmm")
def addmm(op: Op) -> Value:
    """A weighted sum of c (broadcast) and the matrix product a·b."""
    names = list(op.arguments)
    result = _product(op, names[1], names[2])
    return op.broadcast([(result, op.out_shape), (op.dims("self"), op.shape("self"))])


@rule("einsum")
def einsum(op: Op) -> Value:
    """Einstein's summation: equal letters are coupled, letters of the output pass on."""
    tensors = op.arguments["tensors"]
    terms, right = letters(str(op.arguments["equation"]), [len(op.shape(t)) for t in tensors])
    found: dict[str, Dim] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        if len(set(term)) != len(term):
            raise Decline
        for letter, dim, size in zip(term, op.dims(tensor), op.shape(tensor), strict=True):
            if letter not in found or _stretches(found[letter]):
                found[letter] = dim
            elif not is_one(size):
                found[letter] = op.unite(found[letter], dim)
    return tuple(found[letter] for letter in right)


def _stretches(dim: Dim) -> bool:
    """A dimension of size one goes with any other, as in broadcasting."""
    return isinstance(dim, Fixed) and dim.cause == SINGLE


def _keep_scale(op: Op, kept: Kept) -> None:
    """The default scale is 1/√(head size): write it down before the head size changes."""
    del kept
    if op.arguments.get("scale") is None:
        op.set("scale", float(op.shape("query")[-1]) ** -0.5)


@rule("scaled_dot_product_attention", rewrite=_keep_scale)
def attention(op: Op) -> Value:
    """softmax(q·kᵀ·scale + mask)·v: q and k share the head size, all share batch and heads."""
    q, k, v = (op.dims(name) for name in ("query", "key", "value"))
    sq, sk, sv = (op.shape(name) for name in ("query", "key", "value"))
    if not isinstance(sq[-1], int):
        raise Decline
    if op.arguments.get("enable_gqa"):
        k, v = (_repeated_heads(d, s, sq) for d, s in ((k, sk), (v, sv)))
        sk, sv = ((*s[:-3], sq[-3], *s[-2:]) for s in (sk, sv))
    op.unite(q[-1], k[-1])
    op.freeze((q[-2], k[-2], v[-2]))
    operands = [(q[:-2], sq[:-2]), (k[:-2], sk[:-2]), (v[:-2], sv[:-2])]
    mask = op.optional("attn_mask")
    if mask is not None:
        op.freeze(mask[-2:])
        operands.append((mask[:-2], op.shape("attn_mask")[:-2]))
    return (*op.broadcast(operands), Fixed(op.cause), v[-1])


def _repeated_heads(dims: Dims, shape: tuple[Size, ...], query: tuple[Size, ...]) -> Dims:
    """Heads of a key or value as the query sees them: each serves several in a row."""
    if not (len(shape) > 2 and isinstance(shape[-3], int) and isinstance(query[-3], int)):
        raise Decline
    heads = dims[-3]
    if isinstance(heads, Fixed):
        return dims
    return (*dims[:-3], np.repeat(heads, query[-3] // shape[-3]), *dims[-2:])


@rule("embedding")
def embedding(op: Op) -> Value:
    """y[…,d] = w[index[…],d]: rows are named by the data and stay."""
    vocabulary, width = op.dims("weight")
    op.freeze(vocabulary)
    return (*op.dims("indices"), width)
