"""What a network's tensors hold on calibration data, in float32 and rounded to half.

Rounding is emulated: a pair of casts stands behind every tensor that is half, and the arithmetic
between them is float32, as it is in the accumulators of GPUs. ONNX Runtime's CPU has few half
kernels and none for bfloat16, so the file itself would say less.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgekit.lower import check
from edgekit.quantize.half.config import Half
from edgekit.quantize.half.graph import HalfGraph

if TYPE_CHECKING:
    import onnx


@dataclass
class Range:
    """What was seen of one tensor.

    Attributes:
        max_abs: largest finite magnitude.
        size: elements, for one feed.
    """

    max_abs: float = 0.0
    size: int = 0


@dataclass
class Noise:
    """How one tensor differs from float32.

    Attributes:
        signal: sum of squares of the float32 values.
        error: sum of squares of the differences.
        max_abs: largest difference.
        overflowed: whether a finite value became infinite or NaN.
    """

    signal: float = 0.0
    error: float = 0.0
    max_abs: float = 0.0
    overflowed: bool = False

    @property
    def sqnr_db(self) -> float | None:
        """Signal to noise ratio in decibels; None where nothing differs or all is zero."""
        if self.overflowed:
            return -math.inf
        if self.error == 0 or self.signal == 0:
            return None
        return 10 * math.log10(self.signal / self.error)


@dataclass
class Seen:
    """Float32 and rounded values, tensor by tensor.

    Attributes:
        noise: by tensor.
    """

    noise: dict[str, Noise] = field(default_factory=dict)


def measure_ranges(graph: HalfGraph, feeds: Iterable[check.Arrays]) -> dict[str, Range]:
    """Run the float32 network and look at every float32 tensor.

    Args:
        graph: of the network.
        feeds: calibration samples.
    """
    names = _computed(graph)
    run = check.onnx_runner(_exposed(graph.model, names), optimize=False)
    found = {name: Range() for name in names}
    for feed in feeds:
        values = {**run(feed), **feed}
        for name in names:
            value = values[name]
            finite = np.abs(value[np.isfinite(value)])
            top = float(finite.max()) if finite.size else 0.0
            found[name].max_abs = max(found[name].max_abs, top)
            found[name].size = max(found[name].size, value.size)
    return found


def measure_noise(
    graph: HalfGraph, rounded: "onnx.ModelProto", feeds: Iterable[check.Arrays]
) -> Seen:
    """Run a network and its rounded twin side by side.

    Args:
        graph: of the float32 network.
        rounded: with the same tensor names, from `emulate`.
        feeds: calibration samples.
    """
    names = [n for n in _computed(graph) if n in graph.producer]
    exact = check.onnx_runner(_exposed(graph.model, names), optimize=False)
    other = check.onnx_runner(_exposed(rounded, names), optimize=False)
    seen = Seen({name: Noise() for name in names})
    for feed in feeds:
        right, got = exact(feed), other(feed)
        for name, noise in seen.noise.items():
            _add(noise, right[name], got[name])
    return seen


def _add(noise: Noise, right: "np.typing.NDArray[np.generic]", got: object) -> None:
    r = np.asarray(right, np.float64)
    x = np.asarray(got, np.float64)
    if r.shape != x.shape:  # its size depends on the values
        return
    counted = np.isfinite(r)
    if not np.isfinite(x[counted]).all():
        noise.overflowed = True
        return
    difference = r[counted] - x[counted]
    noise.signal += float(np.square(r[counted]).sum())
    noise.error += float(np.square(difference).sum())
    noise.max_abs = max(noise.max_abs, float(np.abs(difference).max(initial=0.0)))


def emulate(graph: HalfGraph, halves: set[int], names: set[str]) -> "onnx.ModelProto":
    """The float32 network with everything rounded that half nodes read and write.

    Args:
        graph: of the network.
        halves: places of the nodes that are half.
        names: initializers that half nodes read.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    model.graph.ClearField("value_info")
    del model.graph.node[:]
    rounds = _Rounder(graph.half)
    for place, original in enumerate(graph.nodes):
        node = onnx.NodeProto()
        node.CopyFrom(original)
        ports = graph.ports(original) if place in halves else None
        if ports is None:
            model.graph.node.append(node)
            continue
        before = [rounds.read(n) for i in ports.inputs if (n := node.input[i]) not in names]
        for i in ports.inputs:
            if node.input[i] not in names:
                node.input[i] = rounds.name(node.input[i])
        after = []
        for i in ports.outputs:
            exact = f"{node.output[i]}/edgekit.exact"
            after += rounds.pair(exact, node.output[i])
            node.output[i] = exact
        for nodes in (*before, [node], after):
            model.graph.node.extend(nodes)
    _round_constants(model, names, graph.half)
    return model


class _Rounder:
    """Makes pairs of casts, one pair for each tensor that is read."""

    def __init__(self, half: Half) -> None:
        self._half, self._made = half, set[str]()

    def name(self, tensor: str) -> str:
        return f"{tensor}/edgekit.rounded"

    def read(self, tensor: str) -> "list[onnx.NodeProto]":
        if tensor in self._made:
            return []
        self._made.add(tensor)
        return self.pair(tensor, self.name(tensor))

    def pair(self, source: str, result: str) -> "list[onnx.NodeProto]":
        import onnx

        kind = onnx.TensorProto.DataType.Value(self._half.upper())
        middle = f"{result}/edgekit.half"
        return [
            onnx.helper.make_node("Cast", [source], [middle], to=kind),
            onnx.helper.make_node("Cast", [middle], [result], to=onnx.TensorProto.FLOAT),
        ]


def _round_constants(model: "onnx.ModelProto", names: set[str], half: Half) -> None:
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if tensor.name in names:
            value = to_half(numpy_helper.to_array(tensor), half).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def to_half(value: "np.typing.NDArray[np.generic]", half: Half) -> "np.typing.NDArray[np.generic]":
    """Round to the nearest half; what is too large becomes infinite."""
    import ml_dtypes

    with np.errstate(over="ignore"):
        return value.astype(np.float16 if half == "float16" else ml_dtypes.bfloat16)


def _computed(graph: HalfGraph) -> list[str]:
    """Float32 tensors of the top-level graph that are computed or fed."""
    fed = [i.name for i in graph.model.graph.input if i.name not in graph.constants]
    return [n for n in (*fed, *graph.producer) if n in graph.floats]


def _exposed(model: "onnx.ModelProto", names: Iterable[str]) -> bytes:
    """The model with these tensors as outputs too, serialized."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {o.name for o in copy.graph.output} | {i.name for i in copy.graph.input}
    for name in names:
        if name not in have:
            copy.graph.output.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )
    return bytes(copy.SerializeToString())
