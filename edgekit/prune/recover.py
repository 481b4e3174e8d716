"""Recovery without training: what is left of each layer is fitted to what the layer used to say.

A layer whose inputs lost channels answers differently, and hands the difference on. Its remaining
weights are solved for anew, by least squares on calibration data: W' = Y Xₖᵀ (Xₖ Xₖᵀ + λI)⁻¹ (the
structured form of Optimal Brain Surgeon), where Xₖ is what the layer reads in the *smaller*
network, its earlier layers fitted already, and Y is what it said in the original. The ridge pulls
towards the weights that were there, so that few samples change little. Where the layer's answer is
added to another that is off already, Y makes up for that too (`edgekit.prune.targets`).

Both networks run side by side, one operator at a time over all batches, so one pass is enough.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from edgekit.prune.coupling import Coupling
from edgekit.prune.fittable import Layer, choose, find_layer
from edgekit.prune.shrink import Keep
from edgekit.prune.targets import corrected

RIDGE = 1e-3
_NOTHING = 1e-12  # a layer that says what it did is left as it is
ROWS_PER_COLUMN, FEWEST_ROWS = 8, 4096


@dataclass(frozen=True)
class Fitted:
    """What fitting one layer achieved, on the calibration data.

    Attributes:
        weight: the weight's name.
        before: mean squared difference from the wanted answer over its variance.
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
    large = Run(original, batches)
    small = Run(coupling.module, batches)
    there = {node.name: node for node in original.graph.nodes}
    generator = torch.Generator().manual_seed(seed)
    fitted = []
    with torch.no_grad():
        for number, node in enumerate(coupling.module.graph.nodes):
            twin = there.get(node.name)
            if twin is not None:
                large.step(twin)
            layer = find_layer(node, coupling, keep)
            if layer is not None and twin is not None:
                xs, ys = small.values(layer.source), large.values(twin)
                if layer.outputs is not None:
                    ys = [y.index_select(layer.axis(y), layer.outputs) for y in ys]
                ys = corrected(layer, ys, coupling, keep, small, large, there)
                found = _fit(layer, xs, ys, ridge, generator)
                fitted.extend([found] if found else [])
            small.step(node)
            tell(number + 1)
    return fitted


class Run:
    """One network over all batches, operator by operator; values go after their last use."""

    def __init__(self, module: GraphModule, batches: Sequence[Sequence[Tensor]]) -> None:
        self.runs = [Interpreter(module) for _ in batches]
        for run, inputs in zip(self.runs, batches, strict=True):
            run.args_iter = iter(inputs)

    def step(self, node: Node) -> None:
        """Run one operator on every batch."""
        if node.op == "output":
            return
        for run in self.runs:
            run.env[node] = run.run_node(node)
            for last in run.user_to_last_uses.get(node, ()):
                run.env.pop(last, None)

    def has(self, node: Node) -> bool:
        """Whether a value is there: made, and still to be read."""
        return all(node in run.env for run in self.runs)

    def values(self, node: Node) -> list[Tensor]:
        """A node's value for each batch."""
        return [run.env[node] for run in self.runs]


def _fit(
    layer: Layer, xs: list[Tensor], ys: list[Tensor], ridge: float, generator: torch.Generator
) -> Fitted | None:
    """Solve for the weights that make the layer say `ys`; None where it does already.

    Shapes: x (groups, rows, columns), y (groups, rows, outputs), weight (groups, outputs, columns).
    """
    wanted = math.ceil(max(ROWS_PER_COLUMN * layer.columns, FEWEST_ROWS) / len(xs))
    chosen = [choose(y.numel() // y.shape[layer.axis(y)], wanted, generator) for y in ys]
    x = torch.cat([layer.rows(x, c) for x, c in zip(xs, chosen, strict=True)])
    y = torch.cat([layer.answers(y, c) for y, c in zip(ys, chosen, strict=True)])
    x, y = _by_group(x, layer.groups), _by_group(y, layer.groups)
    weight = layer.weight.detach().double().reshape(layer.groups, -1, layer.columns)
    rest = y - x @ weight.mT
    if layer.bias is not None:
        rest = rest - layer.bias.detach().double().view(layer.groups, 1, -1)
    spread = (y - y.mean(1, keepdim=True)).square().mean().clamp(min=1e-30)
    before = float(rest.square().mean() / spread)
    if before < _NOTHING:
        return None
    x_mean, rest_mean = x.mean(1, keepdim=True), rest.mean(1, keepdim=True)
    if not layer.shifts:
        x_mean, rest_mean = torch.zeros_like(x_mean), torch.zeros_like(rest_mean)
    centred = x - x_mean
    gram = centred.mT @ centred
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal.add_(ridge * diagonal.mean(1, keepdim=True) + 1e-12)
    step = torch.linalg.solve(gram, centred.mT @ (rest - rest_mean))
    after = float((rest - rest_mean - centred @ step).square().mean() / spread)
    if not math.isfinite(after) or after > before:
        return Fitted(layer.weight_name, before, before)
    layer.change(step.mT, (rest_mean - x_mean @ step).reshape(-1))
    return Fitted(layer.weight_name, before, after)


def _by_group(rows: Tensor, groups: int) -> Tensor:
    """Rows with all groups' columns side by side, to (groups, rows, columns), float64."""
    return rows.double().reshape(len(rows), groups, -1).transpose(0, 1)
