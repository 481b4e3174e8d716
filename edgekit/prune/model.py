"""Predicts MACs and parameters from how many groups of each family stay.

Every cost is a sum of products of dimension sizes, so that thousands of plans can be compared
without building one. What the sum leaves out (operators without a rule, whose sizes are frozen) is
the difference from `edgekit.graph.cost` and stays constant.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.fx import Node

from edgekit.graph.cost import Cost
from edgekit.graph.equation import letters
from edgekit.graph.program import Program
from edgekit.prune.atoms import WINDOW, Fixed
from edgekit.prune.coupling import attribute
from edgekit.prune.families import Counts, Families
from edgekit.prune.registry import Op, Size

Factor = tuple[Any, Size]  # a dimension and its size


@dataclass(frozen=True)
class Polynomial:
    """Σ_t constant_t · Π_j size(row_tj): sizes of dimensions follow from the kept counts.

    Attributes:
        offset: added to the sum.
        constants: shape (terms,).
        rows: shape (terms, factors): rows of the dimension table; the last row is the number 1.
        base: shape (rows + 1,).
        share: shape (rows + 1, families).
    """

    offset: int
    constants: Counts
    rows: Counts
    base: Counts
    share: Counts

    def __call__(self, kept: Counts) -> int:
        """Value for the number of groups kept of each family, shape (families,)."""
        sizes = self.base + self.share @ kept
        return self.offset + int((self.constants * sizes[self.rows].prod(axis=1)).sum())


def macs_model(program: Program, families: Families, known: Cost) -> Polynomial:
    """MACs of one sample, equal to what `edgekit.graph.cost` counts."""
    sizes = _Sizes(program)
    terms: list[list[Factor]] = []
    for op, _ in families.coupling.ops:
        terms.extend(_terms(op))
    model = _polynomial(families, terms, sizes, 0)
    missing = known.macs - model(families.full())
    return Polynomial(missing, model.constants, model.rows, model.base, model.share)


def parameters_model(families: Families, known: Cost) -> Polynomial:
    """Elements of the trained tensors, tied ones counted once."""
    coupling = families.coupling
    terms: list[list[Factor]] = []
    for name, dims in coupling.tensors.items():
        tensor = attribute(coupling.module, name)
        if isinstance(tensor, nn.Parameter):
            terms.append(list(zip(dims, tensor.shape, strict=True)))
    model = _polynomial(families, terms, int, 0)
    missing = known.parameters - model(families.full())
    return Polynomial(missing, model.constants, model.rows, model.base, model.share)


def bytes_model(families: Families, known: int) -> Polynomial:
    """Bytes of the trained tensors and floating-point buffers, tied ones counted once."""
    coupling = families.coupling
    terms: list[list[Factor]] = []
    for name, dims in coupling.tensors.items():
        tensor: Tensor = attribute(coupling.module, name)
        if tensor.is_floating_point():
            width: Factor = (Fixed(WINDOW), tensor.element_size())
            terms.append([width, *zip(dims, tensor.shape, strict=True)])
    model = _polynomial(families, terms, int, 0)
    missing = known - model(families.full())
    return Polynomial(missing, model.constants, model.rows, model.base, model.share)


def weight_bytes(program: Program) -> int:
    """What `bytes_model` counts, of a program as it is."""
    repeated = {name for group in program.ties for name in group[1:]}
    tensors = {**program.exported.constants, **program.exported.state_dict}
    return sum(
        t.numel() * t.element_size()
        for name, t in tensors.items()
        if isinstance(t, Tensor) and t.is_floating_point() and name not in repeated
    )


def channels_model(families: Families) -> Polynomial:
    """Channels that can be removed at all and stay."""
    base = np.zeros(1, dtype=np.int64)
    share = np.array([[f.channels for f in families.families]], dtype=np.int64)
    one = np.ones(1, dtype=np.int64)
    return Polynomial(0, one, np.zeros((1, 1), dtype=np.int64), base, share)


def _polynomial(
    families: Families, terms: list[list[Factor]], number: Any, offset: int
) -> Polynomial:
    one = families.base.size
    rows, constants = [], []
    for factors in terms:
        constant, used = 1, []
        for dim, size in factors:
            row = families.row(dim)
            if row is None or not families.share[row].any():
                constant *= number(size)
            else:
                used.append(row)
        rows.append(used)
        constants.append(constant)
    longest = max((len(r) for r in rows), default=1)
    table = np.full((len(rows), max(longest, 1)), one, dtype=np.int64)
    for position, used in enumerate(rows):
        table[position, : len(used)] = used
    return Polynomial(
        offset,
        np.array(constants, dtype=np.int64),
        table,
        np.append(families.base, 1),
        np.vstack([families.share, np.zeros((1, families.share.shape[1]), dtype=np.int64)]),
    )


class _Sizes:
    """Dynamic sizes as numbers: the batch as 1, others as in the capture's example."""

    def __init__(self, program: Program) -> None:
        self.values = program.symbol_sizes()

    def __call__(self, size: Size) -> int:
        return size if isinstance(size, int) else int(size.node.expr.xreplace(self.values))


def _factors(op: Op, argument: str | Node, part: slice = slice(None)) -> list[Factor]:
    return list(zip(op.dims(argument), op.shape(argument), strict=True))[part]


def _terms(op: Op) -> list[list[Factor]]:
    """Products of dimensions whose sum is the operator's MACs; none for one that has no MACs."""
    kind = op.cause.removeprefix("aten.")
    out = op.values[op.node]
    result = list(zip(out, op.out_shape, strict=True)) if isinstance(out, tuple) else []
    names = list(op.arguments)
    if "transpose" in kind and kind.startswith("conv"):
        return [_factors(op, "input") + _factors(op, "weight", slice(1, None))]
    if kind.startswith("conv"):
        first = _factors(op, "input") if op.arguments.get("transposed") else result
        return [first + _factors(op, "weight", slice(1, None))]
    if kind == "linear":
        return [result + _factors(op, "weight", slice(-1, None))]
    if kind in ("mv", "dot"):
        return [_factors(op, names[0])]
    if kind in ("matmul", "mm", "bmm"):
        return [result + _factors(op, names[0], slice(-1, None))]
    if kind in ("addmm", "baddbmm"):
        return [result + _factors(op, names[1], slice(-1, None))]
    if kind == "scaled_dot_product_attention":
        rows = _factors(op, "query", slice(-1)) + _factors(op, "key", slice(-2, -1))
        last = slice(-1, None)
        return [rows + _factors(op, "query", last), rows + _factors(op, "value", last)]
    if kind == "einsum":
        return _einsum_terms(op)
    if kind in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        steps = _factors(op, "input", slice(-1))
        matrices = [w for w in op.arguments["params"] if len(op.shape(w)) == 2]
        return [steps + _factors(op, w) for w in matrices]
    if kind.endswith("_cell"):
        steps = _factors(op, "input", slice(-1))
        return [steps + _factors(op, name) for name in ("w_ih", "w_hh")]
    return []


def _einsum_terms(op: Op) -> list[list[Factor]]:
    tensors = op.arguments["tensors"]
    terms, _ = letters(str(op.arguments["equation"]), [len(op.shape(t)) for t in tensors])
    if len(terms) != 2:
        return []
    found: dict[str, Factor] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        for letter, factor in zip(term, _factors(op, tensor), strict=True):
            if letter not in found or found[letter][1] == 1:
                found[letter] = factor
    return [list(found.values())]
