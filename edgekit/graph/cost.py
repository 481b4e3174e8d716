"""What a program costs: multiply-accumulates (MACs) and parameters.

A MAC is one multiplication with its addition; biases, activations and normalisations are not
counted, as in the literature that reports MACs.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.fx import Node

from edgekit.graph.equation import letters
from edgekit.graph.macs import Cost as Cost
from edgekit.graph.program import Program, module_path

aten = torch.ops.aten


def cost(program: Program) -> Cost:
    """Count a program's MACs and parameters.

    The batch dimension counts as 1; other dynamic dimensions as in the example of the capture. A
    program whose batch is static is counted as it is.

    Args:
        program: any.

    Returns:
        The cost; `by_layer` is keyed by the user's module paths, or by the graph node's name for
        operators of the outermost module.
    """
    sizes = _Sizes(program)
    layers: dict[str, list[int]] = {}
    uncounted: list[str] = []
    for node in program.exported.graph.nodes:
        if isinstance(node.target, HigherOrderOperator):
            uncounted.append(module_path(node) or node.name)  # how often it runs is not known
        rule = _RULES.get(node.target) if node.op == "call_function" else None
        if rule is None:
            continue
        key = module_path(node) or node.name
        try:
            macs = rule(node, sizes)
        except (KeyError, TypeError, ValueError):
            uncounted.append(key)
            continue
        layers.setdefault(key, [0, 0])[0] += macs
    for name, tensor in _parameters(program).items():
        layers.setdefault(name.rpartition(".")[0] or name, [0, 0])[1] += tensor.numel()
    return Cost(
        macs=sum(m for m, _ in layers.values()),
        parameters=sum(p for _, p in layers.values()),
        by_layer={name: (m, p) for name, (m, p) in layers.items()},
        uncounted=tuple(uncounted),
    )


def _parameters(program: Program) -> dict[str, Tensor]:
    repeated = {name for group in program.ties for name in group[1:]}
    return {n: p for n, p in program.exported.named_parameters() if n not in repeated}


class _Sizes:
    """Sizes of the graph's tensors with the batch at 1."""

    def __init__(self, program: Program) -> None:
        self.values = program.symbol_sizes()

    def __call__(self, node: Any) -> list[int]:
        return [self.of(size) for size in node.meta["val"].shape]

    def of(self, size: int | torch.SymInt) -> int:
        if isinstance(size, int):
            return size
        return int(size.node.expr.xreplace(self.values))


def _convolution(node: Node, sizes: _Sizes) -> int:
    weight = sizes(node.args[1])
    return math.prod(sizes(node)) * math.prod(weight[1:])


def _transposed(node: Node, sizes: _Sizes) -> int:
    weight = sizes(node.args[1])
    return math.prod(sizes(node.args[0])) * math.prod(weight[1:])


def _any_convolution(node: Node, sizes: _Sizes) -> int:
    return (_transposed if node.args[6] else _convolution)(node, sizes)


def _linear(node: Node, sizes: _Sizes) -> int:
    return math.prod(sizes(node)) * sizes(node.args[1])[-1]


def _product(node: Node, sizes: _Sizes) -> int:
    return math.prod(sizes(node)) * sizes(node.args[0])[-1]


def _vector(node: Node, sizes: _Sizes) -> int:
    return math.prod(sizes(node.args[0]))


def _added_product(node: Node, sizes: _Sizes) -> int:
    return math.prod(sizes(node)) * sizes(node.args[1])[-1]


def _recurrent(node: Node, sizes: _Sizes) -> int:
    """Every weight matrix is used once for each sample and time step."""
    steps = math.prod(sizes(node.args[0])[:-1])
    weights: Any = node.args[2]
    shapes = [sizes(weight) for weight in weights]
    return steps * sum(math.prod(shape) for shape in shapes if len(shape) == 2)


def _cell(node: Node, sizes: _Sizes) -> int:
    samples = math.prod(sizes(node.args[0])[:-1])
    return samples * (math.prod(sizes(node.args[2])) + math.prod(sizes(node.args[3])))


def _attention(node: Node, sizes: _Sizes) -> int:
    """QKᵀ and the product with V: shapes (..., L, E), (..., S, E), (..., S, Ev)."""
    query, key, value = (sizes(argument) for argument in node.args[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _einsum(node: Node, sizes: _Sizes) -> int:
    equation, operands = node.args
    tensors: Any = operands
    shapes = [sizes(tensor) for tensor in tensors]
    terms, _ = letters(str(equation), [len(shape) for shape in shapes])
    if len(terms) != 2:
        raise ValueError(equation)
    found: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, size in zip(term, shape, strict=True):
            found[letter] = max(size, found.get(letter, 1))
    return math.prod(found.values())


_RULES: dict[Any, Callable[[Node, _Sizes], int]] = {
    aten.conv1d.default: _convolution,
    aten.conv1d.padding: _convolution,
    aten.conv2d.default: _convolution,
    aten.conv2d.padding: _convolution,
    aten.conv3d.default: _convolution,
    aten.conv3d.padding: _convolution,
    aten.convolution.default: _any_convolution,
    aten.conv_transpose1d.default: _transposed,
    aten.conv_transpose2d.input: _transposed,
    aten.conv_transpose3d.input: _transposed,
    aten.linear.default: _linear,
    aten.matmul.default: _product,
    aten.mm.default: _product,
    aten.bmm.default: _product,
    aten.mv.default: _vector,
    aten.dot.default: _vector,
    aten.addmm.default: _added_product,
    aten.baddbmm.default: _added_product,
    aten.einsum.default: _einsum,
    aten.lstm.input: _recurrent,
    aten.gru.input: _recurrent,
    aten.rnn_tanh.input: _recurrent,
    aten.rnn_relu.input: _recurrent,
    aten.lstm_cell.default: _cell,
    aten.gru_cell.default: _cell,
    aten.rnn_tanh_cell.default: _cell,
    aten.rnn_relu_cell.default: _cell,
    aten.scaled_dot_product_attention.default: _attention,
}
