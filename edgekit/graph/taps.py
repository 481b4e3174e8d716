"""What layers inside a captured network compute, by the user's own names for them.

A tap is one more output of a copy of the graph, so it needs no hooks and trains like any output.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from edgekit.graph.program import Program, input_nodes, module_path, output_nodes

_FIRST = ("conv", "batch_norm", "group_norm", "instance_norm", "pool", "upsample", "pixel_shuffle")
_LAST = ("linear", "layer_norm", "rms_norm", "embedding", "lstm", "gru", "rnn", "attention")


@dataclass(frozen=True)
class Feature:
    """A tensor inside a network, one row a sample.

    Attributes:
        name: path of the module that returned it, or the graph's name for what the outermost
            module computes itself.
        node: the graph's name for it.
        channels: size of the axis of channels.
        positions: sizes of the other axes but the first; dynamic ones as text.
        axis: the axis of channels.
    """

    name: str
    node: str
    channels: int
    positions: tuple[int | str, ...]
    axis: int

    def __str__(self) -> str:
        """Name, channels and positions."""
        shape = ", ".join(map(str, (self.channels, *self.positions)))
        return f"{self.name} ({shape})"


def features(program: Program) -> dict[str, Feature]:
    """The features of a network by name, in the order in which they are computed.

    A module's feature is what it hands on: the last of its values that is used outside of it. Only
    floating-point tensors count whose first axis is the batch.
    """
    batch = _batch(program)
    outputs = {node.name for node in output_nodes(program.exported)}
    found: dict[str, Node] = {}
    for node in program.exported.graph.nodes:
        if node.op != "call_function" or node.name in outputs or not _fits(node, batch):
            continue
        if not module_path(node):
            found[node.name] = node
        for path in _paths(node):
            if any(path not in _paths(user) for user in node.users):
                found.pop(path, None)  # a later value takes its place in the order too
                found[path] = node
    return {name: _feature(name, node) for name, node in found.items()}


def add_outputs(module: GraphModule, nodes: Sequence[str]) -> None:
    """Let a module return the values of these nodes too, behind its own outputs, in place."""
    by_name = {node.name: node for node in module.graph.nodes}
    output = module.graph.output_node()
    _set_outputs(module, [*output.args[0], *(by_name[name] for name in nodes)])  # type: ignore[misc]


def drop_outputs(module: GraphModule, count: int) -> None:
    """Take the last `count` outputs away again, in place."""
    returned: Any = module.graph.output_node().args[0]
    _set_outputs(module, list(returned)[: len(returned) - count])


def _set_outputs(module: GraphModule, nodes: list[Node]) -> None:
    module.graph.output_node().args = (tuple(nodes),)
    codegen: Any = module.graph._codegen
    spec = pytree.tree_structure((0,) * len(nodes))
    codegen.pytree_info = codegen.pytree_info._replace(out_spec=spec)
    module.recompile()


def _batch(program: Program) -> str:
    """Size of the batch as text: a number or an expression."""
    return str(input_nodes(program.exported)[0].meta["val"].shape[0])


def _fits(node: Node, batch: str) -> bool:
    value = node.meta.get("val")
    return (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.dim() > 1
        and str(value.shape[0]) == batch
        and isinstance(value.shape[channel_axis(node)], int)
    )


def _paths(node: Node) -> list[str]:
    """The modules that a node was made in, from the outside in."""
    stack = node.meta.get("nn_module_stack") or {}
    return [re.sub(r"@\d+", "", path) for path, _ in stack.values() if path]


def _feature(name: str, node: Node) -> Feature:
    axis, shape = channel_axis(node), node.meta["val"].shape
    rest = (size for i, size in enumerate(shape) if i not in (0, axis))
    return Feature(
        name=name,
        node=node.name,
        channels=shape[axis],
        positions=tuple(size if isinstance(size, int) else str(size) for size in rest),
        axis=axis,
    )


def channel_axis(node: Node) -> int:
    """The axis of channels: the second behind a convolution, the last behind a linear layer.

    It is followed back through what keeps it (activations, sums, permutations). Where nothing
    tells, a sequence (n, tokens, channels) has it last, anything else second.
    """
    rank = int(node.meta["val"].dim())
    name = str(node.target)
    if any(word in name for word in _LAST):
        return rank - 1
    if any(word in name for word in _FIRST):
        return 1
    reshaped = any(word in name for word in ("view", "reshape", "flatten"))
    before = next((n for n in node.all_input_nodes if reshaped or _rank(n) == rank), None)
    if before is None or before.op != "call_function" or _rank(before) < 2:
        return 2 if rank == 3 else 1
    axis = channel_axis(before)
    return _kept(node, before, axis) if reshaped else _moved(node, axis, rank)


def _rank(node: Node) -> int:
    value = node.meta.get("val")
    return int(value.dim()) if isinstance(value, torch.Tensor) else -1


def _kept(node: Node, before: Node, axis: int) -> int:
    """Where a reshape leaves the channels: second or last where they were so and still are."""
    old, new = before.meta["val"].shape, node.meta["val"].shape
    if axis == 1 and str(new[1]) == str(old[1]):
        return 1
    if axis == len(old) - 1 and str(new[-1]) == str(old[-1]):
        return len(new) - 1
    return 2 if len(new) == 3 else 1


def _moved(node: Node, axis: int, rank: int) -> int:
    """Where a permutation puts an axis; where it is for any other operator."""
    name = str(node.target)
    order = list(range(rank))
    if "permute" in name:
        order = [int(d) % rank for d in node.args[1]]  # type: ignore[union-attr, arg-type]
    elif "transpose" in name or name.startswith("aten.mT"):
        pair = node.args[1:3] if "transpose" in name else (-2, -1)
        a, b = (int(d) % rank for d in pair)  # type: ignore[arg-type]
        order[a], order[b] = order[b], order[a]
    return order.index(axis) or 1
