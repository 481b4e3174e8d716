"""Writing half precision into an ONNX graph: casts stand at boundaries and nowhere else.

A tensor's name keeps its meaning: what was called `x` is float32 as long as anything wants it so,
and its half is `x/float16`. Only a tensor that every reader takes in half keeps its name alone.
"""

from typing import TYPE_CHECKING

from edgekit.errors import PassError
from edgekit.quantize.half.graph import HalfGraph, Ports
from edgekit.quantize.half.ranges import to_half

if TYPE_CHECKING:
    import onnx


def half_constants(graph: HalfGraph, halves: set[int]) -> set[str]:
    """Initializers that half nodes alone read, where they take them in half."""
    wanted = set(graph.constants) - graph.outputs - graph.captured
    for name in list(wanted):
        readers = graph.readers.get(name, [])
        if not readers or not all(_in_half(graph, p, name, halves) for p in readers):
            wanted.discard(name)
    return wanted & graph.floats


def write_half(graph: HalfGraph, halves: set[int]) -> "onnx.ModelProto":
    """The network with some nodes in half.

    Args:
        graph: of the float32 network; not changed.
        halves: places of the nodes that become half.

    Raises:
        PassError: the result is not valid ONNX.
    """
    import onnx

    writer = _Writer(graph, halves)
    for place, node in enumerate(graph.nodes):
        writer.add(place, node)
    model = writer.model
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise PassError(
            f"The {graph.half} graph is not valid ONNX: {str(e).strip().splitlines()[0]}",
            "Keep the node that the message names in float32 with `exclude`.",
        ) from e
    return model


class _Writer:
    def __init__(self, graph: HalfGraph, halves: set[int]) -> None:
        import onnx

        self._graph, self._halves = graph, halves
        self._kind = onnx.TensorProto.DataType.Value(graph.half.upper())
        self._float = int(onnx.TensorProto.FLOAT)
        self._constants = half_constants(graph, halves)
        self._named: dict[str, str] = {}
        self._born = {
            node.output[i]
            for place, node in enumerate(graph.nodes)
            if place in halves
            for i in self._ports(node).outputs
        }
        self.model = onnx.ModelProto()
        self.model.CopyFrom(graph.model)
        self.model.graph.ClearField("value_info")
        del self.model.graph.node[:]
        for tensor in self.model.graph.initializer:
            if tensor.name in self._constants:
                self._round(tensor, tensor.name)

    def add(self, place: int, original: "onnx.NodeProto") -> None:
        """Append one node, and the casts that it needs."""
        import onnx

        node = onnx.NodeProto()
        node.CopyFrom(original)
        after = []
        if place in self._halves:
            ports = self._ports(original)
            for i in ports.inputs:
                node.input[i] = self._half_of(original.input[i])
            for i in ports.outputs:
                name = original.output[i]
                if self._wanted_float(name):
                    node.output[i] = self._named[name] = f"{name}/{self._graph.half}"
                    after.append(self._cast(node.output[i], name, self._float))
            if node.op_type == "Attention":
                _set(node, "softmax_precision", self._float)
        self.model.graph.node.append(node)
        self.model.graph.node.extend(after)

    def _ports(self, node: "onnx.NodeProto") -> Ports:
        return self._graph.ports(node) or Ports()

    def _half_of(self, name: str) -> str:
        """The half of a tensor, made here where it is not there yet."""
        if name in self._constants:
            return name
        if name in self._named:
            return self._named[name]
        if name in self._born:
            return name
        made = self._named[name] = f"{name}/{self._graph.half}"
        if name in self._graph.constants:
            tensor = self.model.graph.initializer.add()
            tensor.CopyFrom(self._graph.constants[name])
            self._round(tensor, made)
        else:
            self.model.graph.node.append(self._cast(name, made, self._kind))
        return made

    def _round(self, tensor: "onnx.TensorProto", name: str) -> None:
        from onnx import numpy_helper

        value = to_half(numpy_helper.to_array(tensor), self._graph.half)
        tensor.CopyFrom(numpy_helper.from_array(value, name))

    def _cast(self, source: str, result: str, kind: int) -> "onnx.NodeProto":
        import onnx

        return onnx.helper.make_node("Cast", [source], [result], name=f"{result}/Cast", to=kind)

    def _wanted_float(self, name: str) -> bool:
        if name in self._graph.outputs or name in self._graph.captured:
            return True
        readers = self._graph.readers.get(name, [])
        return any(not _in_half(self._graph, p, name, self._halves) for p in readers)


def _in_half(graph: HalfGraph, place: int, name: str, halves: set[int]) -> bool:
    """Whether a node reads a tensor in half, at each place where it reads it."""
    node = graph.nodes[place]
    ports = graph.ports(node) if place in halves else None
    return ports is not None and all(
        i in ports.inputs for i, read in enumerate(node.input) if read == name
    )


def _set(node: "onnx.NodeProto", name: str, value: int) -> None:
    import onnx

    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
