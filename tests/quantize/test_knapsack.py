"""The knapsack against brute force."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.quantize import knapsack
from edgekit.quantize.knapsack import Option, solve

figures = st.floats(0, 100, allow_nan=False)
options = st.builds(Option, name=st.just("x"), cost=figures, loss=figures)
problems = st.lists(st.lists(options, min_size=1, max_size=3), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(layers=problems, share=st.floats(0, 1.2))
def test_it_is_the_best_of_all_choices(layers: list[list[Option]], share: float) -> None:
    budget = share * sum(max(o.cost for o in each) for each in layers)
    fitting = [c for c in product(*layers) if sum(o.cost for o in c) <= budget]
    found = solve(layers, budget)
    if found is None:
        assert not fitting or min(sum(o.cost for o in c) for c in fitting) == pytest.approx(budget)
        return
    chosen = [each[i] for each, i in zip(layers, found.options, strict=True)]
    assert found.cost == pytest.approx(sum(o.cost for o in chosen))
    assert found.cost <= budget * (1 + 1e-9) + 1e-9
    if fitting:
        best = min(sum(o.loss for o in c) for c in fitting)
        assert found.loss <= best + 1e-6
        assert found.loss == pytest.approx(sum(o.loss for o in chosen))


def test_a_layer_may_cost_less_than_nothing() -> None:
    layers = [[Option("float32", 0.0, 0.0), Option("int8", -2.0, 1.0)]] * 2
    found = solve(layers, -2.0)
    assert found is not None
    assert sorted(found.options) == [0, 1]
    assert solve(layers, -5.0) is None


def test_many_layers_are_solved_on_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knapsack, "STATES", 50)
    layers = [
        [Option("float32", 3 + i * 0.37 % 1, 0.0), Option("int8", 1.0, 1 + i * 0.73 % 1)]
        for i in range(40)
    ]
    found = solve(layers, 80.0)
    monkeypatch.undo()
    exact = solve(layers, 80.0)
    assert found is not None
    assert exact is not None
    assert found.cost <= 80.0 + 1e-9
    assert exact.loss <= found.loss <= exact.loss * 1.1
