"""What moves the weights: optimizer, learning rate, and the average that smooths their path."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgekit.train.sharded import put

if TYPE_CHECKING:
    from edgekit.train.config import TrainConfig

_RISE, _ONE_CYCLE_RISE = 0.05, 0.3  # shares of all steps
_ONE_CYCLE_START, _ONE_CYCLE_END = 25.0, 1e4


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
    """The learning rate of one step.

    `cosine` and `constant` rise linearly, and then fall as half a cosine to zero (SGDR without
    restarts; Loshchilov & Hutter, 2017, arXiv:1608.03983) or stay. `one-cycle` rises from 1/25 of
    the peak and falls to 1/250 000 of it, both as half a cosine, as torch's `OneCycleLR` does; the
    momentum stays.

    Args:
        config: peak, schedule, share of the rise.
        step: from 0.
        steps: in all.
    """
    peak = config.learning_rate
    if config.schedule == "one-cycle":
        share = _ONE_CYCLE_RISE if config.warmup_fraction is None else config.warmup_fraction
        top = share * steps - 1
        if step <= top:
            return _between(peak / _ONE_CYCLE_START, peak, step / top if top > 0 else 1.0)
        done = (step - top) / max(steps - 1 - top, 1)
        return _between(peak, peak / (_ONE_CYCLE_START * _ONE_CYCLE_END), done)
    share = _RISE if config.warmup_fraction is None else config.warmup_fraction
    rise = int(share * steps)
    if step < rise:
        return peak * (step + 1) / rise
    if config.schedule == "constant":
        return peak
    return _between(peak, 0.0, (step - rise) / max(steps - rise, 1))


def _between(start: float, end: float, done: float) -> float:
    """Half a cosine from one value to another."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


class Penalty:
    """L1 and L2 pulls on the weights with more than one axis, added to their gradients.

    Args:
        module: whose weights.
        l1: strength of Σ|w|.
        l2: strength of Σw²/2.
    """

    def __init__(self, module: nn.Module, l1: float, l2: float) -> None:
        self._weights = [p for p in module.parameters() if p.dim() > 1]
        self._l1, self._l2 = l1, l2

    @torch.no_grad()
    def apply(self) -> None:
        """Add the gradients; weights that the loss does not reach are left alone."""
        for weight in self._weights:
            if weight.grad is None:
                continue
            if self._l2:
                weight.grad.add_(weight, alpha=self._l2)
            if self._l1:
                weight.grad.add_(weight.sign(), alpha=self._l1)


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

    def state(self) -> dict[str, Any]:
        """What it is made of, for a checkpoint."""
        return {"mean": self._mean, "step": self._step}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._step = state["step"]
        for mean, saved in zip(self._mean, state["mean"], strict=True):
            put(mean, saved)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the average stands in the weights' place."""
        kept = [live.detach().clone() for live in self._live]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for live, value in zip(self._live, kept, strict=True):
                    live.copy_(value)
