"""What calibration data say about a network before it is pruned."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from edgekit.errors import PassError
from edgekit.graph.program import Program
from edgekit.prune.coupling import bind

if TYPE_CHECKING:
    from edgekit.train.batches import Minibatch
    from edgekit.train.losses import Loss

CONTRACTIONS = frozenset({"linear", "conv1d", "conv2d", "conv3d", "convolution"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})


def squared_gradients(
    program: Program,
    batches: Iterable["Minibatch"],
    loss: "Loss",
    *,
    kind: Literal["taylor", "fisher"],
) -> dict[str, Tensor]:
    """Mean squared gradient of the loss for each weight, in eval mode.

    `taylor`: of each batch's mean loss (Molchanov et al., 2019, https://arxiv.org/abs/1906.10771).
    `fisher`: of each sample's loss, the diagonal of the empirical Fisher matrix, which stands for
    the Hessian's (Theis et al., 2018, https://arxiv.org/abs/1801.05787).

    Args:
        program: the network.
        batches: samples with targets.
        loss: of the task.
        kind: see above.

    Returns:
        parameter name to a tensor of its shape, float32.

    Raises:
        PassError: the loss is not a number.
    """
    module = program.module()
    names = [spec.name for spec in program.outputs]
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    sums = {n: torch.zeros_like(p) for n, p in parameters.items()}
    count = 0
    for whole in batches:
        for batch in _singles(whole) if kind == "fisher" else [whole]:
            value = loss(dict(zip(names, module(*batch.inputs), strict=True)), batch)
            if not torch.isfinite(value):
                raise PassError(
                    f"The loss is {float(value)} on the samples {', '.join(batch.ids[:3])}.",
                    "Check these samples, or use an importance that needs no loss (`l2`).",
                )
            found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    sums[name] += gradient.detach().square()
            count += 1
    return {name: total / max(count, 1) for name, total in sums.items()}


def _singles(batch: "Minibatch") -> Iterable["Minibatch"]:
    from edgekit.train.batches import Minibatch

    for i, name in enumerate(batch.ids):
        targets = None if batch.targets is None else batch.targets[i : i + 1]
        yield Minibatch([name], tuple(t[i : i + 1] for t in batch.inputs), targets)


def second_moments(program: Program, batches: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """Mean square of each channel that a layer reads.

    Args:
        program: the network.
        batches: inputs in the network's order.

    Returns:
        node name of a linear layer or convolution to a tensor of shape (input channels,).
    """
    watch = _Watch(program)
    with torch.no_grad():
        for inputs in batches:
            watch.run(*inputs)
    return {name: total / max(len(batches), 1) for name, total in watch.moments.items()}


class _Watch(Interpreter):
    def __init__(self, program: Program) -> None:
        super().__init__(program.module())
        self.moments: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> object:
        kind = kind_of(n)
        if kind in CONTRACTIONS | TRANSPOSED:
            x: Tensor = self.env[bind(n)["input"]]
            axis = x.dim() - 1 if kind == "linear" else 1
            others = [a for a in range(x.dim()) if a != axis]
            found = x.detach().square().mean(others) if others else x.detach().square()
            self.moments[n.name] = self.moments.get(n.name, torch.zeros_like(found)) + found
        return super().run_node(n)


def kind_of(node: Node) -> str:
    """An operator's name in ATen without its overload; empty for anything else."""
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).partition("::")[2]


def distances(weight: Tensor, axis: int) -> Tensor:
    """Sum of distances from each slice to all others, shape (size of axis,), float64.

    Small near the geometric median: such a slice can be stood in for by the others (He et al.,
    2019, https://arxiv.org/abs/1811.00250).
    """
    rows = weight.detach().movedim(axis, 0).flatten(1).double().to("cpu")
    return torch.cdist(rows, rows).sum(1)


def by_input_channel(weight: Tensor, kind: str, groups: int, moments: Tensor) -> Tensor:
    """What the answers of a layer would miss without each input channel.

    Args:
        weight: (out, in/groups, *kernel), transposed (in, out/groups, *kernel).
        kind: the operator.
        groups: of a convolution.
        moments: mean square of each input channel, shape (in,).

    Returns:
        shape (weight's input axis,): Σ w² over the rest, times the channel's mean square; with
        groups, the mean over the channels that share an index.
    """
    axis = 0 if kind in TRANSPOSED else 1
    others = [a for a in range(weight.dim()) if a != axis]
    energy = weight.detach().to("cpu").square().sum(others, dtype=torch.float64)
    moments = moments.to("cpu").double()
    if energy.numel() != moments.numel():
        moments = moments.view(groups, -1).mean(0)
    return energy * moments
