"""Losses on raw heads: what detectors and segmentation networks say before any decoding.

Anchors, thresholds and non-maximum suppression come after these outputs and have no gradient worth
the name, so a student learns what its teacher's heads say at each place.
"""

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.errors import UsageError

_BOX = 4


def channel_kd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """T²/C·Σ_c KL(φ(t_c) ‖ φ(s_c)) (Shu et al., 2021, arXiv:2011.13256).

    φ is the softmax of one channel over all positions: where a class is seen, not how strongly.
    A constant added to a channel changes nothing.

    Args:
        student: class maps, shape (n, classes, ...), floating, at least two positions.
        teacher: the same shape.
        temperature: T > 0.

    Returns:
        A scalar, nats: mean over samples and channels.
    """
    positions = student[0, 0].numel()
    s = functional.log_softmax(student.reshape(-1, positions) / temperature, dim=1)
    t = functional.log_softmax(teacher.reshape(-1, positions) / temperature, dim=1)
    return temperature**2 * functional.kl_div(s, t, reduction="batchmean", log_target=True)


def scores_kd(student: Tensor, teacher: Tensor, places: Tensor, *, softmax: bool = False) -> Tensor:
    """Σ_a o_a·D(t_a, s_a) / Σ_a o_a: class scores of each anchor, weighted by the teacher's o.

    Objectness-scaled distillation (Mehta & Ozturk, 2018, arXiv:1805.06361): nearly all
    anchors hold background, and a student must not learn those first. D is the Kullback-Leibler
    divergence of the probabilities: Bernoulli, summed over the classes, where each has a sigmoid
    of its own; one softmax otherwise. (The paper squares the difference.)

    Args:
        student: logits, shape (n, anchors, classes), floating.
        teacher: logits of the same shape.
        places: o, the teacher's objectness, shape (n, anchors), between 0 and 1.
        softmax: whether the classes share one softmax.

    Returns:
        A scalar, nats: weighted mean over anchors.
    """
    if softmax:
        s, t = functional.log_softmax(student, dim=-1), functional.log_softmax(teacher, dim=-1)
        each = functional.kl_div(s, t, reduction="none", log_target=True).sum(-1)
    else:
        p = torch.sigmoid(teacher)
        positive = functional.logsigmoid(teacher) - functional.logsigmoid(student)
        negative = functional.logsigmoid(-teacher) - functional.logsigmoid(-student)
        each = (p * positive + (1 - p) * negative).sum(-1)
    return _weighted(each, places)


def boxes_kd(student: Tensor, teacher: Tensor, places: Tensor) -> Tensor:
    """Σ_a o_a·‖t_a − s_a‖² / Σ_a o_a: raw boxes of each anchor, weighted by the teacher's o.

    Mehta & Ozturk, 2018, arXiv:1805.06361. A box without an object means nothing, and its
    o is near zero.

    Args:
        student: shape (n, anchors, 4), floating, in the head's own code (offsets, logs, ...).
        teacher: the same shape.
        places: o, shape (n, anchors), between 0 and 1.

    Returns:
        A scalar: weighted mean over anchors.
    """
    return _weighted((teacher - student).square().sum(-1), places)


def objectness(scores: Tensor, *, softmax: bool = False) -> Tensor:
    """The probability of an anchor's likeliest class.

    Args:
        scores: logits, shape (n, anchors, classes).
        softmax: whether the classes share one softmax; its first is then the background, which is
            no object.

    Returns:
        Shape (n, anchors), between 0 and 1.
    """
    if softmax:
        return functional.softmax(scores, dim=-1)[..., 1:].amax(-1)
    return torch.sigmoid(scores).amax(-1)


def as_anchors(scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Raw heads as one row for each anchor.

    Args:
        scores: shape (n, anchors, classes), or a map (n, a·classes, h, w) in which each of the a
            anchors of a place has its classes side by side (as torchvision's heads have).
        boxes: shape (n, anchors, 4), or a map (n, a·4, h, w).

    Returns:
        Shapes (n, anchors, classes) and (n, anchors, 4).

    Raises:
        UsageError: the two do not fit each other.
    """
    wanted = "Scores are (n, anchors, classes) or (n, a*classes, h, w), boxes the same with 4."
    shapes = f"scores {tuple(scores.shape)} and boxes {tuple(boxes.shape)}"
    if scores.dim() == boxes.dim() == 4 and boxes.shape[1] % _BOX == 0:
        each = boxes.shape[1] // _BOX
        if scores.shape[1] % each == 0 and scores.shape[2:] == boxes.shape[2:]:
            return _rows(scores, each), _rows(boxes, each)
    same = scores.shape[:2] == boxes.shape[:2]
    if scores.dim() != 3 or boxes.dim() != 3 or boxes.shape[2] != _BOX or not same:
        raise UsageError(f"The heads do not fit: {shapes}.", wanted)
    return scores, boxes


def _rows(maps: Tensor, each: int) -> Tensor:
    n, width, *_ = maps.shape
    parted = maps.reshape(n, each, width // each, -1)  # (n, a, k, places)
    return parted.permute(0, 3, 1, 2).reshape(n, -1, width // each)


def _weighted(each: Tensor, places: Tensor) -> Tensor:
    total = places.sum().clamp_min(torch.finfo(places.dtype).tiny)
    return (places * each).sum() / total
