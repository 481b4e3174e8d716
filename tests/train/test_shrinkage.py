"""Sparse training: each step against its formula, and whole groups that end at zero."""

import pytest
import torch
from torch import nn

from edgekit.train.shrinkage import Member, Shrinkage

ROWS = torch.tensor([0, 1, 2, -1])


def weights():
    torch.manual_seed(0)
    return {"a": nn.Parameter(torch.randn(4, 5)), "b": nn.Parameter(torch.randn(3, 4))}


# Row i of `a` and column i of `b` are group i; the last row and column belong to none.
MEMBERS = [Member("a", 0, ROWS), Member("b", 1, ROWS)]


def test_the_group_lasso_shortens_each_group_and_keeps_its_direction():
    named = weights()
    before = {n: p.detach().double() for n, p in named.items()}
    Shrinkage("group-l2", 2.0, MEMBERS, named).apply(0.1)
    for i in range(3):
        old = torch.cat([before["a"][i], before["b"][:, i]])
        new = torch.cat([named["a"].detach()[i], named["b"].detach()[:, i]]).double()
        wanted = old * (1 - 0.1 * 2.0 * 8**0.5 / old.norm())
        torch.testing.assert_close(new, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(named["a"][3].double(), before["a"][3])
    assert torch.equal(named["b"][:, 3].double(), before["b"][:, 3])


def test_a_group_that_is_shorter_than_a_step_is_zero_and_stays():
    named = weights()
    with torch.no_grad():
        named["a"][1], named["b"][:, 1] = 1e-3, 0.0
    pull = Shrinkage("group-l2", 1.0, MEMBERS, named)
    for _ in range(2):
        pull.apply(0.01)
        assert not named["a"][1].any()
        assert all(torch.isfinite(p).all() for p in named.values())


def test_the_l1_norm_thresholds_each_weight_of_a_group():
    named = weights()
    before = named["a"].detach().clone()
    Shrinkage("group-l1", 3.0, MEMBERS, named).apply(0.1)
    wanted = nn.functional.softshrink(before, 0.3)
    wanted[3] = before[3]
    torch.testing.assert_close(named["a"].detach(), wanted)


@pytest.mark.parametrize("kind", ["group-l2", "group-l1"])
def test_a_weight_in_two_groups(kind):
    named = {"w": nn.Parameter(torch.ones(2, 3))}
    members = [
        Member("w", 0, torch.tensor([0, -1])), Member("w", 1, torch.tensor([-1, -1, 1]))
    ]  # fmt: skip
    Shrinkage(kind, 1.0, members, named).apply(0.1)
    assert named["w"][1, 0] == 1
    if kind == "group-l1":
        torch.testing.assert_close(named["w"].detach(), torch.tensor([[0.9] * 3, [1.0, 1.0, 0.9]]))
    else:
        torch.testing.assert_close(
            named["w"].detach(), torch.tensor([[0.9, 0.9, 0.81], [1.0, 1.0, 0.9]])
        )
