"""New weights in the place of trained ones: the same network, as if it had never been trained."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekit.graph.program import Program, rebuild

_WEIGHTED = ("linear", "conv", "lstm", "gru", "rnn", "bilinear")
_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")


def renew(program: Program, *, seed: int) -> Program:
    """Draw all weights anew; the graph stays.

    Weights and biases of linear, convolutional and recurrent layers are uniform in ±1/√fan-in (of
    recurrent ones ±1/√width), as torch's own begin; embeddings are standard normal; normalisations
    scale by 1 and shift by 0, and have seen nothing. Any other weight (a class token, a table of
    positions) is drawn from the normal distribution with the mean and the spread that it had.

    Args:
        program: the network; it is not changed.
        seed: of the new weights.
    """
    module = program.module()
    generator = torch.Generator().manual_seed(seed)
    done: set[int] = set()
    with torch.no_grad():
        for node in module.graph.nodes:
            if node.op == "call_function":
                _of_layer(module, node, generator, done)
        for value in module.parameters():
            if id(value) not in done and value.is_floating_point():
                spread = float(value.std(correction=0)) if value.numel() > 1 else 0.0
                mean = float(value.mean())
                value.copy_(torch.randn(value.shape, generator=generator) * spread + mean)
    return rebuild(module, like=program)


def _of_layer(module: GraphModule, node: Node, generator: torch.Generator, done: set[int]) -> None:
    """The weights of one layer, unless another layer that shares them came first."""
    kind = str(node.target).removeprefix("aten.").partition(".")[0]
    values = {name: tensor for name, tensor in _tensors(module, node) if id(tensor) not in done}
    if any(word in kind for word in _NORMS):
        parts = ("weight", "bias", "running_mean", "running_var")
        for tensor, start in zip(_read(module, node, parts), (1.0, 0.0, 0.0, 1.0), strict=True):
            if isinstance(tensor, Tensor):
                tensor.fill_(start)
    elif not values:
        return
    elif kind == "embedding":
        (nothing,) = _read(module, node, ("padding_idx",))
        for value in values.values():
            value.copy_(torch.randn(value.shape, generator=generator))
            if isinstance(nothing, int) and nothing >= 0:
                value[nothing] = 0  # it gets no gradient, so it would stay noise
    elif kind.startswith(_WEIGHTED):
        bound = _bound(kind, [t for t in values.values() if t.dim() > 1])
        for value in values.values():
            value.copy_((torch.rand(value.shape, generator=generator) * 2 - 1) * bound)
    else:
        return
    done.update(map(id, values.values()))


def _read(module: GraphModule, node: Node, wanted: tuple[str, ...]) -> list[Any]:
    """Arguments of an operator by name: tensors, numbers, or None where it has none."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    found = (given.get(name) for name in wanted)
    return [_value(module, n) if isinstance(n, Node) else n for n in found]


def _bound(kind: str, matrices: list[Tensor]) -> float:
    if not matrices:
        return 0.0
    if kind.startswith(("lstm", "gru", "rnn")):
        return 1 / math.sqrt(matrices[-1].shape[1])
    return 1 / math.sqrt(matrices[0][0].numel())


def _tensors(module: GraphModule, node: Node) -> list[tuple[str, Tensor]]:
    """The parameters that a node reads."""
    found: list[tuple[str, Tensor]] = []
    for source in node.all_input_nodes:
        value = _value(module, source)
        if isinstance(value, nn.Parameter):
            found.append((str(source.target), value))
    return found


def _value(module: GraphModule, node: Node) -> Tensor | None:
    if node.op != "get_attr":
        return None
    owner, _, leaf = str(node.target).rpartition(".")
    value = getattr(module.get_submodule(owner), leaf)
    return value if isinstance(value, Tensor) else None
