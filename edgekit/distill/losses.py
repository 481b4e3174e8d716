"""Distillation losses: how far a student's answers are from its teacher's.

Every loss is a mean over samples (and positions), zero where both agree, and differentiable in the
student. Teachers are constants: pass their outputs detached.
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
