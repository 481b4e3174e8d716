"""Losses on features against NumPy in float64, autograd, and their invariances."""

import itertools

import numpy as np
import pytest
import torch

from edgekit.distill.feature_losses import (
    Projection,
    Regressor,
    attention_transfer,
    contrast,
    feature_matching,
    hint,
    relation_angle,
    relation_distance,
)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(*shape: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(draw(*shape, seed=seed), dim=1)


def huber(x):
    return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5)


def regressor(student: int, teacher: int) -> Regressor:
    return Regressor(student, teacher, torch.Generator().manual_seed(0)).double()


def test_the_regressor_is_a_1x1_convolution() -> None:
    r, x = regressor(3, 5), draw(2, 3, 4, 6, seed=0)
    torch.nn.init.normal_(r.bias)
    expected = torch.nn.functional.conv2d(x, r.weight[:, :, None, None], r.bias)
    torch.testing.assert_close(r(x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(r(x[:, :, 0, 0]), expected[:, :, 0, 0], rtol=1e-10, atol=1e-12)


def test_a_regressor_of_equal_widths_begins_as_the_identity() -> None:
    x = draw(2, 3, 4, seed=0)
    assert torch.equal(regressor(3, 3)(x), x)


def test_hint_by_hand() -> None:
    r, s, t = regressor(3, 5), draw(2, 3, 4, 6, seed=0), draw(2, 5, 4, 6, seed=1)
    mapped = np.einsum("oc,nchw->nohw", r.weight.detach().numpy(), s.numpy())
    expected = ((mapped - t.numpy()) ** 2).mean()
    assert float(hint(r(s), t).detach()) == pytest.approx(expected, rel=1e-10)


def test_feature_matching_by_hand() -> None:
    s, t = draw(2, 3, 4, 6, seed=0), draw(2, 3, 4, 6, seed=1)
    expected = np.abs((s - t).numpy()).mean()
    assert float(feature_matching(s, t)) == pytest.approx(expected, rel=1e-12)


def test_attention_transfer_by_hand() -> None:
    s, t = draw(2, 3, 4, 6, seed=0), draw(2, 5, 4, 6, seed=1)
    maps = [(f.numpy() ** 2).sum(1).reshape(2, -1) for f in (s, t)]
    q, p = (m / np.sqrt((m**2).sum(1, keepdims=True)) for m in maps)
    expected = ((q - p) ** 2).sum(1).mean()
    assert float(attention_transfer(s, t)) == pytest.approx(expected, rel=1e-10)


def test_attention_is_where_not_how_strongly() -> None:
    s, t = draw(2, 3, 4, 6, seed=0), draw(2, 5, 4, 6, seed=1)
    scale = draw(2, 1, 1, 1, seed=2)
    same = attention_transfer(scale * s[:, [2, 0, 1]], -3 * t[:, [4, 3, 2, 1, 0]])
    torch.testing.assert_close(same, attention_transfer(s, t), rtol=1e-9, atol=0)


def distance_by_hand(s, t) -> float:
    pairs = list(itertools.combinations(range(len(s)), 2))
    ratios = []
    for x in (s, t):
        lengths = np.array([np.linalg.norm(x[i] - x[j]) for i, j in pairs])
        ratios.append(lengths / lengths.mean())
    return huber(ratios[0] - ratios[1]).mean()


def angle_by_hand(s, t) -> float:
    def cosine(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    triples = itertools.permutations(range(len(s)), 3)
    return np.mean([huber(cosine(s, *ijk) - cosine(t, *ijk)) for ijk in triples])


RELATIONS = [(relation_distance, distance_by_hand), (relation_angle, angle_by_hand)]


@pytest.mark.parametrize(("loss", "by_hand"), RELATIONS)
def test_relations_by_hand(loss, by_hand) -> None:
    s, t = 3 * draw(6, 4, seed=0), draw(6, 2, seed=1)
    assert float(loss(s, t)) == pytest.approx(by_hand(s.numpy(), t.numpy()), rel=1e-9)
    maps = s[:, :, None, None] + torch.tensor([[1.0, -1, 2, -2]])  # means over positions stay
    assert float(loss(maps, t)) == pytest.approx(float(loss(s, t)), rel=1e-9)


@pytest.mark.parametrize(("loss", "by_hand"), RELATIONS)
def test_relations_stay_when_a_side_is_moved_turned_or_scaled(loss, by_hand) -> None:
    s, t = draw(6, 4, seed=0), draw(6, 3, seed=1)
    turn, _ = torch.linalg.qr(draw(4, 4, seed=2))
    moved = loss(7 * s @ turn + draw(1, 4, seed=3), 0.1 * t - 5)
    torch.testing.assert_close(moved, loss(s, t), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("loss", "by_hand"), RELATIONS)
def test_relations_of_equal_samples_have_a_gradient(loss, by_hand) -> None:
    s = draw(6, 4, seed=0).float()
    s[1] = s[0]
    s.requires_grad_()
    loss(s, draw(6, 3, seed=1).float()).backward()
    assert float(s.grad.abs().max()) < 10


@pytest.mark.parametrize(("loss", "by_hand"), RELATIONS)
def test_too_few_samples_have_no_relations(loss, by_hand) -> None:
    s = draw(1, 4, seed=0).requires_grad_()
    value = loss(s, draw(1, 3, seed=1))
    value.backward()
    assert float(value.detach()) == 0
    assert not s.grad.any()


def test_contrast_by_hand() -> None:
    s, t = unit(6, 4, seed=0), unit(6, 4, seed=1)
    raised = np.exp(s.numpy() @ t.numpy().T / 0.5)
    expected = -np.log(np.diag(raised) / raised.sum(1)).mean()
    assert float(contrast(s, t, 0.5)) == pytest.approx(expected, rel=1e-12)


def test_contrast_is_least_on_the_own_sample_and_log_n_where_all_are_alike() -> None:
    t = torch.eye(6, dtype=torch.float64)
    assert float(contrast(t, t, 0.01)) == pytest.approx(0, abs=1e-12)
    assert float(contrast(t, t.roll(1, 0), 0.01)) > 50
    alike = t[:1].expand(6, -1)
    assert float(contrast(alike, alike)) == pytest.approx(np.log(6), rel=1e-12)


def test_contrast_does_not_know_the_order_of_a_batch() -> None:
    s, t, order = unit(6, 4, seed=0), unit(6, 4, seed=1), torch.tensor([3, 1, 0, 5, 4, 2])
    torch.testing.assert_close(contrast(s[order], t[order]), contrast(s, t), rtol=1e-12, atol=0)


def test_projections_have_unit_length_and_ignore_positions() -> None:
    project = Projection(3, 8, torch.Generator().manual_seed(0)).double()
    x = draw(5, 3, 4, 2, seed=0)
    found = project(x)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5).double(), rtol=1e-9, atol=0)
    torch.testing.assert_close(project(x.flip(2)), found, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(project(x.mean((2, 3))), found, rtol=1e-9, atol=1e-12)


LOSSES = {
    "hint": (hint, (2, 3, 4)),
    "feature matching": (feature_matching, (2, 3, 4)),
    "attention transfer": (attention_transfer, (2, 3, 4)),
    "distances": (relation_distance, (5, 3)),
    "angles": (relation_angle, (5, 3)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_zero_when_equal_and_positive_otherwise(name) -> None:
    loss, shape = LOSSES[name]
    s, t = draw(*shape, seed=0), draw(*shape, seed=1)
    assert float(loss(t, t)) == pytest.approx(0, abs=1e-12)
    assert float(loss(s, t)) > 1e-3


@pytest.mark.parametrize("name", [*LOSSES, "contrast"])
def test_gradients(name) -> None:
    loss, shape = {**LOSSES, "contrast": (contrast, (5, 3))}[name]
    s, t = draw(*shape, seed=0).requires_grad_(), draw(*shape, seed=1)
    assert torch.autograd.gradcheck(lambda x: loss(x, t), (s,))


@pytest.mark.parametrize("make", [lambda g: Regressor(3, 5, g), lambda g: Projection(3, 5, g)])
def test_gradients_reach_what_is_learned_on_the_way(make) -> None:
    module, x = make(torch.Generator().manual_seed(0)).double(), draw(4, 3, 2, seed=0)
    names = [name for name, _ in module.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    values = [p.detach().requires_grad_() for p in module.parameters()]
    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *values))
