"""Losses on answers: how far a student's outputs are from its teacher's.

Every loss is a mean over samples (and positions), zero where both agree, and differentiable in the
student. Teachers are constants: pass their outputs detached. `dense_losses` has those of detectors
and of segmentation, `feature_losses` those of layers inside.
"""

import torch
from torch import Tensor
from torch.nn import functional


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T²·KL(softmax(z_t/T) ‖ softmax(z_s/T)) (Hinton et al., 2015, arXiv:1503.02531).

    T² keeps the gradient's size when T changes, so that the loss can be mixed with that of labels.

    Args:
        student: logits, shape (n, classes, ...), floating; (n,) and (n, 1, ...) hold logits of the
            second of two classes, the first having 0.
        teacher: logits of the same shape.
        temperature: T > 0.

    Returns:
        A scalar, nats: mean over samples and positions.
    """
    if student.dim() == 1 or student.shape[1] == 1:
        return _binary_kd(student, teacher, temperature)
    classes = student.shape[1]
    s = functional.log_softmax(student.movedim(1, -1).reshape(-1, classes) / temperature, dim=1)
    t = functional.log_softmax(teacher.movedim(1, -1).reshape(-1, classes) / temperature, dim=1)
    return temperature**2 * functional.kl_div(s, t, reduction="batchmean", log_target=True)


def _binary_kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    s, t = student / temperature, teacher / temperature
    positive = torch.sigmoid(t) * (functional.logsigmoid(t) - functional.logsigmoid(s))
    negative = torch.sigmoid(-t) * (functional.logsigmoid(-t) - functional.logsigmoid(-s))
    return temperature**2 * (positive + negative).mean()


def decoupled_kd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """T²·(α·KL(b_t ‖ b_s) + β·KL(p̂_t ‖ p̂_s)) (Zhao et al., 2022, arXiv:2203.08679).

    p = softmax(z/T), b = (p_y, 1 - p_y) says how sure a network is of the class y, and
    p̂ = softmax of the other classes' z/T how it ranks what is left. Plain KD ties the second to
    the first: it is this loss with α = 1 and β = 1 - p_y of the teacher, sample by sample.

    Args:
        student: logits, shape (n, classes, ...), floating, at least two classes.
        teacher: logits of the same shape.
        labels: the class y of each sample and position, shape (n, ...), int64.
        temperature: T > 0.
        alpha: weight of the class itself.
        beta: weight of the others; nothing with two classes, which leave one other.

    Returns:
        A scalar, nats: mean over samples and positions.
    """
    classes = student.shape[1]
    index = labels.reshape(-1, 1)
    s, t = (
        functional.log_softmax(z.movedim(1, -1).reshape(-1, classes) / temperature, dim=1)
        for z in (student, teacher)
    )
    (s_own, s_rest), (t_own, t_rest) = _parted(s, index), _parted(t, index)
    ours, theirs = _sureness(s_own, s_rest), _sureness(t_own, t_rest)
    sure = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    ours, theirs = (functional.log_softmax(rest, dim=1) for rest in (s_rest, t_rest))
    ranks = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return temperature**2 * (alpha * sure + beta * ranks)


def _parted(logs: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (n, k) as those of the classes in `index` (n, 1) and of the rest."""
    other = torch.ones_like(logs, dtype=torch.bool).scatter_(1, index, value=False)
    return logs.gather(1, index), logs[other].reshape(len(logs), -1)


def _sureness(own: Tensor, rest: Tensor) -> Tensor:
    """Log (p_y, 1 - p_y), summed over the rest and not subtracted from 1: exact for a sure net."""
    return torch.cat([own, rest.logsumexp(dim=1, keepdim=True)], dim=1)


def token_kd(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """T²·Σ_it m_it·KL(softmax(z_t/T) ‖ softmax(z_s/T))_it / Σ_it m_it: KD of each token.

    Word-level distillation (Kim & Rush, 2016, arXiv:1606.07947, section 3.1). Padding has no
    answer that is worth learning: the mask m leaves it out of the mean.

    Args:
        student: logits, shape (n, tokens, classes), floating.
        teacher: logits of the same shape.
        mask: shape (n, tokens), not zero where a token counts; None counts all.
        temperature: T > 0.

    Returns:
        A scalar, nats: mean over the tokens that count; 0 where none does.
    """
    counts = torch.ones_like(student[..., 0], dtype=torch.bool) if mask is None else mask != 0
    # Chosen before anything is computed: padding may hold infinities, and 0 · inf is NaN.
    s, t = (functional.log_softmax(z[counts] / temperature, dim=-1) for z in (student, teacher))
    total = functional.kl_div(s, t, reduction="sum", log_target=True)
    return temperature**2 * total / max(len(s), 1)


def dist(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """T²·(β(1−ρ over classes) + γ(1−ρ over samples)) (Huang et al., 2022, arXiv:2205.10536).

    ρ is Pearson's correlation of the softened probabilities: of each sample's row with the
    teacher's (relations between classes), and of each class's column (between samples). A student
    much smaller than its teacher need only agree up to a positive affine map.

    Args:
        student: logits, shape (n, classes), floating, n > 1.
        teacher: logits of the same shape.
        temperature: T > 0.
        beta: weight of the rows.
        gamma: weight of the columns.

    Returns:
        A scalar.
    """
    s = functional.softmax(student / temperature, dim=1)
    t = functional.softmax(teacher / temperature, dim=1)
    rows = 1 - pearson(s, t).mean()
    columns = 1 - pearson(s.T, t.T).mean()
    return temperature**2 * (beta * rows + gamma * columns)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of the rows of two matrices.

    Args:
        a: shape (n, k), floating.
        b: the same shape.

    Returns:
        Shape (n,), between -1 and 1; 0 where a row is constant.
    """
    centred = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    return functional.cosine_similarity(*centred, dim=1, eps=1e-12)


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error, divided by the teacher's mean square: free of the output's unit.

    Args:
        student: any shape, floating.
        teacher: the same shape.
    """
    scale = teacher.square().mean().clamp_min(torch.finfo(teacher.dtype).tiny)
    return functional.mse_loss(student, teacher) / scale
