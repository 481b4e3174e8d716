"""Recovery without training: what is left of each layer is fitted to what the layer used to say.

A layer whose inputs lost channels answers differently, and hands the difference on. Its remaining
weights are solved for anew, by least squares on calibration data: W' = Y Xₖᵀ (Xₖ Xₖᵀ + λI)⁻¹ (the
structured form of Optimal Brain Surgeon), where Xₖ is what the layer reads in the *smaller*
network, its earlier layers fitted already, and Y is what it said in the original. The ridge pulls
towards the weights that were there, so that few samples change little.

Both networks run side by side, one operator at a time over all batches, so one pass is enough.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional

from edgekit.prune.atoms import Fixed
from edgekit.prune.coupling import Coupling, attribute, bind
from edgekit.prune.shrink import Keep

RIDGE = 1e-3
_NOTHING = 1e-12  # a layer that says what it did is left as it is
ROWS_PER_COLUMN = 8
_CHUNK_BYTES = 1 << 28


@dataclass(frozen=True)
class Fitted:
    """What fitting one layer achieved, on the calibration data.

    Attributes:
        weight: the weight's name.
        before: mean squared difference from the original's answer over its variance.
        after: the same, fitted.
    """

    weight: str
    before: float
    after: float


def compensate(
    original: GraphModule,
    coupling: Coupling,
    keep: Keep,
    batches: Sequence[Sequence[Tensor]],
    *,
    ridge: float = RIDGE,
    seed: int = 0,
    tell: Callable[[int], None] = lambda _: None,
) -> list[Fitted]:
    """Fit the weights of a shrunk network to the original's answers, in place.

    Args:
        original: the network before; same node names as the shrunk one.
        coupling: of the network; its module has been shrunk.
        keep: which indices stayed.
        batches: calibration inputs, each in the network's order.
        ridge: λ over the mean eigenvalue of Xₖ Xₖᵀ.
        seed: which positions of large feature maps are looked at.
        tell: called with the number of nodes done.

    Returns:
        the layers that were fitted, in order.
    """
    large = _Run(original, batches)
    small = _Run(coupling.module, batches)
    there = {node.name: node for node in original.graph.nodes}
    generator = torch.Generator().manual_seed(seed)
    fitted = []
    with torch.no_grad():
        for number, node in enumerate(coupling.module.graph.nodes):
            twin = there.get(node.name)
            if twin is not None:
                large.step(twin)
            layer = _layer(node, coupling, keep)
            if layer is not None and twin is not None:
                found = _fit(layer, small, large, twin, ridge, generator)
                fitted.extend([found] if found else [])
            small.step(node)
            tell(number + 1)
    return fitted


class _Run:
    """One network over all batches, operator by operator; values go after their last use."""

    def __init__(self, module: GraphModule, batches: Sequence[Sequence[Tensor]]) -> None:
        self.runs = [Interpreter(module) for _ in batches]
        for run, inputs in zip(self.runs, batches, strict=True):
            run.args_iter = iter(inputs)

    def step(self, node: Node) -> None:
        if node.op == "output":
            return
        for run in self.runs:
            run.env[node] = run.run_node(node)
            for last in run.user_to_last_uses.get(node, ()):
                run.env.pop(last, None)

    def values(self, node: Node) -> list[Tensor]:
        return [run.env[node] for run in self.runs]


@dataclass(frozen=True)
class _Layer:
    """A layer that can be fitted: y = W x + b over rows of x."""

    node: Node
    source: Node
    weight_name: str
    weight: nn.Parameter
    bias: nn.Parameter | None
    outputs: Tensor | None
    rows: Callable[[Tensor], Tensor]


def _layer(node: Node, coupling: Coupling, keep: Keep) -> _Layer | None:
    """What can be fitted: linear layers and plain convolutions with weights of their own."""
    schema = getattr(node.target, "_schema", None)
    kind = schema.name.partition("::")[2] if schema is not None else ""
    if kind not in ("linear", "conv1d", "conv2d"):
        return None
    given = bind(node)
    own = [_own_parameter(given[name], coupling) for name in ("weight", "bias")]
    weight, bias = own
    if weight is None or (given["bias"] is not None and bias is None):
        return None
    rows = _linear_rows if kind == "linear" else _windows(given)
    if rows is None:
        return None
    value = coupling.values[node]
    axis = -1 if kind == "linear" else 1
    dim = value[axis] if isinstance(value, tuple) else None
    removed = None if dim is None or isinstance(dim, Fixed) else keep.removed(dim)
    kept = None
    if removed is not None and dim is not None and not isinstance(dim, Fixed):
        kept = torch.from_numpy(keep.mask(dim).nonzero()[0])
    name = str(given["weight"].target)
    return _Layer(node, given["input"], name, weight, bias, kept, rows)


def _own_parameter(node: Any, coupling: Coupling) -> nn.Parameter | None:
    """A parameter that nothing else reads."""
    if not isinstance(node, Node) or node.op != "get_attr" or len(node.users) != 1:
        return None
    found = attribute(coupling.module, str(node.target))
    names = next((a for a in coupling.aliases.values() if str(node.target) in a), ())
    alone = sum(
        len(n.users)
        for n in coupling.module.graph.nodes
        if n.op == "get_attr" and str(n.target) in names
    )
    return found if isinstance(found, nn.Parameter) and alone == 1 else None


def _linear_rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _windows(given: dict[str, Any]) -> Callable[[Tensor], Tensor] | None:
    """Rows of a convolution: what each output position sees, (channel, kernel) in weight order."""
    if given["groups"] != 1:
        return None
    kernel = [int(s) for s in given["weight"].meta["val"].shape[2:]]
    stride, dilation = (_spread(given[n], len(kernel)) for n in ("stride", "dilation"))
    padding = given["padding"]
    if padding == "valid":
        before = after = [0] * len(kernel)
    elif padding == "same":
        whole = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        before, after = [w // 2 for w in whole], [w - w // 2 for w in whole]
    else:
        before = after = _spread(padding, len(kernel))

    def rows(x: Tensor) -> Tensor:
        pads = [p for b, a in zip(reversed(before), reversed(after), strict=True) for p in (b, a)]
        x = functional.pad(x, pads)
        k, s, d = kernel, stride, dilation
        if len(k) == 1:
            x, k, s, d = x.unsqueeze(2), [1, *k], [1, *s], [1, *d]
        columns = functional.unfold(x, tuple(k), dilation=tuple(d), stride=tuple(s))
        return columns.transpose(1, 2).reshape(-1, columns.shape[1])

    return rows


def _spread(value: Any, rank: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def _fit(
    layer: _Layer, small: _Run, large: _Run, twin: Node, ridge: float, generator: torch.Generator
) -> Fitted | None:
    """Solve for the weights that make the layer say what it did; None where it does already."""
    xs, ys = small.values(layer.source), large.values(twin)
    if layer.outputs is not None:
        axis = ys[0].dim() - 1 if layer.rows is _linear_rows else 1
        ys = [y.index_select(axis, layer.outputs) for y in ys]
    flat = layer.weight.detach().reshape(layer.weight.shape[0], -1)
    wanted = max(1, math.ceil(ROWS_PER_COLUMN * flat.shape[1] / len(xs)))
    parts = [_sample(layer, x, y, wanted, generator) for x, y in zip(xs, ys, strict=True)]
    x = torch.cat([p[0] for p in parts]).double()
    y = torch.cat([p[1] for p in parts]).double()
    weight = flat.double()
    rest = y - x @ weight.T
    shift = torch.zeros(y.shape[1], dtype=torch.float64)
    spread = (y - y.mean(0)).square().mean().clamp(min=1e-30)
    if layer.bias is not None:
        shift = layer.bias.detach().double()
        rest = rest - shift
    before = float(rest.square().mean() / spread)
    if before < _NOTHING:
        return None
    x_mean, rest_mean = x.mean(0), rest.mean(0)
    if layer.bias is None:
        x_mean, rest_mean = torch.zeros_like(x_mean), torch.zeros_like(rest_mean)
    centred = x - x_mean
    gram = centred.T @ centred
    gram.diagonal().add_(ridge * float(gram.diagonal().mean()) + 1e-12)
    step = torch.linalg.solve(gram, centred.T @ (rest - rest_mean))
    after = float((rest - rest_mean - centred @ step).square().mean() / spread)
    if not math.isfinite(after) or after > before:
        return Fitted(layer.weight_name, before, before)
    fresh = (weight + step.T).reshape(layer.weight.shape)
    layer.weight.copy_(fresh.to(layer.weight.dtype))
    if layer.bias is not None:
        layer.bias.copy_((shift + rest_mean - x_mean @ step).to(layer.bias.dtype))
    return Fitted(layer.weight_name, before, after)


def _sample(
    layer: _Layer, x: Tensor, y: Tensor, wanted: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows of a batch and the answers to them: `wanted` of them, or all."""
    columns = layer.weight[0].numel()
    linear = layer.rows is _linear_rows
    answers = _linear_rows(y) if linear else _linear_rows(y.flatten(2).transpose(1, 2))
    per_sample = max(1, len(answers) // len(x))
    step = max(1, _CHUNK_BYTES // (4 * columns * per_sample))
    share = wanted / max(1, len(answers))
    rows, picked = [], []
    for first in range(0, len(x), step):
        part = layer.rows(x[first : first + step])
        there = answers[first * per_sample : first * per_sample + len(part)]
        if share < 1:
            chosen = torch.randperm(len(part), generator=generator)[: math.ceil(share * len(part))]
            part, there = part[chosen], there[chosen]
        rows.append(part)
        picked.append(there)
    return torch.cat(rows), torch.cat(picked)
