"""How much memory the values between a network's operators take, and which operators there are.

Activation memory is the most bytes alive at once when the operators run in the graph's order: each
value lives from its operator to the last one that reads it, inputs from the start, outputs to the
end. Views take none. A runtime that reuses buffers well comes near it; one that fuses operators
can stay below.
"""

import math
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from edgekit.graph.program import Program
from edgekit.graph.views import source_of

if TYPE_CHECKING:
    import onnx

_ONNX_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
Step = tuple[Mapping[str, int], Iterable[str]]  # bytes of what is made, names of what is read


def peak_bytes(given: Mapping[str, int], steps: Sequence[Step], kept: Iterable[str]) -> int:
    """Most bytes alive at once.

    Args:
        given: bytes of the inputs by name.
        steps: operators in order.
        kept: names that live to the end.
    """
    last: dict[str, int] = {}
    for number, (_, reads) in enumerate(steps):
        last.update(dict.fromkeys(reads, number))
    last.update(dict.fromkeys(kept, len(steps)))
    alive = dict(given)
    peak = now = sum(alive.values())
    for number, (made, _) in enumerate(steps):
        alive.update(made)
        now = sum(alive.values())
        peak = max(peak, now)
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > number}
    return peak


def activation_bytes(program: Program) -> int:
    """Activation memory of a program for one sample; see the module.

    Dynamic dimensions other than the batch count as in the capture's example.
    """
    sizes = program.symbol_sizes()
    weights: set[Node] = set()
    owner: dict[Any, str] = {}  # by node, the name of the value whose memory it is
    inputs = {spec.arg.name for spec in program.exported.graph_signature.input_specs
              if spec.kind.name == "USER_INPUT"}  # fmt: skip
    given: dict[str, int] = {}
    steps: list[Step] = []
    kept: set[str] = set()
    for node in program.exported.graph.nodes:
        reads = {owner[n] for n in node.all_input_nodes if n in owner}
        if node.op == "placeholder":
            if node.name in inputs:
                given[node.name] = _bytes(node.meta.get("val"), sizes)
                owner[node] = node.name
            else:
                weights.add(node)
        elif node.op == "output":
            kept = reads
        else:
            source = node.args[0] if node.target is operator.getitem else source_of(node)
            if source in weights:
                weights.add(node)
                continue
            owner[node] = owner.get(source, node.name)
            made = {} if source in owner else {node.name: _bytes(node.meta.get("val"), sizes)}
            steps.append((made, reads | {owner[node]}))
    return peak_bytes(given, steps, kept)


def _bytes(value: Any, sizes: Mapping[Any, int]) -> int:
    if isinstance(value, tuple | list):
        return sum(_bytes(v, sizes) for v in value)
    if not isinstance(value, Tensor):
        return 0
    shape = (s if isinstance(s, int) else int(s.node.expr.xreplace(sizes)) for s in value.shape)
    return math.prod(shape) * value.element_size()


def operators(program: Program) -> dict[str, int]:
    """How often each operator is called, the most frequent first."""
    found = Counter(
        _name(node)
        for node in program.exported.graph.nodes
        if node.op == "call_function" and node.target is not operator.getitem
    )
    return dict(found.most_common())


def _name(node: Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.replace("::", ".")
    return getattr(node.target, "__name__", str(node.target))


def onnx_activation_bytes(
    model: "onnx.ModelProto", dims: Mapping[str, int] | None = None
) -> int | None:
    """As `activation_bytes`, of an ONNX model; None where a tensor's size cannot be inferred.

    What follows from constants alone is a constant, and a quantized tensor takes what its own type
    does. The first axis of the inputs counts as 1, and so does any other dynamic dimension whose
    size is not in `dims`.
    """
    from edgekit.graph.onnx_cost import fix_inputs
    from edgekit.graph.onnx_work import sizes_of, with_shapes

    held = {t.name for t in model.graph.initializer}
    inputs = [v for v in fix_inputs(model, dims or {}).graph.input if v.name not in held]
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in inputs}
    fixed = with_shapes(model, shapes)
    sizes = sizes_of(fixed)
    owner = {v.name: v.name for v in inputs}  # by tensor, the one whose memory it is
    steps: list[Step] = []
    for node in fixed.graph.node:
        names = {n for n in (*node.input, *_read_inside(node)) if n in owner}
        if not names:
            continue
        reads, made = {owner[n] for n in names}, {}
        for name in filter(None, node.output):
            is_view = node.op_type in _ONNX_VIEWS and node.input[0] in owner
            owner[name] = owner[node.input[0]] if is_view else name
            if not is_view:
                if name not in sizes:
                    return None
                made[name] = sizes[name]
        steps.append((made, reads | {owner[n] for n in node.output if n}))
    kept = {owner[v.name] for v in fixed.graph.output if v.name in owner}
    if any(name not in sizes for name in shapes):
        return None
    return peak_bytes({name: sizes[name] for name in shapes}, steps, kept)


def _read_inside(node: "onnx.NodeProto") -> Iterator[str]:
    """What a node's sub-graphs read: names of the outer graph may be among them."""
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from _read_inside(inner)
            yield from (value.name for value in graph.output)


def onnx_operators(model: "onnx.ModelProto") -> dict[str, int]:
    """As `operators`, of an ONNX model's main graph."""
    names = ((f"{n.domain}." if n.domain else "") + n.op_type for n in model.graph.node)
    return dict(Counter(names).most_common())
