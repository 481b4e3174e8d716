"""AdaRound: each weight is rounded up or down by what its layer gives out, not by what is nearer.

W_q = s·clip(⌊W/s⌋ + h(V)), h(V) = clip(1.2·σ(V) - 0.1, 0, 1); V is trained on the layer's inputs in
the quantized network and its outputs in the float one, with the loss
‖y - ŷ‖² + λ·Σ(1 - |2h - 1|^β), λ = 0.01, β from 20 to 2 after a fifth of the steps (Nagel et al.,
"Up or Down? Adaptive Rounding for Post-Training Quantization", 2020). What comes out worse than
rounding to nearest, on the same samples, is thrown away.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.lower import check
from edgekit.quantize.bias import watch
from edgekit.quantize.graph import Graph
from edgekit.quantize.placement import layers

if TYPE_CHECKING:
    import onnx
    import torch

    Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

STEPS = 400
_RATE = 0.02
_LAMBDA = 0.01
_WARM_UP = 0.2
_BATCH = 16
_STEP_BYTES = 4 << 20  # of inputs and outputs at one step, beyond one feed: pixels are samples too
_MOST_BYTES = 128 << 20  # of one layer's inputs and outputs that are held at once


@dataclass(frozen=True)
class Rounding:
    """How a layer's weight is stored.

    Attributes:
        scale: shape that broadcasts against the weight, float32.
        low: lowest integer allowed.
        high: highest integer allowed.
    """

    scale: NDArray[np.float32]
    low: int
    high: int

    def nearest(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """The integers that are nearest."""
        found: NDArray[np.float32] = np.clip(np.rint(weight / self.scale), self.low, self.high)
        return found


def adaround(
    reference: "onnx.ModelProto",
    model: "onnx.ModelProto",
    feeds: Iterable[check.Arrays],
    *,
    only: Collection[str] | None = None,
    seed: int = 0,
    steps: int = STEPS,
    advance: Callable[[float], None] = lambda _: None,
) -> int:
    """Round the weights of a quantized model anew, layer by layer, in place.

    Args:
        reference: the float model that it was made from; the same tensor names.
        model: with weights behind DequantizeLinear.
        feeds: calibration samples; iterated twice for each layer.
        only: names of the layers to round; None: all of them.
        seed: of the order of samples.
        steps: of the optimization of each layer.
        advance: is told the share of the work done, after each layer.

    Returns:
        How many layers are rounded otherwise than to nearest.
    """
    graph, source = Graph(model), Graph(reference)
    known = {o for n in source.nodes for o in n.output}
    todo = [
        n.name for n in layers(graph) if n.output[0] in known and (only is None or n.name in only)
    ]
    count = 0
    for name in todo:
        node = next(n for n in graph.nodes if n.name == name)
        count += _round_layer(graph, source, node, feeds, seed, steps)
        advance(1 / len(todo))
    return count


def _round_layer(
    graph: Graph,
    source: Graph,
    node: "onnx.NodeProto",
    feeds: Iterable[check.Arrays],
    seed: int,
    steps: int,
) -> bool:
    dequantize = graph.producer(node.input[1])
    original = next((n for n in source.nodes if n.output[0] == node.output[0]), None)
    forward = None if original is None else _forward(graph, node)
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or original is None:
        return False
    weight, held = source.array(original.input[1]), graph.array(dequantize.input[0])
    alone = len(graph.readers(dequantize.input[0])) == len(graph.readers(node.input[1])) == 1
    if forward is None or weight is None or held is None or not alone:
        return False
    if weight.shape != held.shape or held.dtype != np.int8:
        return False
    rounding = _rounding(graph, dequantize, held)
    if rounding is None:
        return False
    x = _collect(graph.model, node.input[0], feeds)
    y = _collect(source.model, node.output[0], feeds, len(x))
    made = choose(weight, rounding, x, y, forward, seed=seed, steps=steps)
    if np.array_equal(made, rounding.nearest(weight)):
        return False
    graph.set_array(dequantize.input[0], made.astype(np.int8))
    return True


def _rounding(graph: Graph, dequantize: "onnx.NodeProto", held: NDArray[Any]) -> Rounding | None:
    scale = graph.array(dequantize.input[1])
    zero = graph.array(dequantize.input[2]) if len(dequantize.input) > 2 else None
    if scale is None or (zero is not None and np.any(zero)):
        return None
    axis = next((a.i for a in dequantize.attribute if a.name == "axis"), 1)
    shape = [1] * held.ndim
    if scale.size > 1:
        shape[axis] = -1
    seven = int(np.abs(held.astype(np.int32)).max()) <= 64
    low, high = (-64, 64) if seven else (-127, 127)
    return Rounding(scale.reshape(shape).astype(np.float32), low, high)


def _collect(
    model: "onnx.ModelProto", tensor: str, feeds: Iterable[check.Arrays], most: int | None = None
) -> list[NDArray[np.float32]]:
    """One tensor's values, a list of feeds, as many as fit."""
    inputs = {i.name for i in model.graph.input}
    run = None if tensor in inputs else check.onnx_runner(watch(model, (tensor,)), optimize=False)
    found: list[NDArray[np.float32]] = []
    held = 0
    for feed in feeds:
        value = feed[tensor] if run is None else run(feed)[tensor]
        held += value.nbytes
        if len(found) == most or (most is None and found and held > _MOST_BYTES):
            break
        found.append(value)
    return found


def _forward(graph: Graph, node: "onnx.NodeProto") -> "Forward | None":
    """The layer as a function of its input and weight; None: not one that is rounded here."""
    import torch
    from torch.nn import functional

    held = {a.name: a for a in node.attribute}
    bias = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if len(node.input) > 2 and node.input[2] and bias is None:
        return None
    shift = None if bias is None else torch.from_numpy(bias.copy())
    if node.op_type == "MatMul":
        return torch.matmul
    if node.op_type == "Gemm":
        if any(held[n].f != 1.0 for n in ("alpha", "beta") if n in held) or "transA" in held:
            return None
        turned = "transB" in held and bool(held["transB"].i)

        def gemm(x: "torch.Tensor", w: "torch.Tensor") -> "torch.Tensor":
            return functional.linear(x, w if turned else w.T, shift)

        return gemm
    padding = "auto_pad" in held and held["auto_pad"].s not in (b"", b"NOTSET")
    if node.op_type != "Conv" or padding:
        return None
    return _convolution(graph, node, shift)


def _convolution(
    graph: Graph, node: "onnx.NodeProto", shift: "torch.Tensor | None"
) -> "Forward | None":
    from torch.nn import functional

    held: dict[str, Any] = {a.name: list(a.ints) or a.i for a in node.attribute}
    weight = graph.weight(node)
    value = None if weight is None else graph.array(weight[0])
    kernels: dict[int, Any] = {3: functional.conv1d, 4: functional.conv2d}
    if value is None or value.ndim not in kernels:
        return None
    rank = value.ndim - 2
    pads: list[int] = held.get("pads", [0] * 2 * rank)
    around = [p for i in reversed(range(rank)) for p in (pads[i], pads[i + rank])]

    def convolve(x: "torch.Tensor", w: "torch.Tensor") -> "torch.Tensor":
        found: torch.Tensor = kernels[w.ndim](
            functional.pad(x, around),
            w,
            shift,
            stride=tuple(held.get("strides", [1] * rank)),
            dilation=tuple(held.get("dilations", [1] * rank)),
            groups=int(held.get("group", 1)),
        )
        return found

    return convolve


def choose(
    weight: NDArray[np.float32],
    rounding: Rounding,
    inputs: list[NDArray[np.float32]],
    outputs: list[NDArray[np.float32]],
    forward: "Forward",
    *,
    seed: int = 0,
    steps: int = STEPS,
) -> NDArray[np.float32]:
    """Choose a weight's integers by the layer's outputs.

    Args:
        weight: of a layer, float32.
        rounding: how it is stored.
        inputs: of the layer in the quantized network, a list of feeds.
        outputs: of the layer in the float network, the same feeds.
        forward: the layer: (input, weight) to output.
        seed: of the order of feeds.
        steps: of Adam.

    Returns:
        Integers as float32, shaped as the weight, with no larger squared error on these feeds than
        rounding to nearest has.
    """
    import torch

    scale = torch.from_numpy(np.broadcast_to(rounding.scale, weight.shape).copy())
    x = [torch.from_numpy(v) for v in _batches(inputs, outputs)]
    y = [torch.from_numpy(v) for v in _batches(outputs, inputs)]
    ratio = torch.from_numpy(weight.copy()) / scale
    floor = torch.floor(ratio)
    start = ((ratio - floor + 0.1) / 1.2).clamp(1e-4, 1 - 1e-4)
    v = torch.log(start / (1 - start)).requires_grad_()
    nearest = torch.from_numpy(rounding.nearest(weight))
    # In units of what nearest rounding does, so that λ means the same for every layer.
    unit = max(float(torch.square(forward(x[0], scale * nearest) - y[0]).mean()), 1e-30)
    optimizer = torch.optim.Adam([v], lr=_RATE)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        h = torch.clamp(1.2 * torch.sigmoid(v) - 0.1, 0, 1)
        w = scale * torch.clamp(floor + h, rounding.low, rounding.high)
        place = int(rng.integers(len(x)))
        error = torch.square(forward(x[place], w) - y[place]).mean()
        done = step / steps
        loss = error / unit
        if done >= _WARM_UP:
            beta = 20 - 18 * (done - _WARM_UP) / (1 - _WARM_UP)
            loss = loss + _LAMBDA * (1 - (2 * h - 1).abs() ** beta).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    h = torch.clamp(1.2 * torch.sigmoid(v.detach()) - 0.1, 0, 1)
    made = torch.clamp(floor + (h >= 0.5), rounding.low, rounding.high)
    with torch.no_grad():
        errors = [
            sum(
                float(torch.square(forward(a, scale * q) - b).sum())
                for a, b in zip(x, y, strict=True)
            )
            for q in (made, nearest)
        ]
    best = made if errors[0] < errors[1] else nearest
    return np.asarray(best.numpy(), np.float32)


def _batches(
    values: list[NDArray[np.float32]], others: list[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Feeds joined along the first axis, up to `_BATCH`, where both sides' shapes allow it."""
    alike = {v.shape for v in values}, {v.shape for v in others}
    together = all(len(shapes) == 1 and next(iter(shapes)) for shapes in alike)
    rows = {next(iter(s))[0] for s in alike} if together else set()
    if len(rows) != 1:
        return [np.array(v) for v in values]
    each = values[0].nbytes + others[0].nbytes
    size = max(1, min(_BATCH, _STEP_BYTES // max(each, 1)))
    return [np.concatenate(values[i : i + size]) for i in range(0, len(values), size)]
