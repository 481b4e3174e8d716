"""Rules of recurrent layers: one unit is a row in each gate, and a column in each recurrent matrix.

An LSTM's matrices hold four gates one below the other, a GRU's three, a plain cell's one. Unit i is
row i of every gate; it is read back through column i of the recurrent matrix, and by the next
layer. With a unit's rows, columns and first state zero, nothing of it reaches another unit.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.prune.atoms import Dim, Dims, Fixed
from edgekit.prune.registry import Decline, Op, Value, rule

if TYPE_CHECKING:
    from torch.fx import Node

_GATES = {"lstm": 4, "gru": 3}


def _gates(op: Op) -> int:
    kind = op.cause.removeprefix("aten.").removesuffix("_cell")
    return _GATES.get(kind, 1)


def _unite_gates(op: Op, rows: Dim, unit: Dim, gates: int) -> None:
    """Couple every gate's rows with the units."""
    if isinstance(unit, Fixed) or isinstance(rows, Fixed):
        op.unite(rows, unit)
    else:
        op.unite(rows, np.tile(unit, gates))


def _couple_layer(op: Op, x: Dim, cell: Dim, state: Dim, weights: list[Dims], gates: int) -> None:
    """Couple one direction of one layer.

    Args:
        op: the operator.
        x: what the layer reads.
        cell: its units.
        state: what it hands on: the units, or what they are projected to.
        weights: input matrix, recurrent matrix, perhaps two biases, perhaps the projection.
        gates: rows of a matrix for each unit.
    """
    inward, recurrent, *rest = weights
    _unite_gates(op, inward[0], cell, gates)
    op.unite(x, inward[1])
    _unite_gates(op, recurrent[0], cell, gates)
    op.unite(recurrent[1], state)
    for dims in rest:
        if len(dims) == 1:
            _unite_gates(op, dims[0], cell, gates)
        else:
            op.unite(dims[0], state)
            op.unite(dims[1], cell)


def _joined(parts: list[Dim]) -> Dim:
    ids = [part for part in parts if not isinstance(part, Fixed)]
    return np.concatenate(ids) if len(ids) == len(parts) > 1 else parts[0]


def _stay_apart(op: Op, state: Dim, cell: Dim) -> None:
    """Keep more units than they are projected to: equal numbers mean to PyTorch no projection.

    Unit i goes with entry i of the state. Of the units beyond one always stays, as of any width.
    """
    units, entries = op.ids(cell, 0), op.ids(state, 0)
    op.unite(units[: entries.size], entries)


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(op: Op) -> Value:
    """Stacked, bidirectional, with or without projection.

    All layers and directions keep their first states in one tensor, so they lose the same units.
    """
    if "input" not in op.arguments or not isinstance(op.arguments.get("params"), list | tuple):
        raise Decline  # packed sequences
    states = op.arguments["hx"]
    hx: list[Node] = list(states) if isinstance(states, list | tuple) else [states]
    state_dims = [op.dims(h) for h in hx]
    if any(isinstance(d[-1], Fixed) for d in state_dims):
        raise Decline
    x, state, cell = op.dims("input"), state_dims[0][-1], state_dims[-1][-1]
    projected = op.shape(hx[0])[-1] != op.shape(hx[-1])[-1]
    if projected:
        _stay_apart(op, state, cell)
    else:
        op.unite(state, cell)
    op.freeze(x[:-1])
    for dims in state_dims:
        op.freeze(dims[:-1])
    params: list[Any] = [op.dims(p) for p in op.arguments["params"]]
    directions = 2 if op.arguments["bidirectional"] else 1
    each = len(params) // (directions * int(op.arguments["num_layers"]))
    below = x[-1]
    for first in range(0, len(params), each * directions):
        for start in range(first, first + each * directions, each):
            weights = params[start : start + each]
            _couple_layer(op, below, cell, state, weights, _gates(op))
        below = _joined([state] * directions)
    return [(*x[:-1], below), *state_dims]


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(op: Op) -> Value:
    """One step of one layer."""
    states = op.arguments["hx"]
    hx: list[Node] = list(states) if isinstance(states, list | tuple) else [states]
    state_dims = [op.dims(h) for h in hx]
    x, unit = op.dims("input"), state_dims[0][-1]
    if isinstance(unit, Fixed):
        # The first state is an input of the network: it names the units.
        op.freeze([d for name in ("w_ih", "w_hh") for d in op.dims(name)])
        op.freeze(x[-1])
    for dims in state_dims:
        op.unite(*(d for pair in zip(x[:-1], dims[:-1], strict=True) for d in pair))
    for dims in state_dims[1:]:
        op.unite(unit, dims[-1])
    names = [n for n in ("w_ih", "w_hh", "b_ih", "b_hh") if op.arguments.get(n) is not None]
    _couple_layer(op, x[-1], unit, unit, [op.dims(n) for n in names], _gates(op))
    return state_dims if len(state_dims) > 1 else state_dims[0]
