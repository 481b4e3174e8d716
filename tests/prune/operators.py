"""One small graph for every rule, and faults that are planted in it.

A graph is written in ATen, with the operator under test between parameters all of whose dimensions
could go, and ends in one number: the sum of the answer, weighted differently at every position.
Each place where a rule couples or freezes, each dimension that it hands on, and its rewrite, is a
fault to plant: the call is left out, the dimension turned by one index.
"""

import copy
import operator
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Proxy, Tracer
from torch.fx.graph import Node

from edgekit.prune import masks
from edgekit.prune.atoms import Fixed
from edgekit.prune.coupling import Coupling, analyse
from edgekit.prune.families import find_families
from edgekit.prune.registry import RULES, Entry, Op
from edgekit.prune.shrink import Keep, shrink

aten = torch.ops.aten
TOLERANCE = 1e-9
SEEDS = 8
Case = Callable[["Make"], Any]


class Make:
    """Makes the tensors of a case.

    Args:
        name: of the operator under test, for cases that serve several.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.root = nn.Module()
        self.tracer = Tracer()
        self.tracer.root = self.root
        self.tracer.tensor_attrs = {}
        self.tracer.graph = Graph(tracer_cls=Tracer)
        self.generator = torch.Generator().manual_seed(0)
        self.made = 0

    def _get(self, value: Tensor) -> Proxy:
        name = f"t{self.made}"
        self.made += 1
        if isinstance(value, nn.Parameter):
            self.root.register_parameter(name, value)
        else:
            self.root.register_buffer(name, value)
        return self.tracer.create_proxy("get_attr", name, (), {})

    def p(self, *shape: int, positive: bool = False) -> Proxy:
        """A parameter, float64: every index of it may go."""
        value = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return self._get(nn.Parameter(value.abs() + 0.1 if positive else value))

    def constant(self, value: Any) -> Proxy:
        """A tensor of the network that is not trained."""
        return self._get(torch.as_tensor(value))

    def call(self, target: Any, *args: Any) -> Proxy:
        """An operator that takes no tensor."""
        return self.tracer.create_proxy("call_function", target, args, {})


class _Shapes(Interpreter):
    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        n.meta["val"] = result.detach() if isinstance(result, Tensor) else result
        return result


def graph_of(case: Case, name: str = "") -> GraphModule:
    """The graph of a case, with shapes."""
    make = Make(name)
    found = case(make)
    answers = list(found) if isinstance(found, tuple | list) else [found]
    # The shapes of the answers are needed to weight them.
    first = _module(make, [a.node for a in answers])
    _Shapes(first).run()
    shapes = [tuple(a.node.meta["val"].shape) for a in answers]
    ends = []
    for answer, shape in zip(answers, shapes, strict=True):
        weighted = aten.mul.Tensor(answer, make.p(*shape))
        ends.append(aten.sum.default(weighted).node)
    module = _module(make, ends)
    _Shapes(module).run()
    return module


def _module(make: Make, outputs: list[Node]) -> GraphModule:
    graph = make.tracer.graph
    for node in reversed(graph.nodes):
        if node.op == "output":
            graph.erase_node(node)
            break
    graph.output(tuple(outputs))
    return GraphModule(make.root, graph)


class Fault(NamedTuple):
    """What is left out: the k-th call of a kind, or the k-th dimension is turned."""

    kind: str
    number: int = 0

    def __str__(self) -> str:
        words = {"unite": "union", "freeze": "freeze", "shift": "dimension", "rewrite": "rewrite"}
        return f"{words[self.kind]} {self.number}"


@dataclass
class _Watched:
    """Atoms that count the calls which couple or freeze something, and leave one out."""

    atoms: Any
    fault: Fault | None
    calls: dict[str, int] = field(default_factory=lambda: {"unite": 0, "freeze": 0})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.atoms, name)

    def _is_left_out(self, kind: str) -> bool:
        number = self.calls[kind]
        self.calls[kind] += 1
        return self.fault == Fault(kind, number)

    def freeze(self, dim: Any, cause: str) -> None:
        if not isinstance(dim, Fixed) and dim.size and not self._is_left_out("freeze"):
            self.atoms.freeze(dim, cause)

    def unite(self, a: Any, b: Any) -> Any:
        loose = [d for d in (a, b) if not isinstance(d, Fixed)]
        same = len(loose) == 2 and np.array_equal(*loose)
        if loose and not same and self._is_left_out("unite"):
            return a
        return self.atoms.unite(a, b)


class Planted:
    """A rule with a fault, or (without one) a rule whose places for faults are counted."""

    def __init__(self, entry: Entry, fault: Fault | None = None) -> None:
        self.entry, self.fault = entry, fault
        self.places: set[Fault] = set()
        self.turnable: dict[Fault, Any] = {}

    def __call__(self, op: Op) -> Any:
        watched = _Watched(op.atoms, self.fault)
        op.atoms = watched
        try:
            value = self.entry.rule(op)
        finally:
            op.atoms = watched.atoms
        for kind, calls in watched.calls.items():
            self.places |= {Fault(kind, k) for k in range(calls)}
        return self._turned(value)

    def _turned(self, value: Any) -> Any:
        """Every output's dimensions in a row; one of them has its indices turned by one."""
        if value is None:
            return None
        many = value if isinstance(value, list) else [value]
        number, out = 0, []
        for dims in many:
            turned = []
            for dim in dims:
                if not isinstance(dim, Fixed) and dim.size > 1 and np.unique(dim).size > 1:
                    place = Fault("shift", number)
                    self.turnable[place] = dim
                    dim = np.roll(dim, 1) if self.fault == place else dim
                number += 1
                turned.append(dim)
            out.append(tuple(turned))
        return out if isinstance(value, list) else out[0]

    def planted(self) -> Entry:
        rewrite = None if self.fault == Fault("rewrite") else self.entry.rewrite
        return Entry(self, rewrite)


class Lab:
    """Runs a case with a rule replaced.

    Args:
        name: of the operator in ATen.
        case: the graph that has it.
    """

    def __init__(self, name: str, case: Case) -> None:
        self.key, self.module = f"aten::{name}", graph_of(case, name)
        self.is_recurrent = name.startswith(("lstm", "gru", "rnn"))

    def has_the_operator(self) -> bool:
        """Whether the graph calls the operator at all."""
        return any(
            getattr(getattr(n.target, "_schema", None), "name", "") == self.key
            for n in self.module.graph.nodes
        )

    def places(self) -> list[Fault]:
        """All faults that can be planted; turning a dimension that stays whole is none."""
        rule = Planted(RULES[self.key])
        solution = self._analyse(rule.planted()).solution
        found = rule.places | {
            place for place, dim in rule.turnable.items() if solution.free(dim).size > 1
        }
        return sorted(found) + ([Fault("rewrite")] if RULES[self.key].rewrite else [])

    def errors(self, fault: Fault | None = None) -> Iterator[float]:
        """The oracle's error for several choices of what goes; infinite where a graph fails."""
        entry = Planted(RULES[self.key], fault).planted()
        for seed in range(SEEDS):
            yield self._once(entry, seed)

    def is_caught(self, fault: Fault) -> bool:
        """Whether the oracle finds a planted fault."""
        return any(not error <= TOLERANCE for error in self.errors(fault))

    def removed(self) -> int:
        """Number of groups that may go."""
        coupling = self._analyse(RULES[self.key])
        return sum(f.groups.size for f in find_families(coupling, {}).families)

    def _analyse(self, entry: Entry) -> Coupling:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            module = copy.deepcopy(self.module)
        for new, old in zip(module.graph.nodes, self.module.graph.nodes, strict=True):
            new.meta = dict(old.meta)
        before = RULES[self.key]
        RULES[self.key] = entry
        try:
            return analyse(module)
        finally:
            RULES[self.key] = before

    def _once(self, entry: Entry, seed: int) -> float:
        coupling = self._analyse(entry)
        keep = _some(coupling, seed)
        try:
            expected = masks.masked_outputs(self.module, coupling, keep, ())
            smaller = shrink(coupling, keep)
            if self.is_recurrent and not _is_sound(smaller):
                return float("inf")
            actual = masks.plain_outputs(smaller, ())
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            return float("inf")
        return masks.difference(expected, actual)


def _is_sound(module: GraphModule) -> bool:
    """Whether a recurrent operator has the states that it reads: its kernels do not look."""
    for node in module.graph.nodes:
        if len(node.args) > 3 and isinstance(node.args[2], list | tuple):
            states = node.args[1] if isinstance(node.args[1], list | tuple) else [node.args[1]]
            for state in states:
                value = getattr(module, str(state.target))
                if value.shape[0] != state.meta["val"].shape[0]:
                    return False
    return True


def _some(coupling: Coupling, seed: int) -> Keep:
    """A random part of each family goes, never all of it."""
    generator = np.random.default_rng(seed)
    solution = coupling.solution
    keep = np.ones(solution.roots.size, dtype=np.bool_)
    for family in find_families(coupling, {}).families:
        many = int(generator.integers(1, family.groups.size))
        keep[generator.permutation(family.groups)[:many]] = False
    return Keep(solution.roots, keep)


def item(proxy: Proxy, index: int) -> Proxy:
    """One of an operator's several outputs."""
    return proxy.tracer.create_proxy("call_function", operator.getitem, (proxy, index), {})


def items(proxy: Proxy, number: int) -> Iterator[Proxy]:
    """The first outputs of an operator."""
    return (item(proxy, i) for i in range(number))
