"""What moves the weights: optimizer, learning rate, and the average that smooths their path."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from edgekit.train.config import TrainConfig


def make_optimizer(
    module: nn.Module, config: "TrainConfig", beside: nn.Module | None = None
) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum.

    Biases and the scales of normalisations (parameters with one axis) do not decay: it would only
    fight what they are for.

    Args:
        module: its trainable parameters; tied ones count once.
        config: the hyper-parameters.
        beside: what is trained with it and is no part of it.
    """
    extra = () if beside is None else beside.parameters()
    trainable = [p for p in (*module.parameters(), *extra) if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    return torch.optim.SGD(
        groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0
    )


def learning_rate(config: "TrainConfig", step: int, steps: int) -> float:
    """The learning rate of one step: a linear rise, then constant or half a cosine to zero.

    The cosine is that of SGDR without restarts (Loshchilov & Hutter, 2017, arXiv:1608.03983).

    Args:
        config: peak, schedule, share of the rise.
        step: from 0.
        steps: in all.
    """
    rise = int(config.warmup_fraction * steps)
    if step < rise:
        return config.learning_rate * (step + 1) / rise
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - rise) / max(steps - rise, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


class Average:
    """An exponential moving average of parameters and statistics.

    The decay of step t is min(decay, (1+t)/(10+t)), so that the first weights are soon forgotten.

    Args:
        module: whose floating-point tensors are averaged.
        decay: between 0 and 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        tensors = (*module.parameters(), *module.buffers())
        self._live: list[Tensor] = [t for t in tensors if t.is_floating_point()]
        self._mean = [t.detach().clone() for t in self._live]
        self._decay = decay
        self._step = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights."""
        decay = min(self._decay, (1 + self._step) / (10 + self._step))
        self._step += 1
        for mean, live in zip(self._mean, self._live, strict=True):
            mean.lerp_(live, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average in the weights' place."""
        for mean, live in zip(self._mean, self._live, strict=True):
            live.copy_(mean)
