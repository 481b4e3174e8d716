"""Repeated residual blocks of a graph: where they are, and the graph with fewer of them.

A residual block adds what it computes to what it was given, so the network without it still says
something; where several of one form follow each other, any of them can go. They are found in the
graph itself, whatever the module's code looks like.

Where the value that a node makes is the only new one that later nodes look at, the network can be
cut. Between two cuts lies a segment; segments of one form in a row, that give the shape that they
took, are a stage of blocks. What an input alone decides that does not go through the blocks (an
attention mask) is there for all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgekit.errors import UsageError
from edgekit.graph.program import Program, module_path, rebuild

_ADD = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


@dataclass(frozen=True)
class Stage:
    """Blocks of one form, one after the other.

    Attributes:
        cuts: the value that goes into each block, and what comes out of the last.
        layers: where each block's nodes come from in the user's module.
    """

    cuts: tuple[Node, ...]
    layers: tuple[str, ...]

    def __len__(self) -> int:
        """Count the blocks."""
        return len(self.layers)


def find_stages(module: GraphModule) -> list[Stage]:
    """All rows of two or more residual blocks of one form, in the graph's order.

    Args:
        module: a functionalised training-IR graph, with shapes in its nodes' metadata.
    """
    inputs = [n for n in module.graph.nodes if n.op == "placeholder"]
    each = [_stages(_Graph(module, main)) for main in inputs]
    return max(each, key=lambda stages: sum(map(len, stages)), default=[])


def _stages(graph: "_Graph") -> list[Stage]:
    found: list[Stage] = []
    for cuts in graph.chains():
        forms = [graph.form(a, b) for a, b in pairwise(cuts)]
        at = 0
        while at < len(forms):
            period, count = _longest(graph, cuts, forms, at)
            if count < 2:
                at += 1
                continue
            ends = tuple(cuts[at : at + period * count + 1 : period])
            inside = [graph.between(a, b) for a, b in pairwise(ends)]
            found.append(Stage(ends, tuple(_place(nodes) for nodes in inside)))
            at += period * count
    return found


def keep_blocks(program: Program, share: float) -> tuple[Program, list[str]]:
    """The network with a share of the blocks of each stage, at least one, evenly spread.

    Args:
        program: the network; it is not changed.
        share: of the blocks of each stage that stay, between 0 and 1.

    Returns:
        The network, and the places of the blocks that are left out.

    Raises:
        UsageError: the graph has no repeated residual blocks, or none of them would go.
    """
    module = program.module()
    stages = find_stages(module)
    if not stages:
        raise UsageError(
            "The network has no two residual blocks of one form in a row, so no depth to choose.",
            "Leave `depth` out, or give `width`.",
        )
    gone: list[str] = []
    for stage in stages:
        kept, entry = _spread(len(stage), share), stage.cuts[0]
        for number, end in enumerate(stage.cuts[1:]):
            if number in kept:
                entry = end
            else:
                # What read the block reads what went into it; the block is dead then.
                end.replace_all_uses_with(entry)
                gone.append(stage.layers[number])
    if not gone:
        counts = ", ".join(str(len(stage)) for stage in stages)
        raise UsageError(
            f"`depth: {share:g}` leaves all blocks where they are: the stages have {counts}.",
            "Give a smaller share.",
        )
    # Random operators count as impure unless told otherwise: a dropout would hold its dead block.
    module.graph.eliminate_dead_code(lambda node: node.is_impure(impure_random=False))
    module.graph.lint()
    module.recompile()
    _forget(module)
    return rebuild(module, like=program), gone


def _spread(count: int, share: float) -> set[int]:
    """Which of a stage's blocks stay: the first, the last where two do, the rest evenly between."""
    left = max(1, int(count * share + 0.5))
    if left == 1:
        return {0}
    return {int(i * (count - 1) / (left - 1) + 0.5) for i in range(left)}


class _Graph:
    """What a graph's values depend on, and where it can be cut.

    Args:
        module: the graph.
        main: the input that goes through the blocks. What does not depend on it (a mask made ready
            inside the first block) counts as computed before everything that does.
    """

    def __init__(self, module: GraphModule, main: Node) -> None:
        self._module = module
        moving, after = set(), {main}  # values that depend on any input, and on this one
        for node in module.graph.nodes:
            if isinstance(node.meta.get("val"), torch.SymInt):
                continue  # a size, which a block works out and later ones use again
            if node.op == "placeholder" or any(n in moving for n in node.all_input_nodes):
                moving.add(node)
            if any(n in after for n in node.all_input_nodes):
                after.add(node)
        self._moving, self._after = moving, after
        order = [n for n in module.graph.nodes if n in moving and n.op != "output"]
        self._order = sorted(order, key=after.__contains__)
        self._at = {node: i for i, node in enumerate(self._order)}

    def chains(self) -> list[list[Node]]:
        """Cuts beside which the same other values live, in the graph's order.

        All that is made between two of them and read behind the second is the second itself.
        """
        end = len(self._order)
        last = {n: max((self._at.get(u, end) for u in n.users), default=-1) for n in self._order}
        alive: set[Node] = set()
        found: dict[frozenset[Node], list[Node]] = {}
        for i, node in enumerate(self._order):
            alive = {n for n in alive if last[n] > i}
            if last[node] > i and node in self._after:
                if isinstance(node.meta.get("val"), Tensor):
                    found.setdefault(frozenset(alive), []).append(node)
                alive.add(node)
        return [chain for chain in found.values() if len(chain) > 2]

    def between(self, entry: Node, end: Node) -> list[Node]:
        """The moving nodes after one cut, up to and with the next."""
        return self._order[self._at[entry] + 1 : self._at[end] + 1]

    def form(self, entry: Node, end: Node) -> tuple[str, ...]:
        """What a segment computes, whatever its weights: equal for segments of one form."""
        nodes = self.between(entry, end)
        names: dict[Node, Any] = {entry: "in", **{node: i for i, node in enumerate(nodes)}}

        def called(node: Node) -> Any:
            return names[node] if node in names else self._outside(node)

        return tuple(self._said(node, called) for node in nodes)

    @staticmethod
    def _said(node: Node, called: Callable[[Node], Any]) -> str:
        return f"{node.target} {map_arg((node.args, node.kwargs), called)}"

    def _outside(self, node: Node) -> Any:
        """A value from outside a segment: which one, or how each block makes its own of it."""
        if isinstance(size := node.meta.get("val"), torch.SymInt):
            return str(size)
        if node.op == "get_attr":
            owner, _, leaf = str(node.target).rpartition(".")
            value = getattr(self._module.get_submodule(owner), leaf)
            return (
                (tuple(value.shape), str(value.dtype)) if isinstance(value, Tensor) else node.name
            )
        if node.op == "placeholder" or node in self._after:
            return node.name
        return self._said(node, self._outside)

    def adds(self, entry: Node, end: Node) -> bool:
        """Whether a segment adds two values that both come from what went into it."""
        nodes = {entry, *self.between(entry, end)}
        return any(
            node.target in _ADD and sum(isinstance(a, Node) and a in nodes for a in node.args) == 2
            for node in nodes - {entry}
        )


def _longest(graph: _Graph, cuts: Sequence[Node], forms: Sequence[Any], at: int) -> tuple[int, int]:
    """Segments a block and blocks of the longest row of residual blocks that begins here."""
    best = (1, 1)
    for period in range(1, (len(forms) - at) // 2 + 1):
        block = forms[at : at + period]
        count = 1
        while forms[at + count * period : at + (count + 1) * period] == block:
            count += 1
        ends = cuts[at : at + count * period + 1 : period]
        if count < 2 or count * period <= best[0] * best[1]:
            continue
        parts = zip(cuts[at : at + period], cuts[at + 1 : at + period + 1], strict=True)
        if len({_shape(end) for end in ends}) == 1 and any(graph.adds(a, b) for a, b in parts):
            best = (period, count)
    return best


def _shape(node: Node) -> str:
    value = node.meta["val"]
    return f"{value.dtype}{[str(n) for n in value.shape]}"


def _place(nodes: Sequence[Node]) -> str:
    """The deepest module that three of four nodes come from, or the last node's name."""
    paths = [found.split(".") for node in nodes if (found := module_path(node))]
    if not paths:
        return nodes[-1].name
    # A block may begin behind its module's first node (with the ReLU of the one before).
    counts: dict[str, int] = {}
    for path in paths:
        for depth in range(1, len(path) + 1):
            name = ".".join(path[:depth])
            counts[name] = counts.get(name, 0) + 1
    most = [n for n, count in counts.items() if 4 * count >= 3 * len(paths)]
    return max(most, key=len, default=nodes[-1].name)


def _forget(module: GraphModule) -> None:
    """Remove the weights that no node reads any more."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    names += [name for name, _ in module.named_buffers(remove_duplicate=False)]
    for name in names:
        if name not in read:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)
