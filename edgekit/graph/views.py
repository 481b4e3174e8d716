"""Views in a captured graph: which values share storage, and how a change of a view is undone.

`functionalise` needs three facts of every operator: whether its result is a view of an argument,
how to make the view again from a new base, and how to write a new view back into its base.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

aten = torch.ops.aten

# Their schemas say "alias", or nothing, but whether they copy depends on strides, dtype and mode.
_MAYBE = {
    "aten::reshape", "aten::contiguous", "aten::to", "aten::flatten", "aten::unflatten",
    "aten::reshape_as", "aten::ravel", "aten::type_as", "aten::view_as", "aten::expand_as",
    "aten::squeeze", "aten::float", "aten::resolve_conj", "aten::resolve_neg",
    "aten::atleast_1d", "aten::atleast_2d", "aten::atleast_3d", "aten::lift_fresh",
}  # fmt: skip
_LISTS = {"aten::split", "aten::split_with_sizes", "aten::chunk", "aten::unbind",
          "aten::tensor_split", "aten::hsplit", "aten::vsplit", "aten::dsplit"}  # fmt: skip
_RESHAPES = {"aten::view", "aten::reshape", "aten::flatten", "aten::unflatten", "aten::squeeze",
             "aten::unsqueeze", "aten::reshape_as", "aten::view_as", "aten::ravel",
             "aten::_unsafe_view", "aten::atleast_1d", "aten::atleast_2d",
             "aten::atleast_3d"}  # fmt: skip
_SAME = {"aten::alias", "aten::detach", "aten::contiguous", "aten::to", "aten::type_as",
         "aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::lift_fresh",
         "aten::feature_alpha_dropout", "aten::float", "aten::resolve_conj",
         "aten::resolve_neg"}  # fmt: skip
_OWN_INVERSE = {"aten::t", "aten::transpose", "aten::swapaxes", "aten::swapdims", "aten::mT",
                "aten::numpy_T", "aten::adjoint"}  # fmt: skip
_TWINS = {"__iand__": "bitwise_and", "__ior__": "bitwise_or", "__ixor__": "bitwise_xor",
          "__ilshift__": "__lshift__", "__irshift__": "__rshift__"}  # fmt: skip
_OVERLOADS = {("bernoulli_", "float"): "p", ("transpose_", ""): "int"}
_DROPOUTS = {"aten::dropout", "aten::feature_dropout", "aten::alpha_dropout",
             "aten::feature_alpha_dropout"}  # fmt: skip


def op_name(node: Node) -> str:
    """`aten::relu` for a node that calls an overload of it, an empty string for anything else."""
    target = node.target
    return target._schema.name if isinstance(target, torch._ops.OpOverload) else ""


def source_of(node: Node) -> Node | None:
    """The node that `node`'s result is a view of, None where it has storage of its own."""
    if node.op != "call_function":
        return None
    if node.target is operator.getitem:
        parent = node.args[0]
        if isinstance(parent, Node) and op_name(parent) in _LISTS:
            return parent
        return None
    name = op_name(node)
    if not name or not node.args or not isinstance(node.args[0], Node):
        return None
    source = node.args[0]
    if name in _LISTS:
        return source
    if name in _DROPOUTS:
        return source if node.args[2] is False else None  # off, it returns its very argument
    returns = node.target._schema.returns  # type: ignore[union-attr]
    annotated = bool(returns) and returns[0].alias_info is not None
    if name in _MAYBE or annotated:
        shared = shares_storage(node, source)
        return source if shared or (shared is None and annotated) else None
    return None


def shares_storage(node: Node, other: Node) -> bool | None:
    """Whether the two values of the capture lie in one storage, None where it does not say."""
    a, b = node.meta.get("val"), other.meta.get("val")
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return None
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


def write_back(view: Node, parent: Node, new: Node, emit: Callable[..., Node]) -> Node | None:
    """The value that `parent` has after its view `view` became `new`.

    Args:
        view: the view's original node.
        parent: the current value of what it is a view of (for a list, of what was split).
        new: the view's new value.
        emit: makes a node: emit(target, *args).

    Returns:
        A node, or None where this view cannot be written back.
    """
    name, args = op_name(view), view.args
    if view.target is operator.getitem:
        return _write_back_item(view, parent, new, emit)
    if name in _SAME or _is_whole(view):
        return new
    if name in _RESHAPES:
        return emit(aten.view_as.default, new, parent)
    if name in _OWN_INVERSE:
        return emit(view.target, new, *args[1:])
    if name == "aten::permute":
        order = [d % len(args[1]) for d in args[1]]  # type: ignore[arg-type, union-attr, operator]
        return emit(aten.permute.default, new, [order.index(i) for i in range(len(order))])
    if name == "aten::movedim" and isinstance(args[1], int):
        return emit(aten.movedim.int, new, args[2], args[1])
    scatter = {
        "aten::select": aten.select_scatter.default,
        "aten::slice": aten.slice_scatter.default,
        "aten::diagonal": aten.diagonal_scatter.default,
    }.get(name)
    if scatter is not None:
        return emit(scatter, parent, new, *args[1:])
    if name == "aten::narrow" and isinstance(args[2], int) and isinstance(args[3], int):
        return emit(aten.slice_scatter.default, parent, new, args[1], args[2], args[2] + args[3])
    return None


def _is_whole(view: Node) -> bool:
    """Whether a slice takes everything, as `x[:, 0]` does of axis 0."""
    if op_name(view) != "aten::slice":
        return False
    start, end, step = (view.args[i] if len(view.args) > i else None for i in (2, 3, 4))
    to_the_end = end is None or (isinstance(end, int) and end >= 2**62)
    return start in (None, 0) and to_the_end and step in (None, 1)


def _write_back_item(view: Node, parent: Node, new: Node, emit: Callable[..., Node]) -> Node | None:
    split, index = view.args
    assert isinstance(split, Node)  # noqa: S101 - source_of made sure
    if not isinstance(index, int):
        return None
    dim = _split_dim(split)
    if op_name(split) == "aten::unbind":
        return emit(aten.select_scatter.default, parent, new, dim, index)
    sizes = [part.shape[dim] for part in split.meta["val"]]
    if not all(isinstance(size, int) for size in sizes):
        return None
    index %= len(sizes)
    start = sum(sizes[:index])
    return emit(aten.slice_scatter.default, parent, new, dim, start, start + sizes[index])


def _split_dim(split: Node) -> int:
    for place, argument in enumerate(split.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name == "dim":
            if place < len(split.args):
                return int(split.args[place])  # type: ignore[arg-type]
            return int(split.kwargs.get("dim", argument.default_value or 0))  # type: ignore[arg-type]
    return {"aten::hsplit": 1, "aten::vsplit": 0, "aten::dsplit": 2}[op_name(split)]


def is_inplace_view(target: Any) -> bool:
    """Whether an operator changes only a tensor's shape in place, such as `unsqueeze_`."""
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.inplace_view in target.tags


def functional_twin(target: Any) -> Any | None:
    """The out-of-place twin of an in-place overload: `aten.relu_` → `aten.relu`."""
    namespace, _, name = target._schema.name.partition("::")
    if not name.endswith("_"):
        return None
    packet = getattr(getattr(torch.ops, namespace), _TWINS.get(name, name[:-1]), None)
    overload = _OVERLOADS.get((name, target._schema.overload_name), target._overloadname)
    if packet is None or overload not in packet.overloads():
        return None
    return getattr(packet, overload)
