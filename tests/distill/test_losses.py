"""Distillation losses against values by hand and against autograd, in float64."""

import math

import numpy as np
import pytest
import torch

from edgekit.distill.losses import decoupled_kd, dist, kd, pearson, relative_error, token_kd


def logits(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax(row: list[float], temperature: float) -> list[float]:
    raised = [math.exp(v / temperature) for v in row]
    return [v / sum(raised) for v in raised]


def kd_by_hand(student, teacher, temperature) -> float:
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kd_by_hand(temperature) -> None:
    s, t = logits(6, 5, seed=0), logits(6, 5, seed=1)
    expected = kd_by_hand(s, t, temperature)
    assert float(kd(s, t, temperature)) == pytest.approx(expected, rel=1e-12)


def test_kd_of_pixels_is_the_mean_over_them() -> None:
    s, t = logits(2, 3, 4, 5, seed=0), logits(2, 3, 4, 5, seed=1)
    flat = [x.permute(0, 2, 3, 1).reshape(-1, 3) for x in (s, t)]
    assert float(kd(s, t, 2.0)) == pytest.approx(kd_by_hand(*flat, 2.0), rel=1e-12)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 1, 4)])
def test_one_column_is_the_second_of_two_classes(shape) -> None:
    s, t = logits(*shape, seed=0), logits(*shape, seed=1)
    two = [torch.stack([torch.zeros_like(x.reshape(-1)), x.reshape(-1)], 1) for x in (s, t)]
    assert float(kd(s, t, 3.0)) == pytest.approx(kd_by_hand(*two, 3.0), rel=1e-12)


def dist_by_hand(student, teacher, temperature, beta, gamma) -> float:
    def correlation(a, b):
        ma, mb = sum(a) / len(a), sum(b) / len(b)
        top = sum((x - ma) * (y - mb) for x, y in zip(a, b, strict=True))
        return top / math.sqrt(sum((x - ma) ** 2 for x in a) * sum((y - mb) ** 2 for y in b))

    p = [softmax(r, temperature) for r in student.tolist()]
    q = [softmax(r, temperature) for r in teacher.tolist()]
    rows = sum(1 - correlation(a, b) for a, b in zip(p, q, strict=True)) / len(p)
    pairs = list(zip(zip(*p, strict=True), zip(*q, strict=True), strict=True))
    columns = sum(1 - correlation(a, b) for a, b in pairs) / len(pairs)
    return temperature**2 * (beta * rows + gamma * columns)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_by_hand(temperature) -> None:
    s, t = logits(6, 5, seed=0), logits(6, 5, seed=1)
    loss = dist(s, t, temperature, beta=1.5, gamma=0.5)
    assert float(loss) == pytest.approx(dist_by_hand(s, t, temperature, 1.5, 0.5), rel=1e-9)


def test_correlation_of_rows_ignores_positive_affine_maps() -> None:
    a, b = logits(6, 5, seed=0), logits(6, 5, seed=1)
    scale, offset = torch.rand(6, 1, dtype=torch.float64) + 0.1, logits(6, 1, seed=2)
    torch.testing.assert_close(pearson(a * scale + offset, b), pearson(a, b), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pearson(-a, b), -pearson(a, b), rtol=1e-9, atol=1e-9)


LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def decoupled_by_hand(student, teacher, labels, temperature, alpha, beta) -> float:
    total = 0.0
    for s, t, y in zip(student.numpy(), teacher.numpy(), labels.tolist(), strict=True):
        q, p = (np.exp(z / temperature) / np.exp(z / temperature).sum() for z in (s, t))
        sure = p[y] * np.log(p[y] / q[y]) + (1 - p[y]) * np.log((1 - p[y]) / (1 - q[y]))
        p, q = (np.delete(v, y) / np.delete(v, y).sum() for v in (p, q))
        total += alpha * sure + beta * (p * np.log(p / q)).sum()
    return temperature**2 * total / len(student)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (1.0, 0.0), (0.0, 1.0)])
def test_decoupled_kd_by_hand(alpha, beta) -> None:
    s, t = logits(6, 5, seed=0), logits(6, 5, seed=1)
    loss = decoupled_kd(s, t, LABELS, 4.0, alpha=alpha, beta=beta)
    assert float(loss) == pytest.approx(
        decoupled_by_hand(s, t, LABELS, 4.0, alpha, beta), rel=1e-10
    )


def test_decoupled_kd_is_kd_with_the_teachers_doubt_as_beta() -> None:
    s, t = logits(1, 5, seed=0), logits(1, 5, seed=1)
    doubt = 1 - softmax(t[0].tolist(), 4.0)[3]
    loss = decoupled_kd(s, t, torch.tensor([3]), 4.0, alpha=1.0, beta=doubt)
    assert float(loss) == pytest.approx(float(kd(s, t, 4.0)), rel=1e-12)


def test_decoupled_kd_of_pixels_is_the_mean_over_them() -> None:
    s, t = logits(2, 3, 4, seed=0), logits(2, 3, 4, seed=1)
    labels = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    flat = [x.permute(0, 2, 1).reshape(-1, 3) for x in (s, t)]
    expected = decoupled_by_hand(*flat, labels.reshape(-1), 4.0, 1.0, 8.0)
    assert float(decoupled_kd(s, t, labels)) == pytest.approx(expected, rel=1e-10)


def test_decoupled_kd_of_a_sure_teacher_is_finite() -> None:
    s, t = logits(1, 3, seed=0).requires_grad_(), torch.tensor([[90.0, 0, 1]]).double()
    loss = decoupled_kd(s, t, torch.tensor([0]), 1.0)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(s.grad).all())


MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]])


def test_token_kd_is_kd_of_the_tokens_that_count() -> None:
    s, t = logits(3, 4, 5, seed=0), logits(3, 4, 5, seed=1)
    flat = [x[MASK == 1] for x in (s, t)]
    assert float(token_kd(s, t, MASK, 2.0)) == pytest.approx(kd_by_hand(*flat, 2.0), rel=1e-12)
    whole = [x.reshape(-1, 5) for x in (s, t)]
    assert float(token_kd(s, t, None, 2.0)) == pytest.approx(kd_by_hand(*whole, 2.0), rel=1e-12)


def test_padding_does_not_count_whatever_it_holds() -> None:
    s, t = logits(3, 4, 5, seed=0), logits(3, 4, 5, seed=1)
    expected = token_kd(s, t, MASK)
    s[MASK == 0] = math.inf
    t[MASK == 0] = -3.0
    s.requires_grad_()
    loss = token_kd(s, t, MASK)
    loss.backward()
    assert float(loss.detach()) == float(expected)
    assert not s.grad[MASK == 0].any()
    assert bool(torch.isfinite(s.grad).all())
    assert float(token_kd(t, t, torch.zeros_like(MASK))) == 0


def test_relative_error_has_no_unit() -> None:
    s, t = logits(6, 5, seed=0), logits(6, 5, seed=1)
    expected = float(((s - t) ** 2).mean() / (t**2).mean())
    assert float(relative_error(s, t)) == pytest.approx(expected, rel=1e-12)
    assert float(relative_error(1e3 * s, 1e3 * t)) == pytest.approx(expected, rel=1e-9)


LOSSES = {
    "kd": (lambda s, t: kd(s, t, 4.0), (6, 5)),
    "binary kd": (lambda s, t: kd(s, t, 4.0), (6, 1)),
    "dist": (dist, (6, 5)),
    "decoupled kd": (lambda s, t: decoupled_kd(s, t, LABELS), (6, 5)),
    "decoupled kd of two": (lambda s, t: decoupled_kd(s, t, LABELS % 2), (6, 2)),
    "token kd": (lambda s, t: token_kd(s, t, MASK, 2.0), (3, 4, 5)),
    "relative error": (relative_error, (6, 5)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_zero_when_equal_and_positive_otherwise(name) -> None:
    loss, shape = LOSSES[name]
    s, t = logits(*shape, seed=0), logits(*shape, seed=1)
    assert float(loss(t, t)) == pytest.approx(0, abs=1e-12)
    assert float(loss(s, t)) > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name) -> None:
    loss, shape = LOSSES[name]
    s, t = logits(*shape, seed=0).requires_grad_(), logits(*shape, seed=1)
    assert torch.autograd.gradcheck(lambda x: loss(x, t), (s,))
