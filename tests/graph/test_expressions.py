"""Which text is a shape expression."""

import pytest

from edgekit.graph.expressions import is_shape_expression


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Add(Integer(-1), Mul(Integer(2), Symbol('s0', integer=True)))",
        "FloorDiv(Add(Symbol('s1'), Integer(3)), Integer(2))",
        "Pow(Symbol('s1', integer=True), Integer(2))",
        "Max(1, s0 - 2)",
        "32*s0",
        "Float('0.5', precision=53)",
        "-int_oo",
    ],
)
def test_real_shape_expressions_pass(text):
    assert is_shape_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "s0 if s1 else s2",
        "[s0 for s0 in s1]",
        "open('f')",
        "Symbol('__import__(1)')",
        "Float('1', precision=10**9)",
        "s0.args",
        "LShift(1, 10**9)",
        "(" * 500 + "s0" + ")" * 500,
        "+".join(["s0"] * 3000),
        "10**10**10",
        "99999999999999999999",
    ],
)
def test_other_expressions_do_not(text):
    assert not is_shape_expression(text)
