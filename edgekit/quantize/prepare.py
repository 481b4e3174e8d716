"""Before quantization: a graph that NNCF sees whole, and the nodes that stay in float."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from edgekit.errors import PassError, UsageError
from edgekit.quantize.config import PtqConfig
from edgekit.quantize.detect import quantized
from edgekit.quantize.graph import WEIGHTED, Graph

if TYPE_CHECKING:
    import onnx

    from edgekit.target import IntegerScheme

LARGEST_BYTES = 2**31 - (64 << 20)  # protobuf's limit, with room for the graph
_MINIMUM_OPSET = 13  # per-channel weights


def prepare(model: "onnx.ModelProto") -> tuple["onnx.ModelProto", list[str]]:
    """A copy that NNCF sees whole: clean, opset 13 or more, a bias of its own for each layer.

    Raises:
        UsageError: the model is quantized already.
        PassError: its opset cannot be raised.
    """
    import onnx

    from edgekit.lower.clean import cleaned
    from edgekit.lower.export import PRODUCER

    if how := quantized(model):
        raise UsageError(
            f"The model is quantized already: {how}.",
            "Give the float32 model that it was made from, or `requantize: true` (--requantize).",
        )
    size = sum(len(t.raw_data) for t in model.graph.initializer)
    if size > LARGEST_BYTES:
        raise UsageError(
            f"The model holds {size / 2**30:.1f} GiB of weights: calibration runs it in memory, "
            "which ONNX allows up to 2 GiB.",
            "Quantize the network in parts.",
        )
    warnings: list[str] = []
    opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 0)
    if opset < _MINIMUM_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _MINIMUM_OPSET)
        except Exception as e:
            raise PassError(
                f"The model has opset {opset}, and cannot be raised to {_MINIMUM_OPSET}: {e}",
                "Export it again with a newer opset.",
            ) from e
        warnings.append(f"The opset was raised from {opset} to {_MINIMUM_OPSET}.")
    if model.producer_name == PRODUCER:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
    else:
        copy, notes = cleaned(model)
        warnings += notes
    _own_biases(Graph(copy))
    return copy, warnings


def _own_biases(graph: Graph) -> None:
    """Equal biases are one tensor in a clean file; a correction of one must not change another."""
    seen: set[str] = set()
    for node in graph.nodes:
        if node.op_type not in WEIGHTED or len(node.input) < 3 or not node.input[2]:
            continue
        name = node.input[2]
        value = graph.array(name)
        if name in seen and value is not None:
            node.input[2] = graph.set_array(graph.unique(f"{node.name}.bias"), value)
        seen.add(name)
    graph.edit()


def exclusions(
    model: "onnx.ModelProto",
    config: PtqConfig,
    scheme: "IntegerScheme",
    *,
    static: bool = True,
) -> dict[str, str]:
    """Which nodes stay in float, and why.

    Args:
        model: float32.
        config: patterns and limits.
        scheme: whose runtime must have a kernel.
        static: operators without weights are quantized too, so that those between layers that stay
            in float can be spared it.

    Returns:
        Node name to reason.

    Raises:
        UsageError: a pattern matches nothing.
    """
    graph = Graph(model)
    found: dict[str, str] = {}
    for pattern in config.exclude:
        matched = matching(model, (pattern,), "exclude")
        found.update(dict.fromkeys(matched, f"excluded by {pattern!r}"))
    for node in graph.nodes:
        if node.op_type == "ConvTranspose" and not scheme.skip_input_of_add:
            found.setdefault(node.name, "ONNX Runtime has no int8 kernel for ConvTranspose")
        channels = _channels(graph, node)
        if channels and min(channels) < config.minimum_channels:
            reason = f"{min(channels)} channels, fewer than {config.minimum_channels}"
            found.setdefault(node.name, reason)
    if found and static and not scheme.skip_input_of_add:
        for name in _beside_floats(graph, found):
            found.setdefault(name, "the layers before or behind it stay in float")
    return found


def matching(model: "onnx.ModelProto", patterns: Sequence[str], field: str) -> list[str]:
    """Names of the nodes that patterns of names, module paths or operator types match.

    Args:
        model: any.
        patterns: `fnmatch` patterns.
        field: of the configuration that holds them, for the message.

    Raises:
        UsageError: a pattern matches nothing.
    """
    found: list[str] = []
    for pattern in patterns:
        matched = [n.name for n in model.graph.node if _matches(n, pattern)]
        if not matched:
            some = ", ".join(n.name for n in model.graph.node if n.op_type in WEIGHTED)[:300]
            raise UsageError(
                f"`{field}` pattern {pattern!r} matches no node.", f"The layers are: {some}."
            )
        found += matched
    return list(dict.fromkeys(found))


def _beside_floats(graph: Graph, floats: Collection[str]) -> list[str]:
    """Names of the nodes without weights whose nearest layers, on one side, all stay in float.

    An element-wise operator there would be quantized for nobody: its Q/DQ costs, and no integer
    kernel gains by it.

    Args:
        graph: float32, in topological order.
        floats: names of the layers that stay in float.
    """
    before: dict[str, set[bool]] = {}  # by tensor: of the nearest layers, which are in int8
    behind: dict[str, set[bool]] = {}
    for node in graph.nodes:
        kinds = _of_layer(node, floats) or set().union(*(before.get(t, set()) for t in node.input))
        before.update(dict.fromkeys(node.output, kinds))
    for node in reversed(graph.nodes):
        kinds = _of_layer(node, floats) or set().union(*(behind.get(t, set()) for t in node.output))
        for tensor in node.input:
            behind[tensor] = behind.get(tensor, set()) | kinds
    found = []
    for node in graph.nodes:
        sides = (before, node.input), (behind, node.output)
        kinds_of_sides = [
            set().union(*(seen.get(t, set()) for t in tensors)) for seen, tensors in sides
        ]
        if node.op_type not in WEIGHTED and any(k == {False} for k in kinds_of_sides):
            found.append(node.name)
    return found


def _of_layer(node: "onnx.NodeProto", floats: Collection[str]) -> set[bool]:
    return {node.name not in floats} if node.op_type in WEIGHTED else set()


def _matches(node: "onnx.NodeProto", pattern: str) -> bool:
    path = node.name.rsplit("/", 1)[0] if "/" in node.name else ""
    candidates = (node.name, path, node.op_type)
    return any(fnmatchcase(c, pattern) for c in candidates if c)


def _channels(graph: Graph, node: "onnx.NodeProto") -> tuple[int, ...]:
    """Input and output channels of a layer with weights, of one group where it has several."""
    held = graph.weight(node)
    weight = None if held is None else graph.array(held[0])
    if weight is None or weight.ndim < 2:
        return ()
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type in {"Conv", "ConvTranspose"}:
        return int(weight.shape[0]) // groups, int(weight.shape[1])
    return int(weight.shape[-1]), int(weight.shape[-2])
