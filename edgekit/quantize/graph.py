"""Reading and editing an ONNX graph by tensor name: what the quantizer's post-passes share."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
MOVES = frozenset({"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})


class Graph:
    """An index of a model's top-level graph. Edits go through it, so that it stays true.

    Constants are initializers and the tensors of Constant nodes: other tools write both.

    Attributes:
        model: the model; edited in place.
        folder: where external data lies that was left unread, one tensor of which is in memory at a
            time.
    """

    def __init__(self, model: "onnx.ModelProto", folder: Path | None = None) -> None:
        self.model = model
        self.folder = folder
        self._index()

    def _index(self) -> None:
        graph = self.model.graph
        self._arrays = {i.name: i for i in graph.initializer}
        for node in graph.node:
            held = next((a.t for a in node.attribute if a.name == "value"), None)
            if node.op_type == "Constant" and held is not None:
                self._arrays[node.output[0]] = held
        self._producer = {o: n for n in graph.node for o in n.output if o}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                if name:
                    self._readers[name].append(node)
        self._outputs = {o.name for o in graph.output}
        self._taken = {n.name for n in graph.node} | {i.name for i in graph.input}
        self._taken |= {*self._arrays, *self._producer, *self._readers, *self._outputs}

    @property
    def nodes(self) -> "list[onnx.NodeProto]":
        """The nodes, in topological order."""
        return list(self.model.graph.node)

    def producer(self, name: str) -> "onnx.NodeProto | None":
        """The node that makes a tensor; None for inputs and initializers."""
        return self._producer.get(name)

    def readers(self, name: str) -> "list[onnx.NodeProto]":
        """The nodes that read a tensor."""
        return list(self._readers.get(name, ()))

    def is_output(self, name: str) -> bool:
        """Whether a tensor is an output of the model."""
        return name in self._outputs

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is an initializer, or a Constant node's."""
        return name in self._arrays

    def dtype(self, name: str) -> str | None:
        """A constant's dtype, without reading its data; None for other tensors."""
        from onnx import helper

        held = self._arrays.get(name)
        return None if held is None else str(helper.tensor_dtype_to_np_dtype(held.data_type).name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A constant's shape; None for other tensors."""
        held = self._arrays.get(name)
        return None if held is None else tuple(held.dims)

    def array(self, name: str) -> NDArray[Any] | None:
        """A constant's value, None for other tensors."""
        from onnx import TensorProto, numpy_helper

        held = self._arrays.get(name)
        if held is None or held.data_location != TensorProto.EXTERNAL:
            return None if held is None else numpy_helper.to_array(held)
        read = TensorProto()  # a copy, so that its data goes with it
        read.CopyFrom(held)
        return numpy_helper.to_array(read, str(self.folder or ""))

    def set_array(self, name: str, value: NDArray[Any]) -> str:
        """Add or replace an initializer; gives its name."""
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.asarray(value, order="C"), name)
        if name in self._arrays:
            self._arrays[name].CopyFrom(tensor)
        else:
            self.model.graph.initializer.append(tensor)
            self._arrays[name] = self.model.graph.initializer[-1]
        return name

    def unique(self, name: str) -> str:
        """A tensor and node name that is not in use."""
        found, count = name, 1
        while found in self._taken:
            count += 1
            found = f"{name}_{count}"
        self._taken.add(found)
        return found

    def edit(
        self,
        *,
        drop: "Iterable[onnx.NodeProto]" = (),
        before: "dict[int, list[onnx.NodeProto]] | None" = None,
        sort: bool = False,
    ) -> None:
        """Remove nodes and insert nodes, and drop initializers that nothing reads any more.

        Args:
            drop: nodes to remove; nobody may read their outputs any more.
            before: `id()` of a node to the nodes to insert before it; 0 for the end.
            sort: put nodes that are read before they are made in order again.
        """
        gone, inserted = {id(n) for n in drop}, before or {}
        nodes: list[onnx.NodeProto] = []
        for node in self.model.graph.node:
            nodes.extend(inserted.get(id(node), ()))
            if id(node) not in gone:
                nodes.append(node)
        nodes.extend(inserted.get(0, ()))
        copies = [_copy(n) for n in (_sorted(nodes) if sort else nodes)]
        del self.model.graph.node[:]
        self.model.graph.node.extend(copies)
        self._drop_unread()
        self._index()

    def _drop_unread(self) -> None:
        graph = self.model.graph
        read = {name for node in graph.node for name in node.input} | _captured(graph.node)
        read |= {o.name for o in graph.output}
        for node in [n for n in graph.node if n.op_type == "Constant" and n.output[0] not in read]:
            graph.node.remove(node)
        kept = [i for i in graph.initializer if i.name in read]
        if len(kept) < len(graph.initializer):
            copies = [_copy(i) for i in kept]
            del graph.initializer[:]
            graph.initializer.extend(copies)

    def add(self, node: "onnx.NodeProto") -> None:
        """Put a node at the end, until the next `edit(sort=True)`; references to others hold."""
        self.model.graph.node.append(node)
        held = self.model.graph.node[-1]
        self._producer |= dict.fromkeys(held.output, held)
        for name in filter(None, held.input):
            self._readers[name].append(held)

    def rewire(self, old: str, new: str, where: Callable[["onnx.NodeProto"], bool]) -> None:
        """Let the readers of `old` for which `where` holds read `new` instead."""
        for node in self.readers(old):
            if not where(node):
                continue
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new
                    self._readers[new].append(node)
            self._readers[old] = [n for n in self._readers[old] if n is not node]

    def bypass(self, node: "onnx.NodeProto") -> bool:
        """Let everybody who reads a node's output read its first input.

        An output of the model keeps its name: whatever computes it now takes the name.

        Returns:
            Whether the node is to be dropped; where nothing can take an output's name it stays, as
            an Identity.
        """
        old, new = node.output[0], node.input[0]
        self.rewire(old, new, lambda _: True)
        if old not in self._outputs:
            return True
        made = self._producer.get(new)
        if made is None or new in self._outputs or new in self._arrays:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.attribute[:]
            return False
        self.rewire(new, old, lambda reader: reader is not node)
        for i, name in enumerate(made.output):
            if name == new:
                made.output[i] = old
        self._producer[old] = made
        return True

    # What quantization looks like.

    def zero_point(self, node: "onnx.NodeProto") -> NDArray[Any] | None:
        """The zero point of a Q or DQ node; None where it has none, or it is computed."""
        return self.array(node.input[2]) if len(node.input) > 2 else None

    def axis(self, node: "onnx.NodeProto") -> int:
        """The axis of a Q or DQ node whose scale has several values."""
        return attribute(node, "axis", 1)

    def levels(self, node: "onnx.NodeProto") -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Scale and zero point of a Q or DQ node; None where they are computed.

        A zero point that is left out is 0, of the dtype that the node reads or writes.
        """
        scale, zero = self.array(node.input[1]), self.zero_point(node)
        if scale is None or (zero is None and len(node.input) > 2 and node.input[2]):
            return None
        if zero is None:
            zero = np.zeros(scale.shape, self.integer_dtype(node))
        return scale, zero

    def integer_dtype(self, node: "onnx.NodeProto") -> str:
        """The dtype that a Q node writes or a DQ node reads."""
        from onnx import helper

        if len(node.input) > 2 and node.input[2]:
            return self.dtype(node.input[2]) or "uint8"
        if node.op_type == "DequantizeLinear":
            made = self.integers_from(node.input[0])
            return self.dtype(node.input[0]) or (
                "uint8" if made is None else self.integer_dtype(made)
            )
        kind = attribute(node, "output_dtype", 0)
        return str(helper.tensor_dtype_to_np_dtype(kind).name) if kind else "uint8"

    def integers_from(self, name: str) -> "onnx.NodeProto | None":
        """The QuantizeLinear that integers come from, through nodes that compute nothing."""
        made = self.producer(name)
        while made is not None and made.op_type in MOVES:
            made = self.producer(made.input[0])
        return made if made is not None and made.op_type == "QuantizeLinear" else None

    def dequantizers(self, quantize: "onnx.NodeProto") -> "list[onnx.NodeProto]":
        """The DequantizeLinear nodes that read a QuantizeLinear, through nodes that move only."""
        found, ahead = [], [quantize.output[0]]
        while ahead:
            for reader in self.readers(ahead.pop()):
                if reader.op_type == "DequantizeLinear":
                    found.append(reader)
                elif reader.op_type in MOVES:
                    ahead.append(reader.output[0])
        return found

    def set_levels(
        self, quantize: "onnx.NodeProto", scale: NDArray[Any], zero: NDArray[Any]
    ) -> None:
        """Give a Q/DQ pair another scale and zero point, in initializers of its own."""
        s = self.set_array(self.unique(f"{quantize.input[0]}/scale"), scale)
        z = self.set_array(self.unique(f"{quantize.input[0]}/zero"), zero)
        for node in (quantize, *self.dequantizers(quantize)):
            del node.input[1:]
            node.input.extend([s, z])
            gone = {"output_dtype", *(() if scale.ndim else ("axis",))}
            kept = [a for a in node.attribute if a.name not in gone]
            del node.attribute[:]
            node.attribute.extend(kept)

    def activation_quantizers(self) -> "list[onnx.NodeProto]":
        """QuantizeLinear nodes whose input is computed, not constant."""
        return [
            n
            for n in self.nodes
            if n.op_type == "QuantizeLinear" and n.input[0] not in self._arrays
        ]

    def source(self, name: str) -> str:
        """The tensor behind a Q/DQ pair: what `name` is a quantized copy of, or `name` itself."""
        dequantize = self.producer(name)
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            return name
        quantize = self.producer(dequantize.input[0])
        if quantize is None or quantize.op_type != "QuantizeLinear":
            return name
        return str(quantize.input[0])

    def dequantized(self, name: str) -> "onnx.NodeProto | None":
        """The DequantizeLinear that a tensor comes from, through nodes that compute nothing."""
        made = self.producer(name)
        while made is not None and made.op_type in MOVES:
            made = self.producer(made.input[0])
        return made if made is not None and made.op_type == "DequantizeLinear" else None

    def weight(self, node: "onnx.NodeProto") -> tuple[str, bool] | None:
        """The weight of a layer.

        Returns:
            The initializer's name, and whether it reaches the layer through DequantizeLinear;
            None where the layer's second input is computed (attention).
        """
        if node.op_type not in WEIGHTED or len(node.input) < 2:
            return None
        name = node.input[1]
        quantized = False
        for _ in range(4):  # DQ, or Q and DQ, perhaps with a Transpose or Reshape between
            if name in self._arrays:
                return name, quantized
            made = self.producer(name)
            if made is None or made.op_type not in _WEIGHT_PATH:
                return None
            quantized |= made.op_type == "DequantizeLinear"
            name = made.input[0]
        return None


_WEIGHT_PATH = {"DequantizeLinear", "QuantizeLinear", "Transpose", "Reshape", "Identity"}


def attribute(node: "onnx.NodeProto", name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def output_axis(layer: "onnx.NodeProto", rank: int) -> int:
    """The axis of a layer's weight that runs along its output channels."""
    if layer.op_type == "Conv":
        return 0
    if layer.op_type == "ConvTranspose":
        return 1
    if layer.op_type == "Gemm":
        return 0 if attribute(layer, "transB", 0) else 1
    return rank - 1


def _sorted(nodes: "list[onnx.NodeProto]") -> "list[onnx.NodeProto]":
    """Topological order, as near to the given one as it can be."""
    waiting, made = list(nodes), {o for n in nodes for o in n.output}
    done: list[onnx.NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            if (set(node.input) | _captured([node])) & made:
                later.append(node)
            else:
                done.append(node)
                made -= set(node.output)
        if len(later) == len(waiting):
            raise ValueError("the graph has a cycle")
        waiting = later
    return done


def _copy(proto: Any) -> Any:
    made = type(proto)()
    made.CopyFrom(proto)
    return made


def _captured(nodes: "Iterable[onnx.NodeProto]") -> set[str]:
    """Names that sub-graphs read; they may lie outside."""
    found: set[str] = set()
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                found |= {name for inner in graph.node for name in inner.input}
                found |= _captured(graph.node)
    return found
