"""Estimate batch norm's statistics anew, after its inputs have changed.

Pruning and compensation change what a batch norm sees; its running mean and variance are then
those of another network. They are computed from data again, without any training, as the mean over
batches of each batch's mean and variance.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.graph.program import Program, rebuild
from edgekit.progress import Progress, Silent
from edgekit.train.batches import Batches
from edgekit.train.config import TrainConfig
from edgekit.train.layout import fast_inputs, fast_layout
from edgekit.train.reproducible import reproducible

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.metrics import Task

_MEAN, _TRAINING, _MOMENTUM = 3, 5, 6  # arguments of aten::batch_norm; the variance is the fourth


def reestimate_batch_norm(
    program: Program,
    data: "Dataset",
    task: "Task",
    *,
    split: str = "calibration",
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Program:
    """Set running means and variances to those of the data; weights and dropout stay as they are.

    Args:
        program: the network; it is not changed.
        data: the samples; labels are not looked at, but an anomaly detector sees normal ones only.
        task: what the network is for.
        split: which samples; shuffled once, so that each batch is like the others.
        batch_size: samples at once; statistics of few samples are noisy.
        seed: of the shuffle.
        progress: shows how far it is.
        threads: CPU threads; None leaves torch's.

    Returns:
        The network with its new statistics: the mean over batches, weighted by their samples.

    Raises:
        UsageError: the split has too few samples, or does not fit the network.
    """
    module = program.module()
    nodes = tracked(module)
    if not nodes:
        return program
    config = TrainConfig(batch_size=batch_size)
    with reproducible(seed, threads), torch.no_grad():
        batches = Batches(program, data, task, config, seed=seed, split=split)
        found = _averages(module, nodes, batches, progress or Silent())
        fresh = program.module()
        for name, value in found.items():
            fresh.get_buffer(name).copy_(value)
        return rebuild(fresh, like=program)


def tracked(module: GraphModule) -> list[Node]:
    """Batch norms that have running statistics."""
    return [
        node
        for node in module.graph.nodes
        if node.target == torch.ops.aten.batch_norm.default and isinstance(node.args[_MEAN], Node)
    ]


def _averages(
    module: GraphModule, nodes: list[Node], batches: Batches, progress: Progress
) -> dict[str, Tensor]:
    """Mean of each statistic over the batches, by the buffer's name; in float64 until the end."""
    for node in nodes:
        node.update_arg(_TRAINING, True)
        node.update_arg(_MOMENTUM, 1.0)  # each batch leaves its own statistics behind
    module.recompile()
    names = [str(node.args[i].target) for node in nodes for i in (_MEAN, _MEAN + 1)]  # type: ignore[union-attr]
    fast_layout(module)
    sums = {name: torch.zeros_like(module.get_buffer(name), dtype=torch.float64) for name in names}
    seen = 0
    with progress.task("batch norm", total=len(batches)) as bar:
        for _, batch in batches.epoch(0):
            module(*fast_inputs(batch.inputs))
            for name, total in sums.items():
                total += module.get_buffer(name).double() * len(batch.ids)
            seen += len(batch.ids)
            bar.advance(1)
    return {name: total / seen for name, total in sums.items()}
