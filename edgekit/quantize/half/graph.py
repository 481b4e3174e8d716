"""What half precision needs to know of an ONNX graph: dtypes, readers, and what a node may read.

ONNX says of each operator, by its schema, which inputs may be float16 and which outputs follow
them. Nothing is assumed beyond that: `Resize` takes its scales in float32 alone, and an operator of
a foreign domain has no schema, so it stays as it is.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.half.config import Half

if TYPE_CHECKING:
    import onnx

# Inputs that ONNX would allow in half, and that must not be: positions and scales.
_FLOAT_INPUTS = {"Resize": frozenset({1, 2})}


@dataclass(frozen=True)
class Ports:
    """The float32 inputs and outputs of a node that become half when it does.

    Attributes:
        inputs: their places.
        outputs: their places.
    """

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()


@dataclass
class HalfGraph:
    """An index of a model's top-level graph.

    Attributes:
        model: never changed through this.
        half: the precision that is asked about.
        floats: names of float32 tensors, initializers included.
        producer: the place of the node that makes a tensor.
        readers: the places of the nodes that read a tensor.
        constants: initializers by name.
        outputs: names of the graph's outputs.
        captured: tensors that sub-graphs read.
    """

    model: "onnx.ModelProto"
    half: Half
    floats: set[str] = field(default_factory=set)
    producer: dict[str, int] = field(default_factory=dict)
    readers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    constants: dict[str, "onnx.TensorProto"] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)
    captured: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        import onnx

        graph = self.model.graph
        self.constants = {i.name: i for i in graph.initializer}
        self.outputs = {o.name for o in graph.output}
        kind = onnx.TensorProto.FLOAT
        inferred = onnx.shape_inference.infer_shapes(self.model).graph
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            if value.type.tensor_type.elem_type == kind:
                self.floats.add(value.name)
        self.floats |= {i.name for i in graph.initializer if i.data_type == kind}
        for place, node in enumerate(graph.node):
            self.producer.update({name: place for name in node.output if name})
            for name in dict.fromkeys(node.input):
                if name:
                    self.readers[name].append(place)
            self.captured |= _captured(node)
        self._opsets = {o.domain or "": int(o.version) for o in self.model.opset_import}

    @property
    def nodes(self) -> "list[onnx.NodeProto]":
        """The nodes, in topological order."""
        return list(self.model.graph.node)

    def value(self, name: str) -> NDArray[np.generic] | None:
        """An initializer's value, None for other tensors."""
        from onnx import numpy_helper

        held = self.constants.get(name)
        return None if held is None else numpy_helper.to_array(held)

    def ports(self, node: "onnx.NodeProto") -> Ports | None:
        """What becomes half with a node; None where the node has no half form."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        kinds = _kinds(node.op_type, self._opsets.get(domain, 0), domain, self.half)
        if kinds is None:
            return None
        takes, gives = kinds
        fixed = _FLOAT_INPUTS.get(node.op_type, frozenset())
        read = {i: takes(i) for i, name in enumerate(node.input) if name in self.floats}
        made = {i: gives(i) for i, name in enumerate(node.output) if name in self.floats}
        inputs = tuple(i for i, variable in read.items() if variable and i not in fixed)
        tied = {read[i] for i in inputs}
        if not inputs or any(variable not in tied for variable in made.values()):
            return None
        return Ports(inputs, tuple(made))


def lift_constants(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Make initializers of Constant nodes, in place: only these can be written in half.

    Some exporters keep every weight in such a node; a cast behind each would save nothing.
    """
    import onnx

    graph = model.graph
    outputs, rest = {o.name for o in graph.output}, list[onnx.NodeProto]()
    for node in graph.node:
        value = next((a for a in node.attribute if a.name == "value"), None)
        if node.op_type != "Constant" or value is None or node.output[0] in outputs:
            rest.append(node)
            continue
        lifted = graph.initializer.add()
        lifted.CopyFrom(value.t)
        lifted.name = node.output[0]
    if len(rest) < len(graph.node):
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in rest]
        del graph.node[:]
        graph.node.extend(kept)
    return model


class _Formal:
    """The type variable of each place, where it may be half; empty where it may not."""

    def __init__(self, variables: tuple[str, ...], variadic: bool) -> None:
        self._variables, self._variadic = variables, variadic

    def __call__(self, place: int) -> str:
        if place < len(self._variables):
            return self._variables[place]
        return self._variables[-1] if self._variadic and self._variables else ""


@cache
def _kinds(operator: str, opset: int, domain: str, half: Half) -> tuple[_Formal, _Formal] | None:
    import onnx

    try:
        schema = onnx.defs.get_schema(operator, opset, domain)
    except onnx.defs.SchemaError:
        return None
    wanted = f"tensor({half})"
    allowed = {c.type_param_str for c in schema.type_constraints if wanted in c.allowed_type_strs}
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    inputs, outputs = (
        _Formal(
            tuple(p.type_str if p.type_str in allowed else "" for p in formal),
            bool(formal) and formal[-1].option == variadic,
        )
        for formal in (schema.inputs, schema.outputs)
    )
    return inputs, outputs


def _captured(node: "onnx.NodeProto") -> set[str]:
    """Every name that a node's sub-graphs read, their own tensors among them."""
    graphs = [g for a in node.attribute for g in ((a.g,) if a.HasField("g") else a.graphs)]
    found: set[str] = set()
    for graph in graphs:
        found |= {name for inner in graph.node for name in inner.input if name}
        found |= {o.name for o in graph.output}
        for inner in graph.node:
            found |= _captured(inner)
    return found
