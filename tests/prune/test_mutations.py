"""Every rule with a fault planted in it, in turn: the oracle, or the smaller graph itself, tells.

Without these tests the oracle could be blind: equal outputs prove a rule only where a wrong one
would give others.
"""

import pytest
from operator_cases import CASES, ELEMENTWISE
from operators import TOLERANCE, Fault, Lab

from edgekit.prune import coupling
from edgekit.prune.registry import RULES

NAMES = sorted(name.removeprefix("aten::") for name in RULES)

# Dimensions along which all elements are alike: which of them goes cannot matter.
ALIKE = {
    **{name: {0, 1} for name in (
        "zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like",
        "full_like", "expand", "repeat",
    )},
    "expand_as": {0},
}  # fmt: skip


def surviving(name, cases):
    """Faults that nothing finds, by the case's number; a rewrite must matter in one case."""
    left, rewrites = [], []
    for number, case in enumerate(cases):
        lab = Lab(name, case)
        assert lab.has_the_operator(), f"case {number} has no {name}"
        assert lab.removed() > 1, f"nothing can go in case {number} of {name}"
        assert max(lab.errors()) <= TOLERANCE, f"the rule of {name} is wrong in case {number}"
        for fault in lab.places():
            if fault.kind == "shift" and fault.number in ALIKE.get(name, ()):
                continue
            caught = lab.is_caught(fault)
            if fault == Fault("rewrite"):
                rewrites.append(caught)
            elif not caught:
                left.append((number, str(fault)))
    return left + ["the rewrite"] * (rewrites != [] and not any(rewrites))


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_in_a_rule_is_found(name):
    assert name in CASES, (
        f"The rule of {name} has no case: add one to operator_cases.py whose every fault shows."
    )
    assert surviving(name, CASES[name]) == []


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_fault_in_the_rule_of_element_wise_operators_is_found(name, monkeypatch):
    monkeypatch.setitem(RULES, f"aten::{name}", coupling._POINTWISE)
    assert surviving(name, [ELEMENTWISE[name]]) == []


def test_no_case_is_for_nothing():
    assert set(CASES) == set(NAMES)
