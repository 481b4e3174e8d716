"""The last layer of a classifier, replaced by a new one for other classes."""

import math

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekit.errors import PassError, UsageError
from edgekit.graph.program import Program, module_path, output_nodes, rebuild

_LAYERS = ("linear", "conv1d", "conv2d", "conv3d")
_PASSING = (
    "view", "reshape", "flatten", "squeeze", "permute", "transpose", "contiguous", "clone",
    "softmax", "sigmoid", "mean", "pool", "dropout", "upsample", "to", "alias", "unsqueeze",
)  # fmt: skip


def replace_head(
    program: Program, output: str, classes: int, *, seed: int
) -> tuple[Program, tuple[str, ...]]:
    """Give a network a new last layer, for another number of classes.

    The layer is the linear or convolutional one that the output comes from, through nothing but
    reshapes, pooling, dropout and softmax. The new weights are uniform in ±1/sqrt(fan-in), as
    torch's own layers begin.

    Args:
        program: the network; it is not changed.
        output: the output's name.
        classes: how many the new layer answers with.
        seed: of the new weights.

    Returns:
        The network, and the names of the new layer's parameters.

    Raises:
        UsageError: no such layer can be found, or its weights are shared with another.
        PassError: the graph does not work with another number of classes.
    """
    index = [spec.name for spec in program.outputs].index(output)
    layer = _layer(output_nodes(program.exported)[index], output)
    module = program.module()
    names = _parameters(module, layer, program)
    generator = torch.Generator().manual_seed(seed)
    weight = module.get_parameter(names[0])
    bound = 1 / math.sqrt(weight[0].numel())
    for name in names:
        shape = (classes, *module.get_parameter(name).shape[1:])
        _put(module, name, (torch.rand(shape, generator=generator) * 2 - 1) * bound)
    try:
        found = rebuild(module, like=program)
    except Exception as e:
        raise PassError(
            f"The network does not work with {classes} classes: {str(e).splitlines()[0][:200]}",
            "Its code holds the number of classes: build it with the new number, and capture it.",
        ) from e
    shape = found.outputs[index].shape
    if classes not in shape:
        raise PassError(
            f"Output {output!r} has the shape {shape} with {classes} classes in its last layer.",
            "Its code holds the number of classes: build it with the new number, and capture it.",
        )
    return found, names


def _layer(node: Node, output: str) -> Node:
    while True:
        name = str(node.target).removeprefix("aten.").partition(".")[0]
        if name in _LAYERS:
            return node
        if not any(word in name for word in _PASSING) or not node.all_input_nodes:
            where = module_path(node) or node.name
            raise UsageError(
                f"Output {output!r} comes from {name} ({where}), and not from a layer of classes.",
                "Give the task the output with the logits: `output:`.",
            )
        node = node.all_input_nodes[0]


def _parameters(module: GraphModule, layer: Node, program: Program) -> tuple[str, ...]:
    """Names of a layer's weight and bias, which no other layer may use."""
    nodes = {node.name: node for node in module.graph.nodes}
    used = nodes[layer.name].all_input_nodes[1:]
    names = tuple(str(node.target) for node in used if node.op == "get_attr")
    shared = [n for n in names if any(n in group for group in program.ties)]
    shared += [str(n.target) for n in used if len(n.users) > 1]
    if not names or shared:
        raise UsageError(
            f"The last layer ({module_path(layer) or layer.name}) "
            + (f"shares {shared[0]} with another." if shared else "has no weights of its own."),
            "Build the network with a head of its own, and capture it.",
        )
    return names


def _put(module: GraphModule, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, nn.Parameter(value))
