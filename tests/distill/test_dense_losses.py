"""Losses on raw heads against NumPy in float64, autograd, and their invariances."""

import numpy as np
import pytest
import torch

from edgekit.distill.dense_losses import as_anchors, boxes_kd, channel_kd, objectness, scores_kd
from edgekit.errors import UsageError


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax(x, axis=-1):
    raised = np.exp(x)
    return raised / raised.sum(axis, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


PLACES = torch.rand(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def test_channel_kd_by_hand() -> None:
    s, t = draw(2, 3, 4, 5, seed=0), draw(2, 3, 4, 5, seed=1)
    q, p = (softmax(x.numpy().reshape(2, 3, 20) / 4.0) for x in (s, t))
    expected = 16 * (p * np.log(p / q)).sum(-1).mean()
    assert float(channel_kd(s, t, 4.0)) == pytest.approx(expected, rel=1e-12)


def test_channel_kd_ignores_how_strongly_a_class_is_seen() -> None:
    s, t = draw(2, 3, 4, 5, seed=0), draw(2, 3, 4, 5, seed=1)
    moved = channel_kd(s + draw(2, 3, 1, 1, seed=2), t + draw(2, 3, 1, 1, seed=3))
    torch.testing.assert_close(moved, channel_kd(s, t), rtol=1e-10, atol=0)


def test_scores_with_sigmoids_by_hand() -> None:
    s, t, o = draw(3, 7, 5, seed=0), draw(3, 7, 5, seed=1), PLACES.numpy()
    q, p = sigmoid(s.numpy()), sigmoid(t.numpy())
    each = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(-1)
    expected = (o * each).sum() / o.sum()
    assert float(scores_kd(s, t, PLACES)) == pytest.approx(expected, rel=1e-10)


def test_scores_with_one_softmax_by_hand() -> None:
    s, t, o = draw(3, 7, 5, seed=0), draw(3, 7, 5, seed=1), PLACES.numpy()
    q, p = softmax(s.numpy()), softmax(t.numpy())
    expected = (o * (p * np.log(p / q)).sum(-1)).sum() / o.sum()
    assert float(scores_kd(s, t, PLACES, softmax=True)) == pytest.approx(expected, rel=1e-10)


def test_boxes_by_hand() -> None:
    s, t, o = draw(3, 7, 4, seed=0), draw(3, 7, 4, seed=1), PLACES.numpy()
    expected = (o * ((s - t).numpy() ** 2).sum(-1)).sum() / o.sum()
    assert float(boxes_kd(s, t, PLACES)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [scores_kd, boxes_kd])
def test_anchors_without_an_object_do_not_count(loss) -> None:
    s, t, places = draw(3, 7, 4, seed=0), draw(3, 7, 4, seed=1), PLACES.clone()
    places[:, 3] = 0
    other = s.clone()
    other[:, 3] = 50.0
    assert float(loss(s, t, places)) == float(loss(other, t, places))
    assert float(loss(s, t, torch.zeros_like(places))) == 0


def test_objectness_by_hand() -> None:
    scores = draw(3, 7, 5, seed=0)
    np.testing.assert_allclose(objectness(scores), sigmoid(scores.numpy()).max(-1), rtol=1e-12)
    expected = softmax(scores.numpy())[..., 1:].max(-1)
    np.testing.assert_allclose(objectness(scores, softmax=True), expected, rtol=1e-12)


def test_maps_become_anchors() -> None:
    anchors, classes = 2, 3
    scores, boxes = draw(2, anchors * classes, 4, 5, seed=0), draw(2, anchors * 4, 4, 5, seed=1)
    rows, corners = as_anchors(scores, boxes)
    assert rows.shape == (2, 40, classes)
    assert corners.shape == (2, 40, 4)
    place, anchor, y, x = (2 * 5 + 3) * anchors + 1, 1, 2, 3
    torch.testing.assert_close(rows[1, place], scores[1, anchor * classes :, y, x])
    torch.testing.assert_close(corners[1, place], boxes[1, anchor * 4 :, y, x])
    assert as_anchors(rows, corners) == (rows, corners)


@pytest.mark.parametrize(
    ("scores", "boxes"),
    [
        ((2, 7, 3), (2, 8, 4)),
        ((2, 7, 3), (2, 7, 5)),
        ((2, 7, 4, 4), (2, 8, 4, 4)),
        ((2, 7), (2, 4)),
    ],
)
def test_heads_that_do_not_fit(scores, boxes) -> None:
    with pytest.raises(UsageError, match="heads do not fit: scores"):
        as_anchors(torch.zeros(scores), torch.zeros(boxes))


LOSSES = {
    "channels": (channel_kd, (2, 3, 3, 4)),
    "scores, sigmoid": (lambda s, t: scores_kd(s, t, PLACES), (3, 7, 4)),
    "scores, softmax": (lambda s, t: scores_kd(s, t, PLACES, softmax=True), (3, 7, 4)),
    "boxes": (lambda s, t: boxes_kd(s, t, PLACES), (3, 7, 4)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_zero_when_equal_and_positive_otherwise(name) -> None:
    loss, shape = LOSSES[name]
    s, t = draw(*shape, seed=0), draw(*shape, seed=1)
    assert float(loss(t, t)) == pytest.approx(0, abs=1e-12)
    assert float(loss(s, t)) > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name) -> None:
    loss, shape = LOSSES[name]
    s, t = draw(*shape, seed=0).requires_grad_(), draw(*shape, seed=1)
    assert torch.autograd.gradcheck(lambda x: loss(x, t), (s,))
