"""A strict grammar for shape expressions, because torch hands them to `sympy.sympify`.

`sympify` evaluates Python. An expression of a `.pt2` file reaches it only when it is arithmetic on
dimension symbols, in the form that torch writes: `Mul(Integer(32), Symbol('s0', integer=True))`, or
the plain form `32*s0`.
"""

import ast
import re

_LIMIT = 4000
_DEPTH = 40
_SYMBOL = re.compile(r"(?:s|u|z|zf|zuf|zu)\d{1,9}")
_NUMERAL = re.compile(r"-?\d{1,40}(?:\.\d{0,60})?(?:e[+-]?\d{1,3})?")
_CALLS = frozenset({
    "Add", "Mul", "Pow", "Integer", "Rational", "Float", "Symbol", "Max", "Min", "Mod", "Abs",
    "floor", "ceiling", "sign", "Equality", "Eq", "Unequality", "Ne", "StrictLessThan", "Lt",
    "LessThan", "Le", "StrictGreaterThan", "Gt", "GreaterThan", "Ge", "And", "Or", "Not",
    "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt",
    "CeilDiv", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat",
    "TruncToInt", "RoundToInt", "ToFloat", "Identity", "IsNonOverlappingAndDenseIndicator",
})  # fmt: skip
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow"})
_CONSTANTS = frozenset({"oo", "int_oo", "true", "false", "True", "False"})
_FLAGS = frozenset({"positive", "negative", "nonnegative", "integer", "real", "zero", "nonzero"})


def is_shape_expression(text: str) -> bool:
    """Whether `text` is arithmetic on dimension symbols, and nothing else.

    >>> is_shape_expression("Mul(Integer(32), Symbol('s0', positive=True, integer=True))")
    True
    >>> is_shape_expression("__import__('os').system('id')")
    False
    """
    if len(text) > _LIMIT:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return _ok(tree.body, _DEPTH)


def _ok(node: ast.expr, depth: int) -> bool:
    if depth == 0:
        return False
    match node:
        case ast.Constant(value=bool() | float()):
            return True
        case ast.Constant(value=int(value)):
            return abs(value) < 2**63
        case ast.Name(id=name):
            return name in _CONSTANTS or _SYMBOL.fullmatch(name) is not None
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _ok(operand, depth - 1)
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            return _ok(base, depth - 1) and _is_small_power(base, exponent)
        case ast.BinOp(
            left=left,
            op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.FloorDiv() | ast.Mod(),
            right=right,
        ):
            return _ok(left, depth - 1) and _ok(right, depth - 1)
        case ast.Call():
            return _ok_call(node, depth)
    return False


def _ok_call(node: ast.Call, depth: int) -> bool:
    if not isinstance(node.func, ast.Name) or node.func.id not in _CALLS:
        return False
    name = node.func.id
    if name == "Symbol":
        return _is_symbol(node)
    if name == "Float":
        return _is_float(node)
    if node.keywords or not all(_ok(arg, depth - 1) for arg in node.args):
        return False
    if name in _POWERS:
        return len(node.args) == 2 and _is_small_power(*node.args)
    return True


def _is_symbol(node: ast.Call) -> bool:
    names = [a.value for a in node.args if isinstance(a, ast.Constant)]
    flags = all(
        k.arg in _FLAGS and isinstance(k.value, ast.Constant) and isinstance(k.value.value, bool)
        for k in node.keywords
    )
    return (
        len(node.args) == len(names) == 1
        and isinstance(names[0], str)
        and _SYMBOL.fullmatch(names[0]) is not None
        and flags
    )


def _is_float(node: ast.Call) -> bool:
    values = [a.value for a in node.args if isinstance(a, ast.Constant)]
    precise = all(
        k.arg == "precision" and isinstance(k.value, ast.Constant) and k.value.value == 53
        for k in node.keywords
    )
    return (
        len(node.args) == len(values) == 1
        and isinstance(values[0], str)
        and _NUMERAL.fullmatch(values[0]) is not None
        and precise
    )


def _is_small_power(base: ast.expr, exponent: ast.expr) -> bool:
    """A power that cannot blow up: a small constant exponent, and no power of a power."""
    nested = any(
        (isinstance(n, ast.BinOp) and isinstance(n.op, ast.Pow))
        or (isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in _POWERS)
        for n in ast.walk(base)
    )
    sign = 1
    if isinstance(exponent, ast.Call) and len(exponent.args) == 1:
        exponent = exponent.args[0]
    if isinstance(exponent, ast.UnaryOp):
        sign, exponent = -1, exponent.operand
    value = exponent.value if isinstance(exponent, ast.Constant) else None
    if isinstance(value, str):
        value = float(value)
    return not nested and isinstance(value, int | float) and -1 <= sign * value <= 4
