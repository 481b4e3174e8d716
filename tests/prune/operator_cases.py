"""Graphs that show what each rule must do: at least one for every operator that has a rule.

A new rule comes with a case here; `test_mutations.py` fails without one. A case is such that each
coupling, each freeze and each dimension of the rule matters: tensors all of whose dimensions could
go, and no two positions alike.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from operators import Case, Make, aten, items

CASES: dict[str, list[Case]] = {}


def add(names: str, *cases: Case) -> None:
    """Register graphs for operators, named in one string."""
    for name in names.split():
        CASES.setdefault(name, []).extend(cases)


def on(target: Callable[..., Any], *shape: int, **arguments: Any) -> Case:
    """An operator on one parameter; `args` are its positional arguments."""
    args = arguments.pop("args", ())
    outputs = arguments.pop("outputs", 0)
    positive = arguments.pop("positive", False)

    def made(m: Make) -> Any:
        found = target(m.p(*shape, positive=positive), *args, **arguments)
        return list(items(found, outputs)) if outputs else found

    return made


def each(names: str, *shape: int, args: tuple[Any, ...] = (), outputs: int = 0) -> None:
    """The same case for several operators with a `default` overload."""
    for name in names.split():
        add(name, on(getattr(aten, name).default, *shape, args=args, outputs=outputs))


# Element by element.

each("hardswish log_sigmoid contiguous detach alias lift_fresh_copy zeros_like ones_like clone "
     "hardsigmoid relu6 silu mish selu celu _to_copy rrelu", 5, 6)  # fmt: skip
each("full_like", 5, 6, args=(2.5,))
each("dropout feature_dropout alpha_dropout feature_alpha_dropout", 5, 6, args=(0.5, False))
add("to", on(aten.to.dtype, 5, 6, args=(torch.float64,)))
add("type_as", lambda m: aten.type_as.default(m.p(5, 6), m.p(3)))
for _name in ("rsub", "maximum", "minimum"):
    _call = aten.rsub.Tensor if _name == "rsub" else getattr(aten, _name).default
    add(_name, lambda m, call=_call: call(m.p(5, 6, 4), m.p(6, 1)))
add("max", lambda m: aten.max.other(m.p(5, 6), m.p(5, 1)))
add("min", lambda m: aten.min.other(m.p(5, 6), m.p(6)))
add("lerp", lambda m: aten.lerp.Tensor(m.p(5, 6), m.p(6), m.p(5, 1)))
add("where", lambda m: aten.where.self(aten.gt.Scalar(m.p(5, 6), 0), m.p(6), m.p(5, 1)))
add("masked_fill",
    lambda m: aten.masked_fill.Scalar(m.p(5, 6), aten.gt.Scalar(m.p(5, 1), 0), 2.0))  # fmt: skip
add("expand_as", lambda m: aten.expand_as.default(m.p(6), m.p(5, 6)))
add("prelu", lambda m: aten.prelu.default(m.p(4, 6, 3), m.p(6)),
    lambda m: aten.prelu.default(m.p(4, 6, 3), m.p(1)))  # fmt: skip
add("glu", on(aten.glu.default, 5, 8, 3, args=(1,)))
# Without a rule of their own: what PyTorch calls element-wise is.
ELEMENTWISE: dict[str, Case] = {
    "add": lambda m: aten.add.Tensor(m.p(5, 6, 4), m.p(6, 1)),
    "mul": lambda m: aten.mul.Tensor(m.p(6), m.p(5, 1)),
    "sigmoid": on(aten.sigmoid.default, 5, 6),
    "clamp": on(aten.clamp.default, 5, 6, args=(0.1, 0.4)),
    "pow": on(aten.pow.Tensor_Scalar, 5, 6, args=(2,)),
}
for _name in ("softmax", "log_softmax"):
    add(_name, on(getattr(aten, _name).int, 4, 5, 3, args=(1,)))
    add(f"_{_name}", on(getattr(aten, f"_{_name}").default, 4, 5, 3, args=(-1, False)))
for _name in ("zeros", "ones"):
    add(_name, lambda m, n=_name: aten.add.Tensor(
        m.call(getattr(aten, n).default, [5, 6]), m.p(5, 6)))  # fmt: skip
    add(f"new_{_name}",
        lambda m, n=_name: aten.add.Tensor(
            getattr(aten, f"new_{n}").default(m.p(2), [5, 6]), m.p(5, 6)
        ))  # fmt: skip
add("full", lambda m: aten.add.Tensor(m.call(aten.full.default, [5, 6], 2.0), m.p(5, 6)))
add("new_full", lambda m: aten.add.Tensor(aten.new_full.default(m.p(2), [5, 6], 2.0), m.p(5, 6)))


def _sized(m: Make) -> Any:
    x = m.p(5, 6)
    return aten.mul.Tensor(x, aten.sym_size.int(x, 0))


def _asserted(m: Make) -> Any:
    x = m.p(5, 6)
    aten._assert_tensor_metadata.default(x, [5, 6])
    return x


add("sym_size", _sized)
add("_assert_tensor_metadata", _asserted)

# Contractions.


def _convolution(
    target: Callable[..., Any], rank: int, groups: int, inner: int, outer: int, *, turned: bool
) -> Case:
    """Channels within a group: `inner` in, `outer` out."""

    def made(m: Make) -> Any:
        sides = [5, 4, 6][:rank]
        first, second = (groups * inner, outer) if turned else (groups * outer, inner)
        x = m.p(3, groups * inner, *sides)
        weight, bias = m.p(first, second, *[2, 3, 2][:rank]), m.p(groups * outer)
        ones, zeros = [1] * rank, [0] * rank
        if target is aten.convolution.default:
            return target(x, weight, bias, ones, zeros, ones, turned, zeros, groups)
        if turned:
            return target(x, weight, bias, ones, zeros, zeros, groups, ones)
        return target(x, weight, bias, ones, zeros, ones, groups)

    return made


# One group, few wide groups (channels within groups go), many narrow ones (groups go), depthwise.
_GROUPS = ((1, 5, 6), (2, 4, 6), (6, 2, 3), (6, 1, 1), (6, 1, 2))
for _rank in (1, 2, 3):
    for _groups, _inner, _outer in _GROUPS if _rank == 2 else _GROUPS[:3]:
        _build = partial(_convolution, rank=_rank, groups=_groups, inner=_inner, outer=_outer)
        add(f"conv{_rank}d", _build(getattr(aten, f"conv{_rank}d").default, turned=False))
        _call = getattr(aten, f"conv_transpose{_rank}d")
        add(f"conv_transpose{_rank}d",
            _build(_call.default if _rank == 1 else _call.input, turned=True))  # fmt: skip
        if _rank == 2:
            add("convolution", _build(aten.convolution.default, turned=False),
                _build(aten.convolution.default, turned=True))  # fmt: skip
add("conv2d", lambda m: aten.conv2d.default(m.p(5, 6, 6), m.p(4, 5, 3, 3)))  # without a batch
add("_weight_norm", lambda m: aten._weight_norm.default(m.p(5, 4, 3), m.p(5, 1, 1), 0),
    lambda m: aten._weight_norm.default(m.p(5, 4, 3), m.p(1, 4, 1), 1))  # fmt: skip
add("linear", lambda m: aten.linear.default(m.p(3, 4, 5), m.p(6, 5), m.p(6)))
add("matmul", lambda m: aten.matmul.default(m.p(4, 3, 5), m.p(4, 5, 6)),
    lambda m: aten.matmul.default(m.p(3, 5), m.p(4, 5, 6)),
    lambda m: aten.matmul.default(m.p(4, 3, 5), m.p(5)))  # fmt: skip
add("mm", lambda m: aten.mm.default(m.p(4, 5), m.p(5, 6)))
add("bmm", lambda m: aten.bmm.default(m.p(3, 4, 5), m.p(3, 5, 6)))
add("mv", lambda m: aten.mv.default(m.p(4, 5), m.p(5)))
add("dot", lambda m: aten.dot.default(m.p(5), m.p(5)))
add("addmm", lambda m: aten.addmm.default(m.p(6), m.p(4, 5), m.p(5, 6)),
    lambda m: aten.addmm.default(m.p(4, 1), m.p(4, 5), m.p(5, 6)))  # fmt: skip
add("baddbmm", lambda m: aten.baddbmm.default(m.p(4, 6), m.p(3, 4, 5), m.p(3, 5, 6)))
add("einsum", lambda m: aten.einsum.default("bij,bkj->bik", [m.p(3, 4, 5), m.p(3, 6, 5)]),
    lambda m: aten.einsum.default("...i,ij->...j", [m.p(3, 4, 5), m.p(5, 6)]),
    lambda m: aten.einsum.default("ij,kj->ik", [m.p(4, 1), m.p(6, 5)]))  # fmt: skip
add("embedding", lambda m: aten.embedding.default(m.p(7, 6), m.constant([[1, 5, 0], [6, 2, 2]])))


def _attention(m: Make, heads: tuple[int, ...] = (3,), *, mask: bool = False) -> Any:
    q, k, v = m.p(2, *heads, 4, 6), m.p(2, *heads, 5, 6), m.p(2, *heads, 5, 4)
    given = {"attn_mask": m.p(2, *heads, 4, 5)} if mask else {}
    return aten.scaled_dot_product_attention.default(q, k, v, **given)


def _grouped_attention(m: Make) -> Any:
    q, k, v = m.p(2, 6, 4, 6), m.p(2, 3, 5, 6), m.p(2, 3, 5, 4)
    return aten.scaled_dot_product_attention.default(q, k, v, enable_gqa=True)


add("scaled_dot_product_attention", _attention, partial(_attention, mask=True), _grouped_attention)

# Recurrent layers.


def _weights(
    m: Make, gates: int, reads: int, units: int, projected: int | None = None
) -> list[Any]:
    state = projected or units
    made = [m.p(gates * units, reads), m.p(gates * units, state)]
    made += [m.p(gates * units), m.p(gates * units)]
    return [*made, m.p(projected, units)] if projected else made


def _recurrent(m: Make, name: str, *, layers: int, directions: int) -> Any:
    gates, call = {"lstm": 4, "gru": 3}.get(name, 1), getattr(aten, name).input
    x, states = m.p(2, 3, 5), [m.p(layers * directions, 2, 6) for _ in range(2)]
    hx = states if name == "lstm" else states[0]
    params: list[Any] = []
    for layer in range(layers):
        for _ in range(directions):
            params += _weights(m, gates, 5 if layer == 0 else 6 * directions, 6)
    found = call(x, hx, params, True, layers, 0.0, False, directions == 2, True)
    return list(items(found, 3 if name == "lstm" else 2))


def _projected(m: Make) -> Any:
    params = [*_weights(m, 4, 5, 6, 4), *_weights(m, 4, 4, 6, 4)]
    hx = [m.p(2, 2, 4), m.p(2, 2, 6)]
    return list(
        items(aten.lstm.input(m.p(2, 3, 5), hx, params, True, 2, 0.0, False, False, True), 3)
    )


def _cell(m: Make, name: str) -> Any:
    gates = {"lstm_cell": 4, "gru_cell": 3}.get(name, 1)
    states = [m.p(2, 6), m.p(2, 6)]
    found = getattr(aten, name).default(
        m.p(2, 5), states if name == "lstm_cell" else states[0], *_weights(m, gates, 5, 6)
    )
    return list(items(found, 2)) if name == "lstm_cell" else found


for _name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    add(_name, partial(_recurrent, name=_name, layers=1, directions=1),
        partial(_recurrent, name=_name, layers=2, directions=2))  # fmt: skip
    add(f"{_name}_cell", partial(_cell, name=f"{_name}_cell"))
add("lstm", _projected)

# Moving indices.

for _name in ("view", "reshape", "_unsafe_view"):
    _call = getattr(aten, _name).default
    add(_name, on(_call, 3, 5, 4, args=([3, 20],)), on(_call, 3, 20, args=([3, 5, 4],)),
        on(_call, 3, 5, 4, args=([3, 4, 5],)),
        on(_call, 3, 5, 1, 4, args=([3, 5, 4],)))  # fmt: skip
for _name in ("view_as", "reshape_as"):
    _call = getattr(aten, _name).default
    add(_name, lambda m, call=_call: call(m.p(3, 20), m.p(3, 5, 4)),
        lambda m, call=_call: call(m.p(3, 5, 4), m.p(3, 20)))  # fmt: skip
add("flatten", on(aten.flatten.using_ints, 3, 5, 4, args=(1,)))
add("squeeze", on(aten.squeeze.dim, 3, 1, 4, args=(1,)))
add("unsqueeze", on(aten.unsqueeze.default, 3, 4, args=(1,)))
add("unflatten", on(aten.unflatten.int, 3, 20, 2, args=(1, [5, 4])))
add("permute", on(aten.permute.default, 3, 5, 4, args=([2, 0, 1],)))
add("transpose", on(aten.transpose.int, 3, 5, 4, args=(0, 2)))
add("swapaxes", on(aten.swapaxes.default, 3, 5, 4, args=(0, 2)))
add("swapdims", on(aten.swapdims.default, 3, 5, 4, args=(0, 2)))
each("t numpy_T mT", 5, 4)
add("movedim", on(aten.movedim.int, 3, 5, 4, args=(0, 2)))
add("expand", lambda m: aten.add.Tensor(
    aten.expand.default(m.p(1, 4), [3, 5, 4]), m.p(3, 5, 4)))  # fmt: skip
add("repeat", lambda m: aten.add.Tensor(
    aten.repeat.default(m.p(1, 4), [3, 5, 2]), m.p(3, 5, 8)))  # fmt: skip
add("flip", on(aten.flip.default, 3, 5, 4, args=([1],)))
add("cat concat concatenate", *(
    lambda m, axis=a: getattr(aten, m.name).default([m.p(3, 5), m.p(*((4, 5), (3, 4))[axis])], axis)
    for a in (0, 1)
))  # fmt: skip
add("stack", lambda m: aten.stack.default([m.p(3, 5), m.p(3, 5)], 1))


def _broken_up(m: Make) -> Any:
    """Pieces of one index, which broadcast."""
    found = items(aten.split.Tensor(m.p(3, 4), 1, 1), 4)
    return [aten.add.Tensor(piece, m.p(3, 5)) for piece in found]


add("split", lambda m: list(items(aten.split.Tensor(m.p(3, 8), 4, 1), 2)), _broken_up)
add("split_with_sizes",
    lambda m: list(items(aten.split_with_sizes.default(m.p(3, 9), [2, 4, 3], 1), 3)))  # fmt: skip
add("chunk", lambda m: list(items(aten.chunk.default(m.p(3, 9), 2, 1), 2)))
add("tensor_split", lambda m: list(items(aten.tensor_split.sections(m.p(3, 9), 2, 1), 2)))
add("slice", on(aten.slice.Tensor, 3, 9, args=(1, 2, 7)), on(aten.slice.Tensor, 9, args=(0, -4)),
    on(aten.slice.Tensor, 3, 9, args=(1, 1, 9, 2)),
    lambda m: aten.add.Tensor(aten.slice.Tensor(m.p(3, 9), 1, 4, 5), m.p(3, 4)))  # fmt: skip
add("narrow", on(aten.narrow.default, 3, 9, args=(1, 2, 5)),
    lambda m: aten.add.Tensor(aten.narrow.default(m.p(3, 9), 1, 2, 1), m.p(3, 4)))  # fmt: skip
add("select", on(aten.select.int, 3, 9, 4, args=(1, 3)), on(aten.select.int, 3, 9, args=(1, -2)))
add("unbind", lambda m: list(items(aten.unbind.int(m.p(4, 3, 5), 1), 3)),
    lambda m: list(items(aten.unbind.int(m.p(4, 7, 5), 1), 6))[1::2])  # fmt: skip
add("roll", on(aten.roll.default, 3, 7, 5, args=([2], [1])),
    on(aten.roll.default, 3, 7, 5, args=([-3, 1], [1, 2])))  # fmt: skip
add("pad constant_pad_nd", lambda m: aten.add.Tensor(
    getattr(aten, m.name).default(m.p(3, 5), [2, 1]), m.p(3, 8)))  # fmt: skip
add("pad", on(aten.pad.default, 3, 4, 6, args=([2, 1], "reflect")),
    on(aten.pad.default, 3, 6, args=([-1, 1],)))  # fmt: skip

# Picking, ordering, repeating.


def _indexed(call: Callable[[Any, list[Any]], Any], shape: tuple[int, ...], *orders: Any) -> Case:
    """Indexing by constants that something else reads too, so that they could go."""

    def made(m: Make) -> Any:
        given = [m.constant(order) for order in orders]
        others = [
            aten.mul.Tensor(g, m.p(*torch.tensor(o).shape))
            for g, o in zip(given, orders, strict=True)
        ]
        return [call(m.p(*shape), given), *others]

    return made


_ORDER = [3, 1, 4, 0, 2]
add("index", _indexed(lambda x, i: aten.index.Tensor(x, [None, i[0]]), (3, 5), _ORDER),
    _indexed(lambda x, i: aten.index.Tensor(x, [None, i[0]]), (3, 5, 4), [[3, 1], [0, 2]]),
    _indexed(lambda x, i: aten.index.Tensor(x, [i[0], None, i[1]]), (3, 5, 4), [2, 0], [3, 1]),
)  # fmt: skip
add("index_select",
    _indexed(lambda x, i: aten.index_select.default(x, 1, i[0]), (3, 5), _ORDER),
    lambda m: aten.index_select.default(
        m.p(3, 5), 1, aten.relu.default(m.constant(_ORDER))))  # fmt: skip
add("gather", lambda m: aten.gather.default(
    m.p(4, 5), 1, aten.to.dtype(aten.relu.default(m.p(4, 6)), torch.int64)))  # fmt: skip
each("cumsum cumprod logcumsumexp argsort", 3, 5, 4, args=(1,))
each("sort cummax cummin", 3, 5, 4, args=(1,), outputs=2)
each("topk", 3, 6, 4, args=(2, 1), outputs=2)
add("kthvalue", on(aten.kthvalue.default, 3, 6, 4, args=(2, 1), outputs=2),
    on(aten.kthvalue.default, 3, 6, 4, args=(2, 1, True), outputs=2))  # fmt: skip
each("triu tril", 3, 5, 4)
add("repeat_interleave", on(aten.repeat_interleave.self_int, 3, 5, args=(2, 1)))
add("slice_scatter", lambda m: aten.slice_scatter.default(m.p(3, 9, 4), m.p(3, 5, 4), 1, 2, 7),
    lambda m: aten.slice_scatter.default(m.p(3, 9, 4), m.p(3, 4, 4), 1, 1, 9, 2),
    lambda m: aten.slice_scatter.default(m.p(3, 9), m.p(3, 9), 1, 0, 2**63 - 1),
    lambda m: aten.slice_scatter.default(m.p(3, 9), m.p(3, 9), 1))  # fmt: skip
add("im2col", on(aten.im2col.default, 2, 4, 5, 6, args=([2, 2], [1, 1], [0, 0], [1, 1])))
add("col2im", on(aten.col2im.default, 2, 12, 12, args=(
    [4, 5], [2, 2], [1, 1], [0, 0], [1, 1])))  # fmt: skip
add("unfold", on(aten.unfold.default, 3, 6, 4, args=(1, 2, 2)))

# Inside channels.

_RUNNING = [torch.linspace(low, 2, 5, dtype=torch.float64) for low in (-1, 0.5)]
add("batch_norm", lambda m: aten.batch_norm.default(
    m.p(3, 5, 4), m.p(5), m.p(5), *map(m.constant, _RUNNING), False, 0.1, 1e-5, True),
    lambda m: aten.batch_norm.default(
    m.p(3, 5, 4), m.p(5), m.p(5), None, None, True, 0.1, 1e-5, True))  # fmt: skip
add("instance_norm", lambda m: aten.instance_norm.default(
    m.p(3, 5, 6), m.p(5), m.p(5), None, None, True, 0.1, 1e-5, True),
    lambda m: aten.instance_norm.default(
    m.p(3, 5, 6), m.p(5), m.p(5), *map(m.constant, _RUNNING), False, 0.1, 1e-5, True))  # fmt: skip
add("group_norm", lambda m: aten.group_norm.default(m.p(3, 8, 5), 4, m.p(8), m.p(8)),
    lambda m: aten.group_norm.default(m.p(3, 8, 5), 1, m.p(8), m.p(8)))  # fmt: skip
add("layer_norm", lambda m: aten.layer_norm.default(m.p(3, 4, 6), [6], m.p(6), m.p(6)),
    lambda m: aten.layer_norm.default(m.p(3, 4, 6), [4, 6], m.p(4, 6), m.p(4, 6)))  # fmt: skip
add("rms_norm", lambda m: aten.rms_norm.default(m.p(3, 4, 6), [6], m.p(6)),
    lambda m: aten.rms_norm.default(m.p(3, 4, 6), [4, 6], m.p(4, 6)))  # fmt: skip
_SIDES = {1: (8,), 2: (8, 6), 3: (6, 4, 8)}
for _rank, _sides in _SIDES.items():
    _shape, _half = (3, 5, *_sides), [s // 2 for s in _sides]
    _double, _twos = [2 * s for s in _sides], [2] * _rank
    each(f"max_pool{_rank}d avg_pool{_rank}d", *_shape, args=(_twos,))
    each(f"max_pool{_rank}d_with_indices", *_shape, args=(_twos,), outputs=2)
    each(f"adaptive_avg_pool{_rank}d", *_shape, args=(_half,))
    each(f"adaptive_max_pool{_rank}d", *_shape, args=(_half,), outputs=2)
    each(f"upsample_nearest{_rank}d _upsample_nearest_exact{_rank}d", *_shape, args=(_double,))
    each(f"reflection_pad{_rank}d replication_pad{_rank}d", *_shape, args=([1, 2] * _rank,))
    each({1: "upsample_linear1d", 3: "upsample_trilinear3d",
          2: "upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa "
             "_upsample_bicubic2d_aa"}[_rank], *_shape, args=(_double, False))  # fmt: skip
add("sum", on(aten.sum.dim_IntList, 3, 5, 4, args=([1],)),
    on(aten.sum.dim_IntList, 3, 5, 4, args=([1], True)))  # fmt: skip
add("linalg_vector_norm", on(aten.linalg_vector_norm.default, 3, 5, 4, args=(2, [1])),
    on(aten.linalg_vector_norm.default, 3, 5, 4, args=(-1, [1])))  # fmt: skip
add("any", lambda m: aten.any.dim(aten.gt.Scalar(m.p(3, 5, 4), 0.5), 1))
add("all", lambda m: aten.all.dim(aten.gt.Scalar(m.p(5, 2, 4), -0.5), 1))
add("mean", on(aten.mean.dim, 3, 5, 4, args=([1],)), on(aten.mean.default, 3, 5))
# Without a correction, since a single number that stays has no variance with one.
add("var", on(aten.var.correction, 3, 5, 4, args=([1],), correction=0))
add("std", on(aten.std.correction, 3, 5, 4, args=([1],), correction=0))
for _name in ("var_mean", "std_mean"):
    add(_name, on(getattr(aten, _name).correction, 3, 5, 4, args=([1],), outputs=2, correction=0))
each("amax amin logsumexp", 3, 5, 4, args=([1],))
each("argmax argmin", 3, 5, 4, args=(1,))
for _name in ("max", "min", "median"):
    add(_name, on(getattr(aten, _name).dim, 3, 5, 4, args=(1,), outputs=2))
add("prod", on(aten.prod.dim_int, 3, 5, 4, args=(1,)))
add("norm", on(aten.norm.ScalarOpt_dim, 3, 5, 4, args=(2, [1])),
    on(aten.norm.ScalarOpt_dim, 3, 5, 4, args=(-1, [1])))  # fmt: skip
add("grid_sampler", lambda m: aten.grid_sampler.default(
    m.p(3, 5, 4, 6), aten.tanh.default(m.p(3, 6, 5, 2)), 0, 0, False))  # fmt: skip
add("pixel_shuffle", on(aten.pixel_shuffle.default, 2, 20, 3, 4, args=(2,)))
add("pixel_unshuffle", on(aten.pixel_unshuffle.default, 2, 5, 6, 8, args=(2,)))
each("channel_shuffle native_channel_shuffle", 2, 12, 3, 4, args=(3,))
