"""The train/eval switch and the device of a captured graph.

In a captured graph the mode is not an attribute of modules but an argument of operators (batch
norm, dropout, LSTM, GRU), and the device stands in factory operators; `module.train()` raises.
"""

from typing import Any

import torch
from torch.fx import GraphModule, Node

_FLAGS = ("training", "train")


def set_training(module: GraphModule, training: bool) -> None:
    """Switch batch norm, dropout and recurrent nodes of `module`, in place.

    Args:
        module: from `Program.module`; sub-graphs are switched too.
        training: True to train, False to evaluate.
    """
    for graph_module in _graph_modules(module):
        for node in graph_module.graph.nodes:
            if (place := training_argument(node)) is not None:
                _set_argument(node, place, training)
        graph_module.recompile()
    # nn.Module.train is blocked on exported modules, so the attribute is set itself.
    for child in module.modules():
        child.training = training


def training_argument(node: Node) -> tuple[int, str] | None:
    """Position and name of the argument that says whether `node` trains, None without one."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return None
    untracked = _without_statistics(node, target)
    for index, argument in enumerate(target._schema.arguments):
        if argument.name in _FLAGS and str(argument.type) == "bool" and not untracked:
            return index, argument.name
        if argument.name == "use_input_stats" and not untracked:
            return index, argument.name
    return None


def _without_statistics(node: Node, target: torch._ops.OpOverload) -> bool:
    """Whether a norm tracks no running statistics: it uses its input's in eval mode too."""
    for index, argument in enumerate(target._schema.arguments):
        if argument.name == "running_mean":
            given = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
            return given is None
    return False


def to_device(module: GraphModule, device: torch.device | str) -> None:
    """Move parameters, buffers, graph constants and the devices in factory nodes, in place."""
    device = torch.device(device)
    module.to(device)
    for graph_module in _graph_modules(module):
        for name, value in list(vars(graph_module).items()):
            if isinstance(value, torch.Tensor):
                setattr(graph_module, name, value.to(device))
        for node in graph_module.graph.nodes:
            node.args = tuple(_moved(a, device) for a in node.args)
            node.kwargs = {key: _moved(a, device) for key, a in node.kwargs.items()}
        graph_module.recompile()


def _graph_modules(module: GraphModule) -> list[GraphModule]:
    return [child for child in module.modules() if isinstance(child, GraphModule)]


def _moved(argument: Any, device: torch.device) -> Any:
    return device if isinstance(argument, torch.device) else argument


def _set_argument(node: Node, place: tuple[int, str], value: bool) -> None:
    index, name = place
    if index < len(node.args):
        node.update_arg(index, value)
    else:
        node.update_kwarg(name, value)
