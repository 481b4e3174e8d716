"""Losses of distillation: what a student has to learn from its teacher's answers."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Logit distillation: T² · KL(softmax(z_t / T) ‖ softmax(z_s / T)), mean over samples.

    Hinton, Vinyals & Dean, 2015, arXiv:1503.02531, section 2. A single logit counts as that of two
    classes, (z, 0).

    Args:
        student: logits, shape (samples, classes, ...), or (samples,) or (samples, 1).
        teacher: logits of the same shape.
        temperature: T > 0.

    Returns:
        A scalar; 0 where both agree.
    """
    if student.ndim == 1 or (student.ndim == 2 and student.shape[1] == 1):
        student, teacher = _two_classes(student), _two_classes(teacher)
    log_s = F.log_softmax(student / temperature, dim=1)
    log_t = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(dim=1)
    return divergence.mean() * temperature**2


def _two_classes(logit: Tensor) -> Tensor:
    flat = logit.reshape(-1, 1)
    return F.pad(flat, (0, 1))
