"""Rules of operators that treat every element alone: activations, arithmetic, casts, dropout."""

from torch.fx import Node

from edgekit.prune.atoms import SINGLE, Dims, Fixed
from edgekit.prune.registry import Decline, Kept, Op, Value, count, rule


@rule(
    "hardswish", "log_sigmoid", "rrelu", "contiguous", "detach", "alias", "lift_fresh_copy", "to",
    "_to_copy", "type_as", "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout",
    "zeros_like", "ones_like", "full_like", "hardsigmoid", "clone", "relu6", "silu", "mish", "selu",
    "celu",
)  # fmt: skip
def unary(op: Op) -> Value:
    """y[i] = f(x[i]): the same indices. A second tensor, if any, only lends its dtype."""
    return op.dims("self" if "self" in op.arguments else "input")


def pointwise(op: Op) -> Value:
    """y[i] = f(a[i], b[i], …) with broadcasting: operands are coupled by position."""
    return _together(
        op, [n for n in op.node.all_input_nodes if isinstance(op.values.get(n), tuple)]
    )


@rule("where", "rsub", "masked_fill", "expand_as", "maximum", "minimum", "lerp")
def pointwise_untagged(op: Op) -> Value:
    """Element-wise operators that PyTorch does not mark as such."""
    return pointwise(op)


def _together(op: Op, nodes: list[Node]) -> Dims:
    if not nodes:
        raise Decline
    return op.broadcast([(op.dims(n), op.shape(n)) for n in nodes])


@rule("prelu")
def prelu(op: Op) -> Value:
    """y[c] = x[c] where positive, else w[c]·x[c]; w has one entry or one for each channel."""
    x, (w,) = op.dims("self"), op.dims("weight")
    if isinstance(w, Fixed) and w.cause == SINGLE:
        return x
    channel = 1 if len(x) > 1 else 0
    return (*x[:channel], op.unite(x[channel], w), *x[channel + 1 :])


@rule("glu")
def glu(op: Op) -> Value:
    """y[i] = x[i]·sigmoid(x[i + n/2]): both halves lose the same indices."""
    x = op.dims("self")
    axis = op.axis("dim", len(x))
    if isinstance(x[axis], Fixed):
        return x
    half = op.ids(x[axis], 0).reshape(2, -1)
    return (*x[:axis], op.unite(half[0], half[1]), *x[axis + 1 :])


@rule("softmax", "log_softmax", "_softmax", "_log_softmax")
def softmax(op: Op) -> Value:
    """A ratio to the sum over one dimension: that dimension must stay whole."""
    x = op.dims("self")
    axis = op.axis("dim", len(x))
    op.freeze(x[axis])
    return (*x[:axis], Fixed(op.cause), *x[axis + 1 :])


def _resize_factory(op: Op, kept: Kept) -> None:
    value = op.values[op.node]
    sizes = list(op.arguments["size"])
    if isinstance(value, tuple):
        op.set("size", [count(kept, d, s) for d, s in zip(value, sizes, strict=True)])


@rule("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", rewrite=_resize_factory)
def factory(op: Op) -> Value:
    """A tensor of one repeated value: any of its indices can go."""
    return tuple(op.fresh(s) for s in op.out_shape)


@rule("sym_size")
def size(op: Op) -> Value:
    """A size that the graph computes with: it stays what it is."""
    x = op.dims("self")
    op.freeze(x[op.axis("dim", len(x))])
    return None


@rule("_assert_tensor_metadata", rewrite=lambda op, _: op.set("size", None))
def assertion(op: Op) -> Value:
    """Checks a dtype, and perhaps a size that will be another one."""
    del op
    return None
