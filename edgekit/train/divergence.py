"""A training that diverged, told by the samples that it diverged on."""

import torch
from torch import Tensor

from edgekit.errors import PassError
from edgekit.train.batches import Minibatch

_SHOWN = 5


def named(batch: Minibatch, outputs: dict[str, Tensor]) -> str:
    """The samples whose own output is not finite, or else the first of the batch."""
    bad = torch.zeros(len(batch.ids), dtype=torch.bool)
    for tensor in outputs.values():
        if tensor.dim() and len(tensor) == len(bad):
            bad |= ~torch.isfinite(tensor).reshape(len(bad), -1).all(dim=1).cpu()
    ids = [name for name, is_bad in zip(batch.ids, bad.tolist(), strict=True) if is_bad]
    ids = ids or batch.ids
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(ids[:_SHOWN]) + more


def diverged(what: str, where: str, samples: str) -> PassError:
    """The error of a training that diverged.

    Args:
        what: is not finite.
        where: epoch and batch.
        samples: from `named`, of all processes.
    """
    return PassError(
        f"Training diverged: {what} in {where} (samples {samples}).",
        "Lower `learning_rate`, or check the data of these samples.",
    )
