"""What an ONNX model has to do in one inference, as a whole and node by node.

It is the least: each weight and input is read once, each output written once, and what lies between
fused nodes never leaves the processor. Where a tensor is quantized, its int8 form is what moves.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from edgekit.bench.roofline import Work
from edgekit.graph.onnx_cost import onnx_cost, precisions, size_bytes

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]
SMALL_BYTES = 1024


class OnnxWork:
    """The work of a model for inputs of given shapes.

    Args:
        model: with its weights as initializers.
        shapes: of each input.
    """

    def __init__(self, model: "onnx.ModelProto", shapes: Mapping[str, Shape]) -> None:
        fixed = with_shapes(model, shapes)
        self._nodes = list(fixed.graph.node)
        self._precisions = precisions(fixed)
        self._cost = onnx_cost(fixed)
        self._sizes = sizes_of(fixed)
        self._producer = {t: i for i, node in enumerate(self._nodes) for t in node.output if t}
        self._readers: dict[str, list[int]] = {}
        for place, node in enumerate(self._nodes):
            for tensor in node.input:
                self._readers.setdefault(tensor, []).append(place)
        self._weights = {t.name for t in fixed.graph.initializer}
        self._inputs = [v.name for v in fixed.graph.input if v.name not in self._weights]
        self._outputs = [v.name for v in fixed.graph.output]
        self._places = {
            node.name or next((t for t in node.output if t), ""): place
            for place, node in enumerate(self._nodes)
        }
        weights = sum(self._sizes.get(name, 0) for name in self._weights)
        self.working_set = weights + max(
            (self._moved([i])[0] for i in self._activations()), default=0
        )

    def whole(self) -> Work:
        """The work of the model."""
        ends = [*self._inputs, *self._outputs]
        known = [self._sizes[name] for name in ends if name in self._sizes]
        weights = sum(self._sizes.get(name, 0) for name in self._weights)
        return Work(
            self._macs(range(len(self._nodes))),
            weights + sum(known),
            self.working_set,
            len(self._cost.uncounted) + len(ends) - len(known),
        )

    def of(self, nodes: Iterable[str]) -> Work:
        """The work of some nodes that run as one.

        Args:
            nodes: their names; of a node without one, the name of its first output.
        """
        places = [self._places[name] for name in nodes if name in self._places]
        moved, unknown = self._moved(places)
        keys = {self._key(place) for place in places}
        uncounted = sum(key in keys for key in self._cost.uncounted)
        return Work(self._macs(places), moved, self.working_set, unknown + uncounted)

    def _activations(self) -> list[int]:
        """Nodes that the weights do not alone determine."""
        return [
            place
            for place, node in enumerate(self._nodes)
            if any(name and name not in self._weights for name in node.input)
        ]

    def _key(self, place: int) -> str:
        node = self._nodes[place]
        return node.name or f"{node.op_type}_{place}"

    def _macs(self, places: Iterable[int]) -> dict[str, int]:
        found: dict[str, int] = {}
        for place in places:
            macs = self._cost.by_layer.get(self._key(place), (0, 0))[0]
            precision = self._precisions[place]
            if macs and precision:
                found[precision] = found.get(precision, 0) + macs
        return found

    def _moved(self, places: Iterable[int]) -> tuple[int, int]:
        """Bytes that go in and out of some nodes, and the number of tensors of unknown size."""
        inside = set(places)
        read = {
            self._stored(name)
            for place in inside
            for name in self._nodes[place].input
            if name and not self._made_in(name, inside)
        }
        written = {
            self._stored_after(name)
            for place in inside
            for name in self._nodes[place].output
            if name and (name in self._outputs or self._read_outside(name, inside))
        }
        sizes = [self._sizes.get(name) for name in (*read, *written)]
        return sum(size for size in sizes if size is not None), sizes.count(None)

    def _stored(self, name: str) -> str:
        """The tensor that is read from memory for one that is dequantized on the way."""
        place = self._producer.get(name)
        if place is not None and self._nodes[place].op_type == "DequantizeLinear":
            return str(self._nodes[place].input[0])
        return name

    def _stored_after(self, name: str) -> str:
        """The tensor that is written for one that is only read to be quantized."""
        readers = [self._nodes[place] for place in self._readers.get(name, [])]
        if name in self._outputs or not readers:
            return name
        if any(node.op_type != "QuantizeLinear" for node in readers):
            return name
        return str(readers[0].output[0])

    def _made_in(self, name: str, inside: set[int]) -> bool:
        """Whether some nodes make a tensor, quantizers between them left out."""
        place = self._producer.get(name)
        while place is not None and place not in inside:
            node = self._nodes[place]
            if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
                return False
            place = self._producer.get(node.input[0])
        return place is not None

    def _read_outside(self, name: str, inside: set[int]) -> bool:
        pending, seen = list(self._readers.get(name, [])), set[int]()
        while pending:
            place = pending.pop()
            if place in inside or place in seen:
                continue
            seen.add(place)
            node = self._nodes[place]
            if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
                return True
            if node.output[0] in self._outputs:
                return True
            pending += self._readers.get(node.output[0], [])
        return False


def with_shapes(model: "onnx.ModelProto", shapes: Mapping[str, Shape]) -> "onnx.ModelProto":
    """A copy for inputs of these shapes, with every shape that follows from them."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in copy.graph.input:
        for dim, size in zip(
            value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False
        ):
            dim.dim_value = size
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    light = onnx.ModelProto()
    light.CopyFrom(copy)
    for tensor in light.graph.initializer:
        if len(tensor.raw_data) > SMALL_BYTES:  # no shape is computed from it
            tensor.ClearField("raw_data")
    known = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    copy.graph.value_info.extend(known.value_info)
    for value, inferred in zip(copy.graph.output, known.output, strict=True):
        value.CopyFrom(inferred)
    return copy


def sizes_of(model: "onnx.ModelProto") -> dict[str, int]:
    """Bytes of every tensor whose shape is known."""
    graph = model.graph
    found = {t.name: size_bytes(t.dims, t.data_type) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = size_bytes((dim.dim_value for dim in dims), kind.elem_type)
    return found
