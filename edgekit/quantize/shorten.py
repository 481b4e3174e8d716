"""Short names for what quantization added. In a small network NNCF's names are a tenth of the file.

A quantized weight takes the float weight's name; scales, pairs and zero points are called
after the tensor that they belong to, and equal zero points are one initializer.
"""

from typing import TYPE_CHECKING

from edgekit.graph.onnx_names import unique
from edgekit.quantize.graph import Graph

if TYPE_CHECKING:
    import onnx

_PAIR = {"QuantizeLinear": "Q", "DequantizeLinear": "DQ"}
_WEIGHT, _TAIL = "q_output_", "_1"


def shorten(graph: Graph) -> None:
    """Rename in place; inputs, outputs and the user's tensors keep their names."""
    taken = {o.name for o in graph.model.graph.output} | {i.name for i in graph.model.graph.input}
    taken |= {o for n in graph.nodes if n.op_type not in _PAIR for o in n.output}
    others = {name for n in graph.nodes if n.op_type not in _PAIR for name in n.input}
    taken |= {i.name for i in graph.model.graph.initializer if i.name in others}
    names: dict[str, str] = {}
    for node in graph.nodes:
        if node.op_type in _PAIR:
            _name(graph, node, names, taken)
    _apply(graph, names)


def _name(graph: Graph, node: "onnx.NodeProto", names: dict[str, str], taken: set[str]) -> None:
    """Choose the new names of a Q or DQ node, its output, its scale and its zero point."""
    if graph.is_constant(node.input[0]) and node.input[0] not in names:
        plain = node.input[0].removeprefix(_WEIGHT)
        plain = plain.removesuffix(_TAIL) if plain != node.input[0] else plain
        names[node.input[0]] = unique(plain, taken)
    made = graph.producer(node.input[0])
    if made is not None and made.op_type == "QuantizeLinear":
        base = made.input[0]
    else:
        base = names.get(node.input[0], node.input[0])
    if graph.is_constant(node.input[1]) and node.input[1] not in names:
        names[node.input[1]] = unique(f"{base}/s", taken)
    if len(node.input) > 2 and node.input[2] not in names:
        value = graph.array(node.input[2])
        if value is not None:
            content = f"zero/{value.dtype}/{'x'.join(map(str, value.shape))}/"
            content += str(int(value.ravel()[0])) if (value == value.ravel()[0]).all() else base
            names[node.input[2]] = content
    if not graph.is_output(node.output[0]):
        names[node.output[0]] = unique(f"{base}/{_PAIR[node.op_type]}", taken)


def _apply(graph: Graph, names: dict[str, str]) -> None:
    seen: set[str] = set()
    kept = []
    for held in graph.model.graph.initializer:
        held.name = names.get(held.name, held.name)
        if held.name not in seen:
            kept.append(held.SerializeToString())
        seen.add(held.name)
    del graph.model.graph.initializer[:]
    for data in kept:
        graph.model.graph.initializer.add().ParseFromString(data)
    for node in graph.model.graph.node:
        for values in (node.input, node.output):
            for i, name in enumerate(values):
                values[i] = names.get(name, name)
        if node.op_type in _PAIR:
            node.name = node.output[0]
    graph.edit()
