"""Einstein's notation against NumPy's own reading of it."""

import numpy as np
import pytest

from edgekit.graph.equation import letters


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bi,oi->bo", [(2, 3), (4, 3)]),
        ("b i , o i", [(2, 3), (4, 3)]),
        ("...i,oi", [(2, 5, 3), (4, 3)]),
        ("...i,...i->...", [(2, 5, 3), (5, 3)]),
        ("i...,ji...->j...", [(3, 2), (4, 3, 2)]),
        ("bhqd,bhkd->bhqk", [(1, 2, 3, 4), (1, 2, 5, 4)]),
        ("ij", [(2, 3)]),
        ("ba", [(2, 3)]),
        ("...,...->...", [(), (2,)]),
    ],
)
def test_spelt_out_it_means_the_same(equation, shapes):
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(s) for s in shapes]
    terms, right = letters(equation, [len(s) for s in shapes])
    assert all(len(t) == a.ndim for t, a in zip(terms, arrays, strict=True))
    spelt = f"{','.join(terms)}->{right}"
    np.testing.assert_allclose(np.einsum(spelt, *arrays), np.einsum(equation, *arrays))


@pytest.mark.parametrize("equation", ["bi->b", "bij,oi->bo", "bi,oi,x->bo"])
def test_what_does_not_fit_is_refused(equation):
    with pytest.raises(ValueError, match="->"):
        letters(equation, [2, 2])
