"""Which nodes of a file each kernel stands for, once ONNX Runtime has fused and rearranged them.

A user knows the nodes of the file; a profile knows kernels such as a convolution with its
activation, named after the activation alone. Names follow no rule that holds from version to
version, but tensors do: a fused node still reads and makes tensors of the file, and what lies
between them is what it stands for. Three cases need more than that:

- Kernels joined by tensors of the runtime's own (a matrix product that became Reshape, Gemm and
  Reshape) stand for their nodes together: they are one group.
- Kernels in another memory layout (blocked, or channels last) exchange such tensors from end to
  end. The runtime calls them after a node of the file, or after the tensor that it made, with
  `_nchwc` or `_token_3` behind it.
- What follows that node and makes no tensor (a sum or an activation fused into a convolution, the
  QuantizeLinear behind an int8 kernel) belongs to the kernel, too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.bench.onnx_graph import Graph, Node

CALLED_AFTER = re.compile(r"(.+?)(?:_nchwc)?(?:_token_\d+)?")
LAYOUT = frozenset({"ReorderInput", "ReorderOutput", "Transpose"})
# What a kernel in another layout swallows behind the node that it is called after.
SWALLOWED = frozenset(
    {"Add", "Clip", "HardSigmoid", "LeakyRelu", "QuantizeLinear", "Relu", "Sigmoid", "Sum", "Tanh"}
)
# These move or convert values; beside a node that computes they do not make a group's name.
PLUMBING = frozenset({"Cast", "Constant", "DequantizeLinear", "Identity", "QuantizeLinear"})


@dataclass(frozen=True)
class Group:
    """Kernels, and the nodes of the file that they stand for together.

    Attributes:
        kernels: places in the optimized graph, in order.
        nodes: names of nodes of the file, in order; none where it only rearranges memory.
        after: where there are no nodes, those whose output is rearranged.
    """

    kernels: tuple[int, ...]
    nodes: tuple[str, ...]
    after: tuple[str, ...] = ()


def groups(original: Graph, optimized: Graph) -> list[Group]:
    """Match the graph that runs with the graph of the file.

    Args:
        original: of the file.
        optimized: of the same file as the runtime runs it.

    Returns:
        Every kernel in one group, in the order of their first kernels.
    """
    matching = _Matching(original, optimized)
    members = matching.members()
    claims = matching.claim(members)
    found = []
    for number, kernels in enumerate(members):
        nodes = [place for place, owner in claims.items() if owner == number]
        after: list[int] = []
        if not nodes:
            made = {matching.origin(t) for k in kernels for t in optimized.nodes[k].inputs}
            feeds = {claims.get(matching.producer.get(t or "", -1)) for t in made}
            after = [place for place, owner in claims.items() if owner in feeds - {None}]
        found.append(Group(tuple(kernels), _names(original, nodes), _names(original, after)))
    return found


class _Matching:
    """Tensors of the file, and which of the runtime's own stand for them."""

    def __init__(self, original: Graph, optimized: Graph) -> None:
        self.original, self.optimized = original, optimized
        self.producer = {t: i for i, node in enumerate(original.nodes) for t in node.outputs if t}
        self.constant = _constant_nodes(original)
        self.fixed = original.constants | {
            t for place in self.constant for t in original.nodes[place].outputs
        }
        self.readers: dict[str, list[int]] = {}
        for place, node in enumerate(original.nodes):
            for tensor in node.inputs:
                self.readers.setdefault(tensor, []).append(place)
        self.known = {*self.producer, *original.inputs}
        self.alias = self._aliases()

    def origin(self, tensor: str) -> str | None:
        """The file's tensor that a tensor of the optimized graph is, if any."""
        return tensor if tensor in self.known else self.alias.get(tensor)

    def _aliases(self) -> dict[str, str]:
        named = self.producer | {node.name: i for i, node in enumerate(self.original.nodes)}
        bases = {node.name: _base(node, named) for node in self.optimized.nodes}
        kernels = {*bases.values()} - {None}
        made = {t for node in self.optimized.nodes for t in node.outputs}
        found: dict[str, str] = {}
        for node in self.optimized.nodes:
            output = node.outputs[0] if node.outputs else ""
            if output in self.known:
                continue
            inputs = {found.get(t, t) for t in node.inputs if t in self.known or t in found}
            base = bases[node.name]
            if base is not None:
                found[output] = self._swallow(base, inputs, kernels, made)
            elif node.op in LAYOUT and len(inputs) == 1:
                found[output] = next(iter(inputs))
        return found

    def _swallow(
        self, place: int, inputs: set[str], kernels: set[int | None], made: set[str]
    ) -> str:
        """The tensor that a kernel makes: its node's, or that of what it swallows behind it."""
        tensor = self.original.nodes[place].outputs[0]
        while True:
            readers = self.readers.get(tensor, [])
            for place in readers:
                node = self.original.nodes[place]
                others = {t for t in node.inputs if t and t != tensor}
                if (
                    node.op in SWALLOWED
                    and place not in kernels
                    and not made & set(node.outputs)
                    and others <= inputs | self.fixed
                ):
                    tensor = node.outputs[0]
                    break
            else:
                return tensor

    def members(self) -> list[list[int]]:
        """Kernels, grouped where a tensor of the runtime's own joins them."""
        parent = list(range(len(self.optimized.nodes)))

        def root(place: int) -> int:
            while parent[place] != place:
                place = parent[place]
            return place

        makers: dict[str, int] = {}
        for place, node in enumerate(self.optimized.nodes):
            for tensor in node.inputs:
                if tensor in makers:
                    parent[root(place)] = root(makers[tensor])
            makers.update({t: place for t in node.outputs if t and self.origin(t) is None})
        found: dict[int, list[int]] = {}
        for place in range(len(parent)):
            found.setdefault(root(place), []).append(place)
        return sorted(found.values())

    def claim(self, members: list[list[int]]) -> dict[int, int]:
        """Node of the file (its place) to the group that computes it."""
        kernels = self.optimized.nodes
        made = {self.origin(t) for node in kernels for t in node.outputs}
        claims: dict[int, int] = {}
        for number, group in enumerate(members):
            read = {self.origin(t) for k in group for t in kernels[k].inputs}
            ends = {self.origin(t) for k in group for t in kernels[k].outputs} - read
            self._walk_back({t for t in ends if t}, made | read, number, claims)
        last = {number: group[-1] for number, group in enumerate(members)}
        for place, node in enumerate(self.original.nodes):
            if place in claims or place in self.constant:
                continue
            feeds = {claims.get(self.producer.get(t, -1)) for t in node.inputs} - {None}
            if feeds:
                claims[place] = max((f for f in feeds if f is not None), key=lambda f: last[f])
        return dict(sorted(claims.items()))

    def _walk_back(
        self, ends: set[str], stops: set[str | None], number: int, claims: dict[int, int]
    ) -> None:
        """Claim what makes the `ends`, back to tensors that another kernel makes."""
        pending = sorted(ends)
        while pending:
            place = self.producer.get(pending.pop())
            if place is None or place in claims or place in self.constant:
                continue
            claims[place] = number
            pending += [t for t in self.original.nodes[place].inputs if t not in stops]


def _base(kernel: Node, named: dict[str, int]) -> int | None:
    """The node of the file that a kernel is called after, by its name or its tensor's, if any."""
    if kernel.op in LAYOUT:
        return None  # these are the runtime's own, whatever they are called
    found = CALLED_AFTER.fullmatch(kernel.name)
    return named.get(kernel.name, named.get(found[1]) if found else None)


def _constant_nodes(graph: Graph) -> set[int]:
    """Nodes that compute from constants alone: the runtime folds them away."""
    fixed, found = set(graph.constants), set()
    for place, node in enumerate(graph.nodes):
        if all(t in fixed for t in node.inputs if t):
            found.add(place)
            fixed.update(node.outputs)
    return found


def computing(nodes: Sequence[Node]) -> Sequence[Node]:
    """Nodes without those that only convert or carry values, where others are left."""
    return [node for node in nodes if node.op not in PLUMBING] or nodes


def _names(graph: Graph, places: list[int]) -> tuple[str, ...]:
    return tuple(node.name for node in computing([graph.nodes[place] for place in places]))
