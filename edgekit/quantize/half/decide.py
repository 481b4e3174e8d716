"""Which nodes compute in half precision, and why the others do not.

A node stays float32 where it sums what half cannot hold (normalisation, softmax), where ONNX gives
it no half form, where a tensor of it overflows or vanishes on calibration data, beside Q/DQ, and
where casting it would cost more than it saves.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING

import numpy as np

from edgekit.lower.limits import PRODUCTS
from edgekit.lower.names import layer_of
from edgekit.quantize.half.config import Half, HalfConfig
from edgekit.quantize.half.graph import HalfGraph
from edgekit.quantize.half.ranges import Range, to_half

if TYPE_CHECKING:
    import onnx

_SQUARES = "it sums squares, which overflow long before its result does"
_EXPONENTIALS = "it sums exponentials"
_POSITIONS = "positions need more digits than half has"
_SCALES = "scales of quantized tensors stay float32"
SENSITIVE: dict[str, str] = {
    "LayerNormalization": _SQUARES,
    "GroupNormalization": _SQUARES,
    "InstanceNormalization": _SQUARES,
    "RMSNormalization": _SQUARES,
    "MeanVarianceNormalization": _SQUARES,
    "LpNormalization": _SQUARES,
    "ReduceL2": _SQUARES,
    "ReduceSumSquare": _SQUARES,
    "Softmax": _EXPONENTIALS,
    "LogSoftmax": _EXPONENTIALS,
    "ReduceLogSumExp": _EXPONENTIALS,
    "GridSample": _POSITIONS,
    "RoiAlign": _POSITIONS,
    "NonMaxSuppression": _POSITIONS,
    "Range": _POSITIONS,
    "CumSum": "its sum grows along the axis",
    "QuantizeLinear": _SCALES,
    "DequantizeLinear": _SCALES,
    "If": "tensors that sub-graphs read stay float32",
    "Loop": "tensors that sub-graphs read stay float32",
    "Scan": "tensors that sub-graphs read stay float32",
}
HEAVY = PRODUCTS | {"Conv", "ConvTranspose", "Attention"}
SUMMING = frozenset({"ReduceSum", "ReduceMean", "ReduceL1", "GlobalAveragePool", "AveragePool"})
_BOUNDS_OF_CLIP = (1, 2)
_LARGE = 1 << 18  # elements: half of them saves half a megabyte


@dataclass(frozen=True)
class Kept:
    """A node that stays float32.

    Attributes:
        node: its name.
        operator: its ONNX operator.
        layer: the user's module, where the name says it.
        reason: `sensitive`, `overflow`, `underflow`, `constant`, `operator`, `quantized`,
            `precision`, `asked` or `casts`.
        detail: in words.
    """

    node: str
    operator: str
    layer: str
    reason: str
    detail: str


def first_choice(
    graph: HalfGraph, ranges: Mapping[str, Range], config: HalfConfig
) -> dict[int, Kept]:
    """The nodes that stay float32, by place, before anything was rounded.

    Args:
        graph: of the network.
        ranges: of its tensors on calibration data.
        config: what the user chose.
    """
    found: dict[int, Kept] = {}
    chains = dict(_chains(graph))
    for place, node in enumerate(graph.nodes):
        if not any(n in graph.floats for n in (*node.input, *node.output)):
            continue
        why = _why(graph, node, ranges, config) or chains.get(place)
        if why is not None:
            found[place] = kept(node, *why)
    return found


def kept(node: "onnx.NodeProto", reason: str, detail: str) -> Kept:
    """Describe a node that stays float32."""
    return Kept(node.name, node.op_type, layer_of(node), reason, detail)


def halves(graph: HalfGraph, kept_: Mapping[int, Kept]) -> set[int]:
    """Places of the nodes that become half."""
    return {
        place
        for place, node in enumerate(graph.nodes)
        if place not in kept_ and graph.ports(node) is not None
    }


def keep_islands(graph: HalfGraph, kept_: dict[int, Kept]) -> None:
    """Keep float32, in place, groups of half nodes that no heavy operator belongs to.

    Between float32 neighbours (a softmax, Q/DQ) such a group computes little, and each of its
    borders costs a cast; behind a quantized convolution it would break the fusion as well. A group
    that reads a large constant (a table of embeddings) is worth its casts.
    """
    left = halves(graph, kept_)
    nodes = graph.nodes
    while left:
        group, ahead = set[int](), [min(left)]
        while ahead:
            place = ahead.pop()
            if place in group or place not in left:
                continue
            group.add(place)
            node = nodes[place]
            for name in (*node.input, *node.output):
                if name in graph.floats and name not in graph.constants:
                    ahead += [p for p in (graph.producer.get(name),) if p is not None]
                    ahead += graph.readers.get(name, [])
        left -= group
        if not any(nodes[p].op_type in HEAVY for p in group) and _constants(graph, group) < _LARGE:
            for place in group:
                detail = "it has only light neighbours in half: casts would cost more than it saves"
                kept_[place] = kept(nodes[place], "casts", detail)


def _constants(graph: HalfGraph, group: set[int]) -> int:
    """Elements of the constants that a group reads, each once."""
    names = {n for place in group for n in graph.nodes[place].input if n in graph.constants}
    return sum(int(np.prod(graph.constants[n].dims, dtype=np.int64)) for n in names)


def _why(
    graph: HalfGraph,
    node: "onnx.NodeProto",
    ranges: Mapping[str, Range],
    config: HalfConfig,
) -> tuple[str, str] | None:
    layer, headroom = layer_of(node), config.headroom
    if (pattern := next((p for p in config.exclude if _matches(p, node, layer)), None)) is not None:
        return "asked", f"exclude: {pattern}"
    if node.op_type in SENSITIVE:
        return "sensitive", SENSITIVE[node.op_type]
    ports = graph.ports(node)
    if ports is None:
        return "operator", f"ONNX gives {node.op_type} no {graph.half} form here"
    made = (graph.producer.get(n) for n in node.input if n)
    if any(p is not None and graph.nodes[p].op_type == "DequantizeLinear" for p in made):
        return "quantized", "a cast between it and its DequantizeLinear would break their fusion"
    if (bad := _bad_constant(graph, node, ports.inputs)) is not None:
        return bad
    names = [node.input[i] for i in ports.inputs] + [node.output[i] for i in ports.outputs]
    digits_count = config.float32_products or node.op_type not in PRODUCTS
    for name in names:
        if name in ranges and (bad := _out_of_range(name, ranges[name], graph.half, headroom)):
            if bad[0] == "underflow" and not digits_count:
                continue  # the noise of the outputs says whether the digits are missed
            return bad
    return _overflowing_sum(node, ranges, graph.half, headroom)


def _matches(pattern: str, node: "onnx.NodeProto", layer: str) -> bool:
    return any(n and fnmatch(n, pattern) for n in (node.name, layer, node.op_type))


def limits(half: Half) -> tuple[float, float]:
    """The largest finite half and the smallest with all its digits."""
    import ml_dtypes

    info = ml_dtypes.finfo(  # type: ignore[no-untyped-call]
        np.float16 if half == "float16" else ml_dtypes.bfloat16
    )
    return float(info.max), float(info.smallest_normal)


def _out_of_range(name: str, seen: Range, half: Half, headroom: float) -> tuple[str, str] | None:
    largest, smallest = limits(half)
    if seen.max_abs * headroom > largest:
        return (
            "overflow",
            f"{name!r} reaches {seen.max_abs:.3g} on calibration data; {half} holds {largest:.5g}"
            f" (with a headroom of {headroom:g})",
        )
    if 0 < seen.max_abs < smallest:
        return (
            "underflow",
            f"{name!r} is at most {seen.max_abs:.3g}; {half} loses digits under {smallest:.3g}",
        )
    return None


def _overflowing_sum(
    node: "onnx.NodeProto", ranges: Mapping[str, Range], half: Half, headroom: float
) -> tuple[str, str] | None:
    if node.op_type not in SUMMING or node.input[0] not in ranges or node.output[0] not in ranges:
        return None
    seen, result = ranges[node.input[0]], ranges[node.output[0]]
    terms = _window(node) or seen.size / max(1, result.size)
    if seen.max_abs * terms * headroom <= limits(half)[0]:
        return None
    return (
        "overflow",
        f"{terms:.0f} terms of up to {seen.max_abs:.3g} are summed, before they are divided",
    )


def _window(node: "onnx.NodeProto") -> int:
    sizes = next((list(a.ints) for a in node.attribute if a.name == "kernel_shape"), [])
    return int(np.prod(sizes)) if sizes else 0


def _bad_constant(
    graph: HalfGraph, node: "onnx.NodeProto", inputs: Sequence[int]
) -> tuple[str, str] | None:
    for place in inputs:
        value = graph.value(node.input[place])
        if value is None or (node.op_type == "Clip" and place in _BOUNDS_OF_CLIP):
            continue  # a bound of Clip that becomes infinite bounds nothing, as it did before
        rounded = to_half(value, graph.half)
        if not np.isfinite(rounded[np.isfinite(value)]).all():
            top = float(np.abs(value[np.isfinite(value)]).max())
            return "constant", f"{node.input[place]!r} holds {top:.3g}, beyond {graph.half}"
        if value.any() and not rounded.any():
            top = float(np.abs(value).max())
            return "constant", f"{node.input[place]!r} is {top:.3g}, which {graph.half} takes for 0"
    return None


def _chains(graph: HalfGraph) -> Iterator[tuple[int, tuple[str, str]]]:
    """Normalisation and softmax that older exporters take apart into single operators.

    Sqrt(ReduceMean(x²) + eps) and Exp(x) / ReduceSum(Exp(x)): all of them stay float32.
    """
    nodes = graph.nodes
    for place, node in enumerate(nodes):
        if node.op_type == "Sqrt":
            chain = _behind(graph, place, ("Add", "ReduceMean", ("Pow", "Mul")))
            for each in chain:
                yield each, ("sensitive", f"part of a normalisation: {_SQUARES}")
            if chain:
                for reader in graph.readers.get(node.output[0], []):
                    yield reader, ("sensitive", "part of a normalisation: it divides by the root")
        if node.op_type == "Div":
            chain = _behind(graph, place, ("ReduceSum", ("Exp",)), at=1)
            for each in chain:
                yield each, ("sensitive", f"part of a softmax: {_EXPONENTIALS}")


def _behind(
    graph: HalfGraph, place: int, steps: Sequence[str | tuple[str, ...]], at: int | None = None
) -> list[int]:
    """Walk from a node to what makes its inputs, along these operators; empty where they differ."""
    found = [place]
    for step in steps:
        wanted = (step,) if isinstance(step, str) else step
        inputs = graph.nodes[found[-1]].input
        names = [inputs[at]] if at is not None and len(found) == 1 else list(inputs)
        made = [graph.producer[n] for n in names if n in graph.producer]
        ahead = next((p for p in made if graph.nodes[p].op_type in wanted), None)
        if ahead is None:
            return []
        found.append(ahead)
    return found
