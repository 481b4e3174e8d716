"""Empirical bias correction: rounding shifts the mean of each channel; shift it back.

In topological order, b_c += E[y_float]_c - E[y_quantized]_c over calibration samples, with the
corrections of all earlier layers in place; a bias is added where there is none (Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2; the
empirical form of its appendix).

NNCF's own correction is switched off. Its fast variant feeds each layer one blob of channel means,
which is wrong where padding matters, and skips a layer whose bias holds an exact zero; its full
variant asks ONNX Runtime for tensors that its NCHWc fusions remove. On a ResNet-8 (digits, 7-bit
weights, 1000 unseen samples) the output's signal to noise ratio is 20.1 dB with the fast variant,
30.4 dB without any and 39.7 dB with this one.
"""

from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.lower import check
from edgekit.quantize.graph import CONVOLUTIONS, Graph
from edgekit.quantize.placement import layers

if TYPE_CHECKING:
    import onnx

Means = dict[str, NDArray[np.float64]]
_MOST_KEPT_BYTES = 1 << 30


def correct(
    reference: "onnx.ModelProto",
    model: "onnx.ModelProto",
    feeds: Iterable[check.Arrays],
    advance: Callable[[float], None] = lambda _: None,
) -> tuple[int, list[str]]:
    """Correct the biases of a quantized model, in place.

    Args:
        reference: the float model that it was made from; the same tensor names.
        model: with quantized weights and activations; biases still in float.
        feeds: calibration samples; iterated once for each layer and once more.
        advance: is told the share of the work done, after each layer.

    Returns:
        How many layers were corrected, and the names of those that could not be.
    """
    graph = Graph(model)
    known = {o for n in reference.graph.node for o in n.output}
    todo: list[str] = []
    left: list[str] = []
    for node in layers(graph):
        (todo if node.output[0] in known and _can_hold_bias(graph, node) else left).append(
            node.name
        )
    outputs = {n.name: n.output[0] for n in graph.nodes if n.name in set(todo)}
    axes = {n.output[0]: _channel_axis(n) for n in graph.nodes if n.name in set(todo)}
    wanted = channel_means(reference, axes, feeds) if axes else {}
    ahead = _Ahead(model, feeds)
    for place, name in enumerate(todo):
        tensor = outputs[name]
        values = ahead.values(tensor)
        delta = wanted[tensor] - _mean(values, axes[tensor])
        if _shift(graph, name, delta):
            values = [_shifted(value, delta, axes[tensor]) for value in values]
        ahead.keep(tensor, values, [outputs[later] for later in todo[place + 1 :]])
        advance(1 / len(todo))
    return len(todo), left


class _Ahead:
    """Inner tensors of a model whose biases change in topological order, over all feeds.

    What was computed is kept for as long as later tensors need it, and each is computed from what
    is kept: a layer runs once, where running the model up to each would run it once for each.

    Args:
        model: changed meanwhile, behind the tensors that are kept.
        feeds: the inputs.
    """

    def __init__(self, model: "onnx.ModelProto", feeds: Iterable[check.Arrays]) -> None:
        self._model = model
        self._feeds = feeds
        self._kept: dict[str, list[NDArray[Any]]] = {}

    def values(self, tensor: str) -> list[NDArray[Any]]:
        """A tensor for each feed, as the model computes it now."""
        part, begins = _part(self._model, tensor, self._kept)
        runner = check.onnx_runner(watch(part, (tensor,)), optimize=False)
        found = []
        for number, feed in enumerate(self._feeds):
            inputs = {spec.name: feed[spec.name] for spec in part.graph.input if spec.name in feed}
            inputs |= {name: self._kept[name][number] for name in begins}
            found.append(runner(inputs)[tensor])
        return found

    def keep(self, tensor: str, values: list[NDArray[Any]], later: list[str]) -> None:
        """Keep a tensor's values, and let go of what no later tensor is computed from.

        What would take too much memory is not kept: it is computed again then.
        """
        held = sum(value.nbytes for each in self._kept.values() for value in each)
        if held + sum(value.nbytes for value in values) <= _MOST_KEPT_BYTES:
            self._kept[tensor] = values
        _, _, begins = _behind(self._model, set(later), self._kept)
        self._kept = {name: each for name, each in self._kept.items() if name in begins}


def _mean(values: list[NDArray[Any]], axis: int) -> NDArray[np.float64]:
    """Mean over everything but one axis, and over all values, equally weighted."""
    total = np.zeros((), np.float64)
    for value in values:
        total = total + channel_mean(value, axis)
    return np.asarray(total / max(len(values), 1))


def channel_mean(value: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """Mean over everything but one axis, float64."""
    others = tuple(i for i in range(value.ndim) if i != axis % value.ndim)
    return np.asarray(value.mean(axis=others, dtype=np.float64))


def _shifted(value: NDArray[Any], delta: NDArray[np.float64], axis: int) -> NDArray[Any]:
    shape = [1] * value.ndim
    shape[axis] = -1
    return np.asarray(value + delta.astype(value.dtype).reshape(shape))


def channel_means(
    model: "onnx.ModelProto", axes: dict[str, int], feeds: Iterable[check.Arrays]
) -> Means:
    """Mean of inner tensors over everything but one axis, and over all feeds.

    Args:
        model: any model under 2 GB.
        axes: tensor name to the axis to keep.
        feeds: inputs, equally weighted.
    """
    runner = check.onnx_runner(watch(model, tuple(axes)), optimize=False)
    totals: Means = {}
    count = 0
    for feed in feeds:
        count += 1
        for name, value in runner(feed).items():
            mean = channel_mean(value, axes[name])
            totals[name] = totals[name] + mean if name in totals else mean
    return {name: total / max(count, 1) for name, total in totals.items()}


def watch(model: "onnx.ModelProto", tensors: tuple[str, ...]) -> bytes:
    """A serialised copy whose outputs are the given float tensors."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in tensors:
        made = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        copy.graph.output.append(made)
    return bytes(copy.SerializeToString())


def _behind(
    model: "onnx.ModelProto", tensors: set[str], known: Container[str]
) -> tuple["list[onnx.NodeProto]", set[str], set[str]]:
    """What tensors are computed from, as far as tensors that are known: nodes, names, the known."""
    needed, begins, nodes = set(tensors), set(), []
    for node in reversed(model.graph.node):
        if not any(o in needed for o in node.output):
            continue
        names = set(node.input)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                names.update(name for inner in graph.node for name in inner.input)
        begins |= {name for name in names if name in known}
        needed |= {name for name in names if name not in known}
        nodes.append(node)
    return nodes[::-1], needed, begins


def _part(
    model: "onnx.ModelProto", tensor: str, known: Container[str]
) -> tuple["onnx.ModelProto", set[str]]:
    """The part of a model that computes a tensor from tensors that are known, and which it reads.

    Its inputs are those of the model and of the known tensors that it reads.
    """
    import onnx

    nodes, needed, begins = _behind(model, {tensor}, known)
    part = onnx.ModelProto()
    part.opset_import.extend(model.opset_import)
    part.ir_version = model.ir_version
    part.functions.extend(model.functions)
    part.graph.name = model.graph.name
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(i for i in model.graph.initializer if i.name in needed)
    part.graph.input.extend(i for i in model.graph.input if i.name in needed)
    part.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in sorted(begins)
    )
    return part, begins


def _channel_axis(node: "onnx.NodeProto") -> int:
    return 1 if node.op_type in CONVOLUTIONS else -1


def _bias_add(graph: Graph, node: "onnx.NodeProto") -> tuple["onnx.NodeProto", int] | None:
    """The Add of a constant vector that follows a MatMul, and which of its inputs is the vector."""
    readers = graph.readers(node.output[0])
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    for index, name in enumerate(readers[0].input):
        value = graph.array(name)
        if value is not None and value.ndim == 1:
            return readers[0], index
    return None


def _can_hold_bias(graph: Graph, node: "onnx.NodeProto") -> bool:
    if node.op_type == "MatMul":
        return _bias_add(graph, node) is not None
    if len(node.input) > 2 and node.input[2]:
        bias = graph.array(node.input[2])
        beta = next((a.f for a in node.attribute if a.name == "beta"), 1.0)
        return bias is not None and bias.ndim == 1 and beta == 1.0
    return True


def _shift(graph: Graph, name: str, delta: NDArray[np.float64]) -> bool:
    """Add to a layer's bias, in place.

    Returns:
        Whether the layer's own output shifts by it, and not that of an Add behind it.
    """
    node = next(n for n in graph.nodes if n.name == name)
    holder, index = node, 2
    if node.op_type == "MatMul":
        found = _bias_add(graph, node)
        if found is None:
            return False
        holder, index = found
    elif len(node.input) < 3:
        node.input.append("")
    held = holder.input[index]
    old: NDArray[Any] = np.zeros(delta.shape, np.float32)
    if held:
        old = graph.array(held) if graph.array(held) is not None else old  # type: ignore[assignment]
    fresh = not held or len(graph.readers(held)) > 1
    target = graph.unique(f"{name}.bias") if fresh else held
    holder.input[index] = graph.set_array(target, (old + delta).astype(np.float32))
    if fresh:
        graph.edit()
    return holder is node
