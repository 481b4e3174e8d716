"""A captured network: the `torch.export` graph, and what the graph alone would lose.

The graph is the training IR (`aten.conv2d`, `aten.linear`, `aten.lstm.input` stay whole, batch norm
and dropout keep their flags) with flat, named tensor inputs and outputs and no in-place operators,
so that every pass reads and writes one plain form.
"""

import copy
import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule, Node

from edgekit.artifact import TensorSpec
from edgekit.graph import modes
from edgekit.graph.functionalise import functionalise
from edgekit.graph.trace import Axes, fit, parse_dim, shape_text, trace


@dataclass
class Program:
    """A captured network.

    Attributes:
        exported: the program in the training IR, inputs and outputs flat, no in-place operators.
        inputs: names, dtypes and shapes (with named dimensions) of what goes in, in order.
        outputs: the same for what comes out.
        ties: groups of state-dict names that are one tensor.
        imports: modules that register custom operators.
        dropped: train-time behaviour that the eval-mode capture does not have, in plain text.
        warnings: what a user should know about the capture, one sentence each.
        ranges: smallest and largest value of each integer input, where an example showed them.
    """

    exported: ExportedProgram
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ties: tuple[tuple[str, ...], ...] = ()
    imports: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)

    def module(self, *, share: bool = False) -> GraphModule:
        """A new trainable module, in eval mode, that shares nothing with this program.

        Args:
            share: do share the tensors, to look at them or put others in their place; they must
                not be written to.

        Returns:
            forward(*tensors in the order of `inputs`) gives a tuple in the order of `outputs`.
        """
        with warnings.catch_warnings():
            # copy rebuilds torch's own tree specifications, which warns about torch's own class.
            warnings.simplefilter("ignore", FutureWarning)
            unlifted = self.exported.module(check_guards=False)
            module = copy.deepcopy(unlifted, _tensors_of(unlifted) if share else None)
        retie(module, self.ties)
        for child in module.modules():
            child.training = False  # torch's own eval() raises on exported modules
        return module

    def example_inputs(self, batch: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
        """Random tensors that fit the inputs.

        Args:
            batch: size of the dimension named `batch`, or of the first input's first axis.
            seed: for the generator; the global one is not touched.

        Returns:
            Standard normal floats; integers within the range that the capture's example had.
        """
        generator = torch.Generator().manual_seed(seed)
        sizes = {**self.dim_sizes(), self.batch_dim(): batch}
        tensors = []
        for spec in self.inputs:
            shape = []
            for entry in spec.shape:
                factor, name = parse_dim(entry) if isinstance(entry, str) else (entry, "")
                shape.append(factor * sizes[name] if name else factor)
            tensors.append(_random(spec, shape, self.ranges.get(spec.name), generator))
        return tuple(tensors)

    def name_map(self) -> dict[str, str]:
        """Graph node name to the path of the user's module that it came from.

        Operators that the outermost module calls itself are not listed.
        """
        found = {}
        for node in self.exported.graph.nodes:
            if node.op == "call_function" and (path := module_path(node)):
                found[node.name] = path
        return found

    def batch_dim(self) -> str:
        """The name of the dynamic batch dimension, empty where the batch is static."""
        names = {e for spec in self.inputs for e in spec.shape if isinstance(e, str)}
        if "batch" in names:
            return "batch"
        first = self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else ""
        return first if isinstance(first, str) else ""

    def dim_sizes(self) -> dict[str, int]:
        """Size of each dynamic dimension in the example that was captured."""
        found: dict[str, int] = {}
        for spec, node in zip(self.inputs, input_nodes(self.exported), strict=True):
            for entry, size in zip(spec.shape, node.meta["val"].shape, strict=True):
                if isinstance(entry, str):
                    factor, name = parse_dim(entry)
                    found[name] = _hint(size) // factor
        return found

    def symbol_sizes(self) -> dict[Any, int]:
        """Each symbol in the graph's shapes as a number: the batch as 1, others as captured.

        A loaded graph knows the sizes of whole expressions (`8*s1`) only, so they are solved.
        """
        batch = self.batch_dim()
        found: dict[Any, int] = {}
        for spec, node in zip(self.inputs, input_nodes(self.exported), strict=True):
            for entry, size in zip(spec.shape, node.meta["val"].shape, strict=True):
                if not isinstance(size, torch.SymInt) or len(size.node.expr.free_symbols) != 1:
                    continue
                symbol, value = solve(size)
                found[symbol] = 1 if entry == batch else value
        return found


def _tensors_of(module: nn.Module) -> dict[int, Any]:
    """For `copy.deepcopy`: every tensor of a module is its own copy."""
    found: dict[int, Any] = {}
    for child in module.modules():
        for value in (*vars(child).values(), *child._parameters.values(), *child._buffers.values()):
            if isinstance(value, Tensor):
                found[id(value)] = value
    return found


def rebuild(module: GraphModule, like: Program, **changes: Any) -> Program:
    """Capture a graph module again after it was trained or its layers were shrunk.

    Args:
        module: from `like.module()`, changed since; it is captured in eval mode and left in the
            mode that it was in.
        like: where dimension names, input and output names, ties and imports come from.
        **changes: fields of `Program` to set otherwise.

    Raises:
        PassError: the changed graph cannot be captured (its shapes no longer fit, say).
    """
    training = module.training
    modes.set_training(module, training=False)
    axes: dict[str, Axes] = {spec.name: spec.shape for spec in like.inputs}
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    inputs = {
        spec.name: fit(spec.name, tensor.to(device), spec.shape)
        for spec, tensor in zip(like.inputs, like.example_inputs(), strict=True)
    }
    try:
        traced = trace(module, inputs, axes)
    finally:
        modes.set_training(module, training=training)
    notes = functionalise(traced.exported)
    program = assemble(
        traced.exported,
        traced.names,
        input_names=[spec.name for spec in like.inputs],
        output_names=[spec.name for spec in like.outputs],
    )
    kept = set(traced.exported.state_dict)
    ties = tuple(tuple(n for n in group if n in kept) for group in like.ties)
    fields: dict[str, Any] = {
        "ties": tuple(group for group in ties if len(group) > 1),
        "imports": like.imports,
        "dropped": like.dropped,
        "warnings": tuple(dict.fromkeys((*like.warnings, *traced.warnings, *notes))),
        "ranges": dict(like.ranges),
    }
    return dataclasses.replace(program, **{**fields, **changes})


def assemble(
    exported: ExportedProgram,
    names: Mapping[str, str],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> Program:
    """Describe an exported program whose inputs and outputs are flat tensors.

    Args:
        exported: functionalised.
        names: symbol to the name of the dynamic dimension.
        input_names: one for each user input.
        output_names: one for each output.
    """
    inputs = tuple(
        _spec(name, node, names)
        for name, node in zip(input_names, input_nodes(exported), strict=True)
    )
    outputs = tuple(
        _spec(name, node, names)
        for name, node in zip(output_names, output_nodes(exported), strict=True)
    )
    _tidy(exported)
    return Program(exported=exported, inputs=inputs, outputs=outputs)


def retie(module: nn.Module, ties: Sequence[Sequence[str]]) -> None:
    """Make each group of names one tensor again, in place.

    Args:
        module: with parameters or buffers of these names.
        ties: groups of state-dict names.
    """
    for group in ties:
        owner, _, leaf = group[0].rpartition(".")
        tensor = getattr(module.get_submodule(owner), leaf, None)
        for name in group[1:]:
            owner, _, leaf = name.rpartition(".")
            parent = module.get_submodule(owner)
            if tensor is not None and hasattr(parent, leaf):
                setattr(parent, leaf, tensor)


def retie_state(exported: ExportedProgram, ties: Sequence[Sequence[str]]) -> None:
    """As `retie`, for the tensors of an exported program."""
    for group in ties:
        for name in group[1:]:
            if name in exported.state_dict and group[0] in exported.state_dict:
                exported.state_dict[name] = exported.state_dict[group[0]]


def module_path(node: Node) -> str:
    """The path of the user's module that a node was made in (`layers.0.conv1`), or nothing."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    return re.sub(r"@\d+", "", path)


def input_nodes(exported: ExportedProgram) -> list[Node]:
    """The placeholders of the user's inputs, in order."""
    nodes = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    specs = exported.graph_signature.input_specs
    return [nodes[s.arg.name] for s in specs if s.kind is InputKind.USER_INPUT]


def output_nodes(exported: ExportedProgram) -> list[Node]:
    """The nodes that the graph returns, in order."""
    output = next(node for node in reversed(exported.graph.nodes) if node.op == "output")
    return list(output.args[0])


def _spec(name: str, node: Node, names: Mapping[str, str]) -> TensorSpec:
    value = node.meta["val"]
    return TensorSpec(
        name=name,
        dtype=str(value.dtype).removeprefix("torch."),
        shape=tuple(shape_text(size, names) for size in value.shape),
    )


def _tidy(exported: ExportedProgram) -> None:
    """Drop what is volatile or tells of the user's disk, and the example that would be pickled."""
    exported._example_inputs = None
    for module in exported.graph_module.modules():
        if not isinstance(module, GraphModule):
            continue
        for node in module.graph.nodes:
            for key in ("stack_trace", "from_node", "source_fn_stack", "torch_fn", "custom"):
                node.meta.pop(key, None)
            if stack := node.meta.get("nn_module_stack"):
                node.meta["nn_module_stack"] = {
                    f"L['self'].{path}" if path else "L['self']": (path, kind)
                    for path, kind in stack.values()
                }


def solve(size: torch.SymInt) -> tuple[Any, int]:
    """The one symbol of a linear size (`s`, `8*s`), and its value in the captured example."""
    expression = size.node.expr
    (symbol,) = expression.free_symbols
    offset = int(expression.xreplace({symbol: 0}))
    factor = int(expression.xreplace({symbol: 1})) - offset
    return symbol, (_hint(size) - offset) // factor


def _hint(size: int | torch.SymInt) -> int:
    return size if isinstance(size, int) else int(size.node.hint)


def _random(
    spec: TensorSpec, shape: list[int], limits: tuple[int, int] | None, generator: torch.Generator
) -> Tensor:
    dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    low, high = limits or (0, 1)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)
