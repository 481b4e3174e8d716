"""In-place operators become their out-of-place twins, in the training IR.

`ExportedProgram.run_decompositions` functionalises too, but it turns batch norm into its inference
form and drops dropout, so the train/eval switch would be gone. Here the graph is walked once with
the current value of every storage: a write gives its storage a new value, and a view that is read
after a write is made again from it. `no_grad` and `autocast` sub-graphs are inlined first.
"""

import operator
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from edgekit.errors import PassError
from edgekit.graph.views import functional_twin, is_inplace_view, op_name, source_of, write_back

aten = torch.ops.aten
_HINT = "Write this step out of place (`y = x + 1` for `x += 1`), or clone the tensor first."


def functionalise(exported: ExportedProgram) -> tuple[str, ...]:
    """Inline `no_grad`/`autocast` sub-graphs and rewrite in-place operators, in place.

    Args:
        exported: in the training IR; its graph and the names of its outputs are changed.

    Returns:
        Warnings, one sentence each.

    Raises:
        PassError: an operator writes where it cannot be rewritten safely: to a buffer or parameter,
            through a view that cannot be written back, or without an out-of-place twin.
    """
    module = exported.graph_module
    warnings = inline(module, _parameters(exported))
    for node in list(module.graph.nodes):
        # They pin dtypes that a later pass may change, and hold nothing else.
        if node.target is aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
    if warnings:
        _refresh(module.graph)
    if any(_writes(node) for node in module.graph.nodes):
        _Rewriter(exported).run()
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    _rename_outputs(exported)
    return tuple(warnings)


def inline(module: GraphModule, parameters: set[Node]) -> list[str]:
    """Put the operators of `no_grad` and `autocast` sub-graphs into the graph that calls them."""
    found: list[str] = []
    regions = {
        torch.ops.higher_order.wrap_with_set_grad_enabled: 1,
        torch.ops.higher_order.wrap_with_autocast: 4,
    }
    trained = _depends_on(module.graph, parameters)
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in regions:
            continue
        first = regions[node.target]
        body = getattr(module, str(node.args[first].target))
        inline(body, set())
        stop = first == 1 and node.args[0] is False and node in trained
        if first == 4 and node.args[2]:
            found.append("Autocast was left out: the graph computes in the tensors' own dtype.")
        _inline_one(module.graph, node, body, node.args[first + 1 :], stop_gradient=stop)
    module.graph.eliminate_dead_code()
    for name, _ in list(module.named_children()):
        if name.startswith("submod_") and not any(
            n.op == "get_attr" and n.target == name for n in module.graph.nodes
        ):
            delattr(module, name)
    return list(dict.fromkeys(found))


def _inline_one(
    graph: Graph, call: Node, body: GraphModule, args: tuple[Any, ...], *, stop_gradient: bool
) -> None:
    values: dict[Node, Any] = dict(
        zip((n for n in body.graph.nodes if n.op == "placeholder"), args, strict=True)
    )
    with graph.inserting_before(call):
        for node in body.graph.nodes:
            if node.op == "call_function":
                values[node] = graph.node_copy(node, lambda n: values[n])
            elif node.op not in {"placeholder", "output"}:
                raise PassError(f"A no_grad or autocast block holds {node.op} {node.name}.", _HINT)
        output = next(n for n in body.graph.nodes if n.op == "output").args[0]
        results = map_arg(output, lambda n: values[n])
        if stop_gradient:
            # What no_grad meant for training: nothing inside is trained through this value.
            results = map_arg(results, lambda n: _detached(graph, n))
    for user in list(call.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
    if call.users:
        single = results[0] if isinstance(results, tuple | list) else results
        call.replace_all_uses_with(single)
    graph.erase_node(call)


def _refresh(graph: Graph) -> None:
    """Compute values again where autocast no longer sets their dtypes."""
    for node in graph.nodes:
        if node.op == "call_function" and "val" in node.meta:
            node.meta["val"] = propagate(node.target, node.args, node.kwargs)


def _detached(graph: Graph, node: Node) -> Node:
    if not isinstance(node.meta.get("val"), Tensor):
        return node
    made = graph.call_function(aten.detach.default, (node,))
    made.meta = dict(node.meta)
    return made


def _parameters(exported: ExportedProgram) -> set[Node]:
    names = {
        s.arg.name for s in exported.graph_signature.input_specs if s.kind is InputKind.PARAMETER
    }
    return {n for n in exported.graph.nodes if n.op == "placeholder" and n.name in names}


def _depends_on(graph: Graph, roots: set[Node]) -> set[Node]:
    found = set(roots)
    for node in graph.nodes:
        if any(argument in found for argument in node.all_input_nodes):
            found.add(node)
    return found - roots


def _writes(node: Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


class _Rewriter:
    """Walks a graph once and keeps the current value of every storage.

    Attributes:
        base: the node that owns the storage of each tensor node.
        parent: what a view was made from.
        value: the current stand-in of an original node.
        seen: the version of its base's storage that `value` stands for.
        version: how often the storage of a base was written.
        renamed: an object whose shape was changed in place, and the view that it is now.
        same: the result of a write, and the object that was written.
        dead: the nodes that the rewritten ones replace.
    """

    def __init__(self, exported: ExportedProgram) -> None:
        self.graph = exported.graph_module.graph
        self.fixed = {
            s.arg.name: (s.kind, s.target)
            for s in exported.graph_signature.input_specs
            if s.kind is not InputKind.USER_INPUT
        }
        self.base: dict[Node, Node] = {}
        self.parent: dict[Node, Node] = {}
        self.value: dict[Node, Node] = {}
        self.seen: dict[Node, int] = {}
        self.version: dict[Node, int] = {}
        self.renamed: dict[Node, Node] = {}
        self.same: dict[Node, Node] = {}
        self.dead: list[Node] = []
        self.here: Node | None = None

    def run(self) -> None:
        for node in list(self.graph.nodes):
            self.here = node
            if node.op == "output":
                node.args = map_arg(node.args, self.current)
            elif node.op != "call_function":
                self._register(node, None)
            elif is_inplace_view(node.target):
                self._reshape_in_place(node)
            elif _writes(node):
                self._write(node)
            else:
                source = source_of(node)
                node.args = map_arg(node.args, self.current)
                node.kwargs = map_arg(node.kwargs, self.current)
                self._register(node, None if source is None else self._object(source))
        for node in reversed(self.dead):
            self.graph.erase_node(node)

    def _register(self, node: Node, source: Node | None) -> None:
        self.base[node] = node if source is None else self.base[source]
        if source is None:
            self.version[node] = 0
        else:
            self.parent[node] = source
        self.value[node] = node
        self.seen[node] = self.version[self.base[node]]

    def current(self, node: Node) -> Node:
        """The node that now holds what `node` stands for."""
        return self._latest(self.renamed.get(node, node))

    def _latest(self, node: Node) -> Node:
        """As `current`, but an object whose shape was changed in place keeps its first shape."""
        while node in self.same:
            node = self.same[node]
        if node not in self.base:
            return node
        base = self.base[node]
        if self.seen[node] != self.version[base] and node in self.parent:
            args = (self._latest(self.parent[node]), *map_arg(node.args[1:], self.current))
            self.value[node] = self.emit(node.target, *args, like=node, **node.kwargs)
            self.seen[node] = self.version[base]
        return self.value[node]

    def emit(self, target: Any, *args: Any, like: Node, **kwargs: Any) -> Node:
        """Insert a node before the one that is being rewritten, with the metadata of `like`."""
        assert self.here is not None  # noqa: S101 - set by run
        with self.graph.inserting_before(self.here):
            schema = getattr(target, "_schema", None)
            name = schema.name.partition("::")[2] if schema is not None else "getitem"
            node: Node = self.graph.create_node("call_function", target, args, kwargs, name)
        node.meta = {k: v for k, v in like.meta.items() if k not in {"val", "tensor_meta"}}
        node.meta["val"] = propagate(target, args, kwargs)
        return node

    def _reshape_in_place(self, node: Node) -> None:
        """`unsqueeze_` and its like: the object changes its shape, its storage stays."""
        target = node.args[0]
        twin = functional_twin(node.target)
        if not isinstance(target, Node) or twin is None:
            raise PassError(f"{_where(node)} has no out-of-place twin.", _HINT)
        target = self._object(target)
        args = map_arg(node.args[1:], self.current)
        new = self.emit(twin, self._latest(target), *args, like=node)
        self._register(new, target)
        for name in [n for n, v in self.renamed.items() if v is target]:
            self.renamed[name] = new
        self.renamed[target] = self.renamed[node] = new
        self.base[node] = self.base[target]
        self.dead.append(node)

    def _object(self, node: Node) -> Node:
        node = self.renamed.get(node, node)
        while node in self.same:
            node = self.same[node]
        return node

    def _write(self, node: Node) -> None:
        target = self._object(self._written(node))
        self._refuse_fixed(node, self.base[target])
        new = self._new_value(node, target)
        family = [n for n in self.base if self.base[n] is self.base[target]]
        before: dict[Node, Node] = {}
        link = target
        while link in self.parent:
            link = self.parent[link]
            before[link] = self._latest(link)
        base = self.base[target]
        self.version[base] += 1
        self._spread(node, target, new, before, family)
        self.same[node] = target
        self.dead.append(node)

    def _spread(
        self, node: Node, target: Node, new: Node, before: dict[Node, Node], family: list[Node]
    ) -> None:
        """Give `target` its new value, and everything that it is a view of."""
        link, version = target, self.version[self.base[target]]
        while True:
            self.value[link], self.seen[link] = new, version
            if link not in self.parent:
                return
            parent = self.parent[link]
            if link.target is operator.getitem:
                parent = self.parent[parent]
            written = write_back(
                link, before[parent], new, lambda t, *a: self.emit(t, *a, like=node)
            )
            if written is None:
                if self._used_later(node, target, family):
                    raise PassError(
                        f"{_where(node)} writes through a view made by "
                        f"{op_name(link) or link.name}, which cannot be written back.",
                        _HINT,
                    )
                return
            link, new = parent, written

    def _used_later(self, node: Node, target: Node, family: list[Node]) -> bool:
        """Whether another name of the storage is read after `node`."""
        later = set()
        following = node.next
        while following.op != "root":
            later.add(following)
            following = following.next
        others = [n for n in family if self._object(n) is not target]
        return any(user in later for n in others for user in n.users)

    def _written(self, node: Node) -> Node:
        arguments = node.target._schema.arguments  # type: ignore[union-attr]
        places = [
            (i, a.name) for i, a in enumerate(arguments) if a.alias_info and a.alias_info.is_write
        ]
        found = [node.args[i] if i < len(node.args) else node.kwargs.get(n) for i, n in places]
        if len(found) != 1 or not isinstance(found[0], Node) or places[0][0] != 0:
            raise PassError(f"{_where(node)} writes to more than its first argument.", _HINT)
        return found[0]

    def _refuse_fixed(self, node: Node, base: Node) -> None:
        kind, name = self.fixed.get(base.name, (None, None))
        if base.op == "placeholder" and kind is not None:
            what = {InputKind.PARAMETER: "parameter", InputKind.BUFFER: "buffer"}.get(
                kind, "constant"
            )
            raise PassError(
                f"{_where(node)} writes to {what} {name!r} while it evaluates: a state that "
                "lasts from call to call (a cache, a counter) is not part of a captured graph.",
                "Take the state as an input and return it as an output.",
            )

    def _new_value(self, node: Node, target: Node) -> Node:
        args: Any = map_arg(node.args, self.current)
        kwargs: Any = map_arg(node.kwargs, self.current)
        old: Node = args[0]
        new: Node
        if op_name(node) == "aten::copy_":
            new = args[1]
        else:
            twin = functional_twin(node.target)
            if twin is None:
                raise PassError(f"{_where(node)} has no out-of-place twin.", _HINT)
            new = self.emit(twin, *args, like=node, **kwargs)
        was, now = target.meta.get("val"), new.meta.get("val")
        if isinstance(was, Tensor) and isinstance(now, Tensor):
            if now.dtype != was.dtype:
                new = self.emit(aten.to.dtype, new, was.dtype, like=node)
            if now.shape != was.shape:
                new = self.emit(aten.expand_as.default, new, old, like=node)
        return new


def propagate(target: Any, args: Any, kwargs: Any) -> Any:
    """What `target` gives for the captured values of its arguments, None where it is not known."""
    values: Any = map_arg((args, kwargs), lambda n: n.meta.get("val"))
    mode = detect_fake_mode(values)
    if mode is None:
        return None
    with mode:
        return target(*values[0], **values[1])


def _where(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return f"{op_name(node) or node.name} in {path or 'the outermost module'}"


def _rename_outputs(exported: ExportedProgram) -> None:
    output: Any = next(n for n in reversed(exported.graph.nodes) if n.op == "output")
    for spec, value in zip(exported.graph_signature.output_specs, output.args[0], strict=True):
        if spec.kind is OutputKind.USER_OUTPUT and isinstance(value, Node):
            spec.arg.name = value.name
