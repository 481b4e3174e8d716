"""What is done to samples so that no epoch sees the same: moved, blended, cut and pasted."""

import numpy as np
import torch
from torch import Tensor

MAX_SHIFT = 2
"""Pixels that `augment: shift` moves an image by, at most."""


def shifted(images: Tensor, offsets: Tensor) -> Tensor:
    """Move each image by whole pixels; its edge fills what comes free.

    Args:
        images: shape (n, ..., h, w), any dtype.
        offsets: shape (n, 2), int64: pixels down and to the right.

    Returns:
        The same shape and dtype.
    """
    height, width = images.shape[-2:]
    down, right = offsets[:, :1], offsets[:, 1:]
    lines = (torch.arange(height) - down).clamp_(0, height - 1)  # (n, h)
    columns = (torch.arange(width) - right).clamp_(0, width - 1)
    between = (1,) * (images.dim() - 3)
    lines = lines.view(-1, *between, height, 1).expand(*images.shape)
    columns = columns.view(-1, *between, 1, width).expand(*images.shape)
    return images.gather(-2, lines).gather(-1, columns)


def mixed(
    samples: tuple[Tensor, ...],
    targets: Tensor | None,
    kind: str,
    alpha: float,
    draw: np.random.Generator,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, float]]:
    """Blend each sample with another one of the batch.

    mixup (Zhang et al., 2018, https://arxiv.org/abs/1710.09412): λx + (1-λ)x'. cutmix (Yun et al.,
    2019, https://arxiv.org/abs/1905.04899): a rectangle of x' in x, λ being what is left of x. λ is
    drawn from Beta(α, α), once a batch; targets are not blended: the loss is.

    Args:
        samples: floating-point inputs, first axis the sample; for cutmix images (n, c, h, w).
        targets: one row a sample, None without targets.
        kind: `mixup` or `cutmix`.
        alpha: of the Beta distribution.
        draw: every choice comes from it.

    Returns:
        The blended inputs; the other targets and λ.
    """
    other = torch.from_numpy(draw.permutation(len(samples[0])))
    share = float(draw.beta(alpha, alpha))
    if kind == "mixup":
        inputs = tuple(share * t + (1 - share) * t[other] for t in samples)
    else:
        height, width = samples[0].shape[-2:]
        size = (1 - share) ** 0.5
        (top, bottom), (left, right) = (
            _span(draw, length, round(length * size)) for length in (height, width)
        )
        share = 1 - (bottom - top) * (right - left) / (height * width)
        inputs = tuple(t.clone() for t in samples)
        for t, source in zip(inputs, samples, strict=True):
            t[..., top:bottom, left:right] = source[other, ..., top:bottom, left:right]
    return inputs, (None if targets is None else targets[other], share)


def _span(draw: np.random.Generator, length: int, size: int) -> tuple[int, int]:
    """A stretch around a point drawn evenly, cut off at the edges."""
    middle = int(draw.integers(length))
    return max(middle - size // 2, 0), min(middle - size // 2 + size, length)
