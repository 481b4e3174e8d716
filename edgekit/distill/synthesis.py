"""Samples where there are none: inputs whose batch-norm statistics are those of the real data.

A batch norm's running mean and variance describe what its layer saw in training. Noise is changed
by gradient descent until the batches that it makes have the same mean and variance in every layer
(ZeroQ, Cai et al., arXiv:2001.00281; DeepInversion, Yin et al., arXiv:1912.08795). A classifier's
inputs are also pulled to one class each, drawn evenly, so that all of its outputs are exercised.

Real samples are better where there are any, without labels too: in the distillation benchmark
synthetic ones alone did not bring a pruned network back. Nothing can be judged by synthetic ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional

from edgekit.errors import PassError, UsageError
from edgekit.graph.program import Program
from edgekit.graph.taps import add_outputs
from edgekit.progress import Progress, Silent
from edgekit.train.batch_norm import tracked
from edgekit.train.losses import is_binary, output_name
from edgekit.train.reproducible import reproducible

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.metrics import Task

LEARNING_RATE = 0.1
CLASS_WEIGHT = 0.1


@dataclass(frozen=True)
class Synthetic:
    """Synthetic samples.

    Attributes:
        inputs: by the network's input names; the first axis is the sample, float32.
        targets: the class that each was pulled to, int64; None unless the task has classes.
        classes: how many classes the network tells apart; None unless the task has any.
        distance: of the statistics from the running ones, before and after (`statistics_distance`).
    """

    inputs: "dict[str, NDArray[np.float32]]"
    targets: "NDArray[np.int64] | None"
    classes: int | None
    distance: tuple[float, float]


def statistics_distance(values: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """mean_c [(μ_c − m_c)² / (v_c + ε) + (√((σ²_c + ε)/(v_c + ε)) − 1)²].

    μ and σ² are the batch's mean and biased variance of each channel. Distances are in units of
    what the layer is used to, so that no layer counts more than another for its scale.

    Args:
        values: what goes into a batch norm, shape (n, c, ...), floating.
        mean: m, its running mean, shape (c,).
        variance: v, its running variance, shape (c,).
        eps: ε > 0, the batch norm's own.

    Returns:
        A scalar; 0 exactly where both statistics are met.
    """
    axes = [axis for axis in range(values.dim()) if axis != 1]
    var, mu = torch.var_mean(values, dim=axes, correction=0)
    scale = variance + eps
    ratio = ((var + eps) / scale).sqrt()
    return ((mu - mean).square() / scale + (ratio - 1).square()).mean()


def synthesize(
    program: Program,
    samples: int,
    task: "Task",
    *,
    steps: int = 300,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Synthetic:
    """Make inputs that the network takes for its training data.

    Args:
        program: the trained network; it is not changed.
        samples: how many.
        task: of a classifier each input is pulled to one class; a network of another kind gets
            inputs by its statistics alone.
        steps: of gradient descent (Adam, cosine) for each batch.
        batch_size: samples whose statistics are taken together; a network with a fixed batch has
            its own.
        seed: of the noise that they begin as.
        progress: shows how far it is.
        threads: CPU threads; None leaves torch's.

    Raises:
        UsageError: the network has no batch norm with running statistics, or an input is not
            floating-point; or one sample is asked for.
        PassError: descent diverged.
    """
    _check(program)
    module = program.module()
    module.requires_grad_(False)
    norms = tracked(module)
    if not norms:
        raise UsageError(
            "The network has no batch norm with running statistics, which say what its data were"
            " like.",
            "Give real samples with --data; they need no labels.",
        )
    axis = program.inputs[0].shape[0]
    size = axis if isinstance(axis, int) else min(batch_size, samples)
    if axis == 1:
        raise UsageError(
            "The network takes one sample at a time, which has no variance to match.",
            "Capture it with a dynamic batch: `dynamic: {input: [batch, ...]}`.",
        )
    if size < 2:
        raise UsageError(
            "A single sample has no variance to match.", "Ask for two samples or more."
        )
    batches = -(-samples // size)
    descent = _Descent(program, module, norms, task, steps)
    parts: list[tuple[list[Tensor], Tensor | None]] = []
    ends: list[tuple[float, float]] = []
    total = batches * steps
    with reproducible(seed, threads), (progress or Silent()).task("synthesis", total=total) as bar:
        for number in range(batches):
            start = list(program.example_inputs(batch=size, seed=seed * 1_000_003 + number))
            labels = descent.labels(size, number)
            parts.append((start, labels))
            ends.append(descent.run(start, labels, lambda: bar.advance(1)))
    inputs = zip(*(part for part, _ in parts), strict=True)
    found = {
        spec.name: torch.cat(list(tensors))[:samples].numpy()
        for spec, tensors in zip(program.inputs, inputs, strict=True)
    }
    chosen = [labels for _, labels in parts if labels is not None]
    targets = torch.cat(chosen)[:samples].numpy() if chosen else None
    before, after = (sum(column) / batches for column in zip(*ends, strict=True))
    return Synthetic(found, targets, descent.classes, (before, after))


class _Descent:
    """The loss of one batch of inputs, and its descent."""

    def __init__(
        self, program: Program, module: GraphModule, norms: Sequence[Node], task: "Task", steps: int
    ) -> None:
        self._module, self._steps = module, steps
        judged = output_name(task, program)
        self._judged = [spec.name for spec in program.outputs].index(judged)
        self._own = len(program.outputs)
        shape = program.outputs[self._judged].shape
        classes = shape[1] if task.kind == "classification" and len(shape) == 2 else None
        self.classes = max(classes, 2) if isinstance(classes, int) else None
        self._statistics = [_statistics(module, node) for node in norms]
        add_outputs(module, [node.all_input_nodes[0].name for node in norms])

    def labels(self, size: int, number: int) -> Tensor | None:
        """One class a sample, evenly from all of them, over the batches too."""
        if self.classes is None:
            return None
        return (torch.arange(size) + number * size) % self.classes

    def run(self, inputs: list[Tensor], labels: Tensor | None, tell: Any) -> tuple[float, float]:
        """Change the inputs in place; gives the distance before and after."""
        for tensor in inputs:
            tensor.requires_grad_(True)
        optimizer = torch.optim.Adam(inputs, lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._steps)
        first = float("nan")
        for step in range(self._steps):
            optimizer.zero_grad()
            outputs = self._module(*inputs)
            distance = self._distance(outputs[self._own :])
            loss = distance
            if labels is not None:
                loss = loss + CLASS_WEIGHT * _classified(outputs[self._judged], labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            first = float(distance.detach()) if step == 0 else first
            tell()
        for tensor in inputs:
            tensor.requires_grad_(False)
            if not bool(torch.isfinite(tensor).all()):
                raise PassError(
                    "The synthetic inputs became NaN or infinite.",
                    "Look for NaN in the network's weights or batch-norm statistics.",
                )
        with torch.no_grad():
            last = self._distance(self._module(*inputs)[self._own :])
        return first, float(last)

    def _distance(self, values: Sequence[Tensor]) -> Tensor:
        each = [
            statistics_distance(value, *statistics)
            for value, statistics in zip(values, self._statistics, strict=True)
        ]
        return torch.stack(each).mean()


def _classified(logits: Tensor, labels: Tensor) -> Tensor:
    if is_binary(logits):
        return functional.binary_cross_entropy_with_logits(logits.reshape(-1), labels.float())
    return functional.cross_entropy(logits, labels)


def _statistics(module: GraphModule, node: Node) -> tuple[Tensor, Tensor, float]:
    """Running mean, running variance and ε of a batch norm."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    mean, variance = (
        module.get_buffer(str(given[name].target)) for name in ("running_mean", "running_var")
    )
    return mean, variance, float(given["eps"])


def _check(program: Program) -> None:
    for spec in program.inputs:
        if not getattr(torch, spec.dtype).is_floating_point:
            raise UsageError(
                f"The input {spec} is not floating-point: descent cannot change it.",
                "Give real samples with --data; they need no labels.",
            )
