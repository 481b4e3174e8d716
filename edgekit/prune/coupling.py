"""Which indices of which tensors must be removed together: the rules, run over a whole graph."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgekit.prune import (
    rules_index,
    rules_linear,
    rules_pointwise,
    rules_recurrent,
    rules_shape,
    rules_spatial,
    subgraphs,
)
from edgekit.prune.atoms import INPUT, OUTPUT, SINGLE, SYMBOLIC, Atoms, Dim, Dims, Fixed, Solution
from edgekit.prune.registry import RULES, Choices, Decline, Entry, Op, Policy, Value

RULE_MODULES = (
    rules_index,
    rules_linear,
    rules_pointwise,
    rules_recurrent,
    rules_shape,
    rules_spatial,
)
_POINTWISE = Entry(rules_pointwise.pointwise, None)
_ROUNDS = 12


@dataclass
class Coupling:
    """A graph's dimensions and the groups that they form.

    Attributes:
        module: the graph module that was analysed.
        values: dimensions of every node's output.
        tensors: dimensions of each parameter, buffer and constant, by the first of its names.
        aliases: every name of each of them.
        ops: operator calls of the outermost graph that a rule spoke for.
        inner_ops: likewise, of sub-graphs.
        solution: the groups of united atoms.
    """

    module: GraphModule
    values: dict[Node, Value]
    tensors: dict[str, Dims]
    aliases: dict[str, tuple[str, ...]]
    ops: list[tuple[Op, Entry]]
    inner_ops: list[tuple[Op, Entry]]
    solution: Solution

    def all_dims(self) -> list[Dim]:
        """Every dimension of every tensor in the graph."""
        found: list[Dim] = [d for dims in self.tensors.values() for d in dims]
        for value in self.values.values():
            for dims in value if isinstance(value, list) else [value]:
                found.extend(dims or ())
        return found


def analyse(module: GraphModule, policy: Policy | None = None) -> Coupling:
    """Find out which indices of which tensors must be removed together.

    Where a view or a grouped convolution can be factored in several ways, the way that leaves most
    to choose is tried first; one that turns out to leave nothing gives way to the next.

    Args:
        module: a functionalised training-IR graph, with shapes in its nodes' metadata.
        policy: what the user decides.

    Returns:
        the coupling; operators without a rule have frozen what they touch.
    """
    choices = Choices()
    settled: set[str] = set()
    for _ in range(_ROUNDS):
        choices.probes.clear()
        found = _Walk(module, choices, policy or Policy()).run()
        dead = [
            key
            for key, (_, atoms) in choices.probes.items()
            if key not in settled and found.solution.free(atoms).size < 2
        ]
        dead = [key for key in dead if choices.probes[key][0] > 1]
        if not dead:
            break
        for key in dead:
            choices.taken[key] = choices.taken.get(key, 0) + 1
            if choices.taken[key] >= choices.probes[key][0]:
                choices.taken[key] = 0
                settled.add(key)
    return found


class _Walk:
    def __init__(self, module: GraphModule, choices: Choices, policy: Policy) -> None:
        self.module = module
        self.policy = policy
        self.choices = choices
        self.atoms = Atoms()
        self.values: dict[Node, Value] = {}
        self.tensors: dict[int, tuple[str, Dims]] = {}
        self.aliases: dict[str, list[str]] = {}
        self.ops: list[tuple[Op, Entry]] = []
        self.inner_ops: list[tuple[Op, Entry]] = []
        self.into, self.scope = self.ops, ""
        self.inner: dict[GraphModule, tuple[list[Value], list[Value]]] = {}

    def run(self) -> Coupling:
        self._register()
        for node in self.module.graph.nodes:
            self.values[node] = self._single(node, self._value(node))
        return Coupling(
            module=self.module,
            values=self.values,
            tensors=dict(self.tensors.values()),
            aliases={name: tuple(names) for name, names in self.aliases.items()},
            ops=self.ops,
            inner_ops=self.inner_ops,
            solution=self.atoms.solve(),
        )

    def _register(self) -> None:
        """Give atoms to every tensor that the graph reads; one tensor has one set of atoms."""
        for node in self.module.graph.nodes:
            if node.op != "get_attr" or not node.users:
                continue
            tensor = attribute(self.module, str(node.target))
            if not isinstance(tensor, Tensor):
                continue
            if id(tensor) not in self.tensors:
                dims = tuple(self._fresh(size) for size in tensor.shape)
                self.tensors[id(tensor)] = (str(node.target), dims)
            names = self.aliases.setdefault(self.tensors[id(tensor)][0], [])
            if str(node.target) not in names:
                names.append(str(node.target))
        self._add_unread_aliases()

    def _add_unread_aliases(self) -> None:
        everything = [
            *self.module.named_parameters(remove_duplicate=False),
            *self.module.named_buffers(remove_duplicate=False),
        ]
        for name, tensor in everything:
            if id(tensor) in self.tensors:
                names = self.aliases[self.tensors[id(tensor)][0]]
                if name not in names:
                    names.append(name)

    def _fresh(self, size: int) -> Dim:
        return Fixed(SINGLE) if size <= 1 else self.atoms.fresh(size)

    def _value(self, node: Node) -> Value:
        if node.op == "placeholder":
            return self._fixed(node, INPUT)
        if node.op == "get_attr":
            tensor = attribute(_owner(node), str(node.target))
            return self.tensors[id(tensor)][1] if id(tensor) in self.tensors else None
        if node.op == "output":
            self._freeze_inputs(node, OUTPUT)
            return None
        if node.target is operator.getitem:
            return self._item(node)
        if isinstance(node.target, HigherOrderOperator):
            return self._higher(node)
        return self._call(node)

    def _item(self, node: Node) -> Value:
        source, index = node.args[0], node.args[1]
        value = self.values.get(source) if isinstance(source, Node) else None
        if isinstance(value, list) and isinstance(index, int):
            return value[index]
        return self._unknown(node, "getitem")

    def _higher(self, node: Node) -> Value:
        """An operator with sub-graphs; one without a rule freezes its operands."""
        cause = _cause(node)

        def given(source: Node) -> Any:
            return self.values.get(source) if _subgraph(source) is None else source

        args: Any = map_arg(node.args, given)
        ties = subgraphs.Ties(self.atoms, cause)
        try:
            made = subgraphs.couple(
                cause, args, lambda which, operands: self._inside(which, operands, ties), ties
            )
        except (Decline, ValueError, TypeError):
            return self._unknown(node, cause)
        return [value if isinstance(value, tuple) else () for value in made]

    def _inside(
        self, which: Node, operands: Sequence[Value], ties: subgraphs.Ties
    ) -> Sequence[Value]:
        """Walk a sub-graph; the calls of one that is called again are coupled."""
        body = _subgraph(which)
        if body is None:
            raise Decline
        if body in self.inner:
            read, made = self.inner[body]
            ties.couple(read, operands)
            return made
        outer, self.into, self.scope = (self.into, self.scope), self.inner_ops, str(which.target)
        given = iter(operands)
        made = []
        for node in body.graph.nodes:
            if node.op == "output":
                found = node.args[0]
                nodes = found if isinstance(found, tuple | list) else [found]
                made = [self.values.get(n) if isinstance(n, Node) else None for n in nodes]
            else:
                value = next(given) if node.op == "placeholder" else self._value(node)
                self.values[node] = self._single(node, value)
        self.into, self.scope = outer
        self.inner[body] = (list(operands), made)
        return made

    def _call(self, node: Node) -> Value:
        cause = _cause(node)
        entry = _entry(node)
        if entry is None:
            return self._unknown(node, cause)
        op = Op(
            node, cause, bind(node), self.values, self.atoms, self.choices, self.policy, self.scope
        )
        try:
            value = entry.rule(op)
        except (Decline, ValueError, IndexError, KeyError, TypeError):
            # An unusual call (an argument of another kind or rank) is as good as no rule: its
            # dimensions freeze, which is never wrong.
            return self._unknown(node, cause)
        if not _fits(value, node.meta.get("val")):
            return self._unknown(node, cause)
        self.into.append((op, entry))
        return value

    def _unknown(self, node: Node, cause: str) -> Value:
        self._freeze_inputs(node, cause)
        return self._fixed(node, cause)

    def _freeze_inputs(self, node: Node, cause: str) -> None:
        for source in node.all_input_nodes:
            value = self.values.get(source)
            for dims in value if isinstance(value, list) else [value]:
                for dim in dims or ():
                    self.atoms.freeze(dim, cause)

    def _fixed(self, node: Node, cause: str) -> Value:
        found = node.meta.get("val")
        if isinstance(found, Tensor):
            return _fixed_dims(found, cause)
        if isinstance(found, tuple | list):
            return [_fixed_dims(f, cause) if isinstance(f, Tensor) else () for f in found]
        return None

    def _single(self, node: Node, value: Value) -> Value:
        """Freeze dimensions of size one that are part of a larger one: they cannot go to zero."""
        if not isinstance(value, tuple) or node.op == "get_attr":
            return value
        out: list[Dim] = []
        for dim in value:
            if not isinstance(dim, Fixed) and dim.size <= 1:
                self.atoms.freeze(dim, SINGLE)
                out.append(Fixed(SINGLE))
            else:
                out.append(dim)
        return tuple(out)


def _fixed_dims(tensor: Tensor, cause: str) -> Dims:
    return tuple(Fixed(cause if isinstance(s, int) else SYMBOLIC) for s in tensor.shape)


def _owner(node: Node) -> GraphModule:
    owner: Any = node.graph.owning_module
    return owner  # type: ignore[no-any-return]


def _subgraph(node: Node) -> GraphModule | None:
    """The sub-graph that a node names."""
    found = attribute(_owner(node), str(node.target)) if node.op == "get_attr" else None
    return found if isinstance(found, GraphModule) else None


def _cause(node: Node) -> str:
    if isinstance(node.target, OpOverload):
        return node.target._schema.name.replace("::", ".")
    return getattr(node.target, "__name__", str(node.target))


def _entry(node: Node) -> Entry | None:
    target = node.target
    if not isinstance(target, OpOverload):
        return None
    entry = RULES.get(target._schema.name)
    if entry is None and torch.Tag.pointwise in target.tags:
        return _POINTWISE
    return entry


def bind(node: Node) -> dict[str, Any]:
    """An ATen node's arguments by the schema's names, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    bound = {}
    for position, argument in enumerate(schema.arguments):
        if position < len(node.args):
            bound[argument.name] = node.args[position]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value if argument.has_default_value() else None
    return bound


def _fits(value: Value, found: object) -> bool:
    """Whether a rule's answer has the shape that the graph says."""
    if value is None or isinstance(found, tuple | list):
        many = found if isinstance(found, tuple | list) else []
        return value is None or (
            isinstance(value, list)
            and len(value) == len(many)
            and all(_fits(v, f) for v, f in zip(value, many, strict=True))
        )
    if not isinstance(found, Tensor) or isinstance(value, list) or len(value) != found.dim():
        return False
    return all(
        isinstance(d, Fixed) or (isinstance(s, int) and d.ndim == 1 and d.size == s)
        for d, s in zip(value, found.shape, strict=True)
    )


def attribute(module: torch.nn.Module, path: str) -> Any:
    """What a dotted name stands for."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found
