"""Cross-layer equalization: channels scaled between two layers until their weights' ranges agree.

r1_i = max|W1[i, :]|, r2_i = max|W2[:, i]|, s_i = √(r1_i·r2_i)/r2_i; then W1[i] /= s_i, b1_i /= s_i
and W2[:, i] *= s_i (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", 2019, section 4.1). A positive factor passes through a ReLU, so the network computes
what it did. A channel that one of the two does not use stays. A depthwise layer is both second of
one pair and first of the next; pairs are repeated until the factors are 1, which is where the
paper's rule for triples ends too.

ReLU6 stops a factor: it is replaced by ReLU first, where the network's outputs hardly change by it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.lower import check
from edgekit.quantize.calibration import signal_to_noise_db
from edgekit.quantize.graph import Graph, attribute, output_axis

if TYPE_CHECKING:
    import onnx

_ROUNDS = 20
_CLOSE = 1e-3
_ALIKE_DB = 40.0  # outputs without ReLU6 against those with it
_LARGEST = 1e4  # a factor beyond this loses float32's digits

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """Two layers whose shared channels can be scaled.

    Attributes:
        first: name of the layer that makes the channels.
        second: name of the layer that reads them.
    """

    first: str
    second: str


def equalize(
    model: "onnx.ModelProto", feeds: Iterable[check.Arrays] = ()
) -> tuple["onnx.ModelProto", dict[str, int]]:
    """Scale channels between layers.

    Args:
        model: float32; not changed.
        feeds: samples on which a network without its ReLU6 is compared with the one that has them.

    Returns:
        The scaled copy, and what was done in how many places.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    done = {"ReLU6 replaced": _replace_relu6(made, feeds)}
    graph = Graph(made)
    found = pairs(graph)
    for _ in range(_ROUNDS):
        if all([_scale(graph, pair) < _CLOSE for pair in found]):  # noqa: C419 - each is scaled
            break
    done["layer pairs equalized"] = len(found)
    return made, {what: count for what, count in done.items() if count}


def pairs(graph: Graph) -> list[Pair]:
    """Pairs of layers with nothing but a ReLU between, whose weights nobody else reads."""
    found = []
    for node in graph.nodes:
        if _outputs_axis(graph, node) is None:
            continue
        after = _only_reader(graph, node.output[0])
        if after is not None and after.op_type == "Relu":
            after = _only_reader(graph, after.output[0])
        if after is None or _inputs_axis(graph, after) is None:
            continue
        if after.input[0] not in {node.output[0], *_relu_outputs(graph, node)}:
            continue  # it is read as a weight
        first, second = _ranges(graph, node, after)
        if first.shape == second.shape:
            found.append(Pair(node.name, after.name))
    return found


def _relu_outputs(graph: Graph, node: "onnx.NodeProto") -> list[str]:
    return [r.output[0] for r in graph.readers(node.output[0]) if r.op_type == "Relu"]


def _only_reader(graph: Graph, name: str) -> "onnx.NodeProto | None":
    readers = graph.readers(name)
    return readers[0] if len(readers) == 1 and not graph.is_output(name) else None


def _own_weight(graph: Graph, node: "onnx.NodeProto") -> Floats | None:
    if node.op_type not in {"Conv", "Gemm"} or len(node.input) < 2:
        return None
    if node.op_type == "Gemm" and not _plain(node):
        return None
    weight = graph.array(node.input[1])
    if weight is None or weight.dtype != np.float32 or len(graph.readers(node.input[1])) != 1:
        return None
    if len(node.input) > 2 and node.input[2]:
        bias = graph.array(node.input[2])
        if bias is None or bias.ndim != 1 or len(graph.readers(node.input[2])) != 1:
            return None
    return weight


def _plain(gemm: "onnx.NodeProto") -> bool:
    held = {a.name: a for a in gemm.attribute}
    alike = all(held[n].f == 1.0 for n in ("alpha", "beta") if n in held)
    return alike and not ("transA" in held and held["transA"].i)


def _outputs_axis(graph: Graph, node: "onnx.NodeProto") -> int | None:
    """The axis of the weight that makes the layer's channels; None: it cannot be scaled."""
    if _own_weight(graph, node) is None:
        return None
    return output_axis(node, 2)


def _inputs_axis(graph: Graph, node: "onnx.NodeProto") -> int | None:
    """The axis of the weight that reads the layer's channels; a depthwise kernel has it at 0."""
    weight = _own_weight(graph, node)
    if weight is None:
        return None
    if node.op_type == "Gemm":
        return 1 if attribute(node, "transB", 0) else 0
    groups = attribute(node, "group", 1)
    if groups == 1:
        return 1
    return 0 if groups == weight.shape[0] and weight.shape[1] == 1 else None


def _top(weight: Floats, axis: int) -> Floats:
    others = tuple(i for i in range(weight.ndim) if i != axis)
    top: Floats = np.abs(weight).max(axis=others)
    return top


def _ranges(
    graph: Graph, first: "onnx.NodeProto", second: "onnx.NodeProto"
) -> tuple[Floats, Floats]:
    found = []
    for node, axis in ((first, _outputs_axis(graph, first)), (second, _inputs_axis(graph, second))):
        weight = graph.array(node.input[1])
        found.append(np.zeros(0, np.float32) if weight is None else _top(weight, axis or 0))
    return found[0], found[1]


def _scale(graph: Graph, pair: Pair) -> float:
    """Scale one pair; how far the largest factor was from 1."""
    nodes = {n.name: n for n in graph.nodes}
    first, second = nodes[pair.first], nodes[pair.second]
    r1, r2 = _ranges(graph, first, second)
    used = (r1 > 0) & (r2 > 0)
    factors = np.ones_like(r1)
    factors[used] = np.sqrt(r1[used] / r2[used])
    factors = np.clip(factors, 1 / _LARGEST, _LARGEST)
    _multiply(graph, first.input[1], 1 / factors, _outputs_axis(graph, first) or 0)
    if len(first.input) > 2 and first.input[2]:
        _multiply(graph, first.input[2], 1 / factors, 0)
    _multiply(graph, second.input[1], factors, _inputs_axis(graph, second) or 0)
    return float(np.abs(np.log(factors)).max(initial=0.0))


def _multiply(graph: Graph, name: str, factors: NDArray[Any], axis: int) -> None:
    value = graph.array(name)
    if value is None:
        return
    shape = [1] * value.ndim
    shape[axis] = -1
    graph.set_array(name, (value * factors.reshape(shape)).astype(np.float32))


def _replace_relu6(model: "onnx.ModelProto", feeds: Iterable[check.Arrays]) -> int:
    """Make ReLUs of Clips from 0 upwards, all or none; in how many places."""
    import onnx

    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    graph = Graph(trial)
    found = [n for n in graph.nodes if n.op_type == "Clip" and _from_zero(graph, n)]
    if not found:
        return 0
    for node in found:
        node.op_type = "Relu"
        del node.input[1:]
    graph.edit()
    before, after = (check.onnx_runner(m.SerializeToString()) for m in (model, trial))
    noise = signal_to_noise_db(before, after, feeds)
    if not noise or min(noise.values()) < _ALIKE_DB:
        return 0
    model.CopyFrom(trial)
    return len(found)


def _from_zero(graph: Graph, clip: "onnx.NodeProto") -> bool:
    if len(clip.input) < 2:
        return False
    low = graph.array(clip.input[1])
    return low is not None and low.size == 1 and float(low.reshape(())) == 0.0
