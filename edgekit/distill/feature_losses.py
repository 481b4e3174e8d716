"""Losses on features: how far layers inside a student are from layers inside its teacher.

Features have their channels on the second axis: (n, channels, ...). Every loss is a mean over
samples and differentiable in the student; teachers are constants. `Regressor` and `Projection` are
trained with the student and thrown away.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Regressor(nn.Module):
    """A learned 1x1 convolution (a linear map of the channels at each position).

    The regressor r of FitNets (Romero et al., 2015, arXiv:1412.6550), which lets a narrow student
    be compared with a wide teacher. Of equal widths it begins as the identity, so that a student
    that agrees has no loss.

    Args:
        student: channels in.
        teacher: channels out.
        generator: draws the first weights.
    """

    def __init__(self, student: int, teacher: int, generator: torch.Generator) -> None:
        super().__init__()
        weight = torch.empty(teacher, student)
        if student == teacher:
            nn.init.eye_(weight)
        else:
            nn.init.kaiming_normal_(weight, nonlinearity="linear", generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(teacher))

    def forward(self, features: Tensor) -> Tensor:
        """(n, student, ...) to (n, teacher, ...)."""
        moved = functional.linear(features.movedim(1, -1), self.weight, self.bias)
        return moved.movedim(-1, 1)


class Projection(nn.Module):
    """A learned linear map of a feature's mean over its positions, to unit length.

    Args:
        channels: of the feature.
        width: of the embedding.
        generator: draws the first weights.
    """

    def __init__(self, channels: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        weight = torch.empty(width, channels)
        nn.init.kaiming_normal_(weight, nonlinearity="linear", generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        """(n, channels, ...) to (n, width)."""
        return functional.normalize(
            functional.linear(embedding(features), self.weight, self.bias), dim=1
        )


def embedding(features: Tensor) -> Tensor:
    """One vector for each sample: the mean over positions, (n, channels, ...) to (n, channels)."""
    return features.flatten(2).mean(2) if features.dim() > 2 else features


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """‖r(F_s) − F_t‖², as a mean over elements (Romero et al., 2015, arXiv:1412.6550, eq. 3).

    Args:
        student: r(F_s), the student's features after the regressor, (n, channels, ...), floating.
        teacher: F_t, the same shape.

    Returns:
        A scalar. The paper has half the sum; a mean does not grow with the layer.
    """
    return functional.mse_loss(student, teacher)


def feature_matching(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ|F_s − F_t| / N (Wang et al., 2018, arXiv:1711.11585): L1 between features.

    For generators and autoencoders, whose outputs have no classes to soften: squares would blur
    what is drawn.

    Args:
        student: (n, channels, ...), floating, after the regressor where the widths differ.
        teacher: the same shape.

    Returns:
        A scalar: mean over all N elements.
    """
    return functional.l1_loss(student, teacher)


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """‖Q_s/‖Q_s‖₂ − Q_t/‖Q_t‖₂‖₂², Q = vec(Σ_c F_c²) (Zagoruyko & Komodakis, 2017, 1612.03928).

    The paper's equation 2 with p = 2, squared as in the authors' code: the norm itself has no
    gradient where both agree. Where a network looks counts, not how strongly: the loss does not
    change when either side is scaled, or its channels change places; their numbers may differ.

    Args:
        student: (n, channels, ...), floating, at least two positions.
        teacher: (n, other channels, ...) with the same positions.

    Returns:
        A scalar between 0 and 2: mean over samples.
    """
    s, t = (functional.normalize(f.square().sum(1).flatten(1), dim=1) for f in (student, teacher))
    return (s - t).square().sum(1).mean()


def relation_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over pairs of l(ψ(s_i, s_j), ψ(t_i, t_j)), ψ = ‖x_i − x_j‖/μ: distances between samples.

    Relational KD (Park et al., 2019, arXiv:1904.05068); μ is the batch's mean distance,
    l the Huber loss with δ = 1. Moving, turning or scaling either side changes nothing.

    Args:
        student: (n, channels, ...), floating, n > 1; means over positions are compared.
        teacher: (n, other channels, ...).

    Returns:
        A scalar: mean over pairs of different samples; 0 for a single sample.
    """
    n = len(student)
    if n < 2:
        return student.sum() * 0
    row, column = torch.triu_indices(n, n, offset=1)
    ratios: list[Tensor] = []
    for features in (student, teacher):
        e = embedding(features)
        distance = _length(e[row] - e[column])
        ratios.append(distance / distance.mean().clamp_min(torch.finfo(e.dtype).tiny))
    return functional.huber_loss(ratios[0], ratios[1])


def relation_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over triples of l(cos ∠s_i s_j s_k, cos ∠t_i t_j t_k): angles between samples.

    Relational KD (Park et al., 2019, arXiv:1904.05068), l the Huber loss with δ = 1.
    Moving, turning or scaling either side changes nothing.

    Args:
        student: (n, channels, ...), floating, n > 2; means over positions are compared.
        teacher: (n, other channels, ...).

    Returns:
        A scalar: mean over triples of three different samples; 0 for fewer.
    """
    n = len(student)
    if n < 3:
        return student.sum() * 0
    i = torch.arange(n)
    different = (i[:, None, None] != i[None, :, None]) & (i[:, None, None] != i[None, None, :])
    different &= i[None, :, None] != i[None, None, :]
    cosines: list[Tensor] = []
    for features in (student, teacher):
        e = embedding(features)
        apart = e[None] - e[:, None]  # (corner j, end i, channels)
        length = _length(apart).unsqueeze(-1)
        unit = apart / torch.where(length > 0, length, 1.0)
        cosines.append((unit @ unit.mT)[different])
    return functional.huber_loss(cosines[0], cosines[1])


def contrast(student: Tensor, teacher: Tensor, temperature: float = 0.07) -> Tensor:
    """−1/n·Σ_i log(exp(s_i·t_i/τ) / Σ_j exp(s_i·t_j/τ)): tell one's own sample from the others.

    Contrastive representation distillation (Tian et al., 2020, arXiv:1910.10699) in its in-batch
    form: the other samples of the batch are the negatives (InfoNCE, van den Oord et al., 2018,
    arXiv:1807.03748), and no memory bank is kept. It falls as both sides share more information:
    log n − loss bounds it from below. It is never zero, not even where both agree; it is log n
    where all samples look alike.

    Args:
        student: embeddings of unit length, shape (n, width), floating, n > 1.
        teacher: the same shape; its projection may learn too.
        temperature: τ > 0.

    Returns:
        A scalar, nats: mean over samples.
    """
    own = torch.arange(len(student))
    return functional.cross_entropy(student @ teacher.T / temperature, own)


def _length(vectors: Tensor) -> Tensor:
    """Euclidean lengths along the last axis, with gradient zero (not NaN) for no length at all."""
    square = vectors.square().sum(-1)
    there = square > torch.finfo(square.dtype).tiny
    return torch.where(there, torch.where(there, square, 1.0).sqrt(), 0.0)
