"""Task losses against values by hand, in float64."""

import math

import pytest
import torch
from torch import Tensor

from edgekit.errors import UsageError
from edgekit.train.batches import Minibatch
from edgekit.train.losses import cross_entropy, right_answers, squared_error


def batch(targets: Tensor | None) -> Minibatch:
    count = 2 if targets is None else len(targets)
    return Minibatch([f"s{i}" for i in range(count)], (torch.zeros(count, 3),), targets)


def by_hand(logits, labels, smoothing) -> float:
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        norm = math.log(sum(math.exp(v) for v in row))
        wanted = [smoothing / len(row)] * len(row)
        wanted[label] += 1 - smoothing
        total -= sum(w * (v - norm) for w, v in zip(wanted, row, strict=True))
    return total / len(labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_by_hand(smoothing) -> None:
    logits = torch.randn(5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1, 2])
    loss = cross_entropy("y", logits, batch(labels), smoothing)
    assert float(loss) == pytest.approx(by_hand(logits, labels, smoothing), rel=1e-12)


def test_segmentation_is_the_mean_over_pixels() -> None:
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 4, 5))
    loss = cross_entropy("y", logits, batch(labels), 0.0)
    flat = logits.permute(0, 2, 3, 1).reshape(-1, 3)
    assert float(loss) == pytest.approx(by_hand(flat, labels.reshape(-1), 0.0), rel=1e-12)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 1, 2)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_column_is_the_second_of_two_classes(shape, smoothing) -> None:
    z = torch.randn(shape, dtype=torch.float64)
    labels = torch.randint(0, 2, (shape[0], *shape[2:]))
    flat = z.reshape(-1)
    two = torch.stack([torch.zeros_like(flat), flat], dim=1)
    loss = cross_entropy("y", z, batch(labels), smoothing)
    assert float(loss) == pytest.approx(by_hand(two, labels.reshape(-1), smoothing), rel=1e-12)


def test_squared_error_refuses_what_would_broadcast() -> None:
    a, b = torch.randn(4, 1, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    expected = sum((x - y) ** 2 for x, y in zip(a[:, 0].tolist(), b.tolist(), strict=True)) / 4
    assert float(squared_error("y", a, b, "the targets")) == pytest.approx(expected, rel=1e-12)
    assert float(squared_error("y", a, a, "the targets")) == 0
    with pytest.raises(UsageError, match=r"shape \(4, 2\), the targets \(4,\)"):
        squared_error("y", torch.zeros(4, 2), b, "the targets")
    with pytest.raises(UsageError, match=r"\(4, 2, 3\), the targets \(4, 3, 2\)"):
        squared_error("y", torch.zeros(4, 2, 3), torch.zeros(4, 3, 2), "the targets")


def test_labels_that_are_no_classes() -> None:
    logits = torch.zeros(2, 3)
    assert float(cross_entropy("y", logits, batch(torch.tensor([0.0, 2.0])), 0.0)) > 0
    with pytest.raises(UsageError, match="not whole numbers"):
        cross_entropy("y", logits, batch(torch.tensor([0.5, 1.0])), 0.0)
    with pytest.raises(UsageError, match="'s1' has the label -1"):
        cross_entropy("y", logits, batch(torch.tensor([0, -1])), 0.0)
    with pytest.raises(UsageError, match="no targets"):
        cross_entropy("y", logits, batch(None), 0.0)


def test_right_answers() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert right_answers(logits, torch.tensor([1, 1, 1])) == (2, 3)
    assert right_answers(torch.tensor([[0.5], [-0.5]]), torch.tensor([1, 1])) == (1, 2)
    assert right_answers(logits, None) == (0, 0)
    assert right_answers(logits, torch.zeros(3, 4)) == (0, 0)
