"""Attention over tensors of three, five or more dimensions, in the form that exporters know.

torch computes scaled-dot-product attention over any number of leading dimensions; its ONNX exporter
translates four dimensions (batch, heads, positions, head size) only. All that comes before the
heads is a batch, so it can be flattened into one, or made up where it is missing.
"""

import copy
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature
from torch.fx import Graph, Node

from edgekit.graph.functionalise import propagate

aten = torch.ops.aten
_RANK = 4


def in_four_dimensions(exported: ExportedProgram) -> ExportedProgram:
    """Rewrite every attention so that its operands have four dimensions.

    Args:
        exported: not changed.

    Returns:
        the same program where there is nothing to rewrite, else another one with the same tensors.
    """
    if not any(_is_unusual(node) for node in exported.graph.nodes):
        return exported
    graph = Graph()
    graph.output(graph.graph_copy(exported.graph, {}))
    for node in list(graph.nodes):
        if _is_unusual(node):
            _rewrite(node)
    graph.lint()
    signature = copy.deepcopy(exported.graph_signature)
    _rename_outputs(graph, signature)
    return ExportedProgram(
        root=exported.graph_module,
        graph=graph,
        graph_signature=signature,
        state_dict=exported.state_dict,
        range_constraints=exported.range_constraints,
        module_call_graph=exported.module_call_graph,
        constants=exported.constants,
    )


def _rename_outputs(graph: Graph, signature: ExportGraphSignature) -> None:
    returned: Any = graph.output_node().args[0]
    for spec, value in zip(signature.output_specs, returned, strict=True):
        if isinstance(value, Node):
            spec.arg.name = value.name


def _is_unusual(node: Node) -> bool:
    if node.target is not aten.scaled_dot_product_attention.default:
        return False
    query, key, value = (a.meta["val"] for a in node.args[:3])  # type: ignore[union-attr]
    # Operands that broadcast would have to be expanded first: torch's exporter names them.
    same = query.shape[:-3] == key.shape[:-3] == value.shape[:-3]
    return bool(query.dim() != _RANK and same)


def _rewrite(node: Node) -> None:
    query: Any = node.args[0]
    shape = query.meta["val"].shape
    with node.graph.inserting_before(node):
        lead = [_size(query, axis) for axis in range(len(shape) - 2)]
        operands = [_merged(a) for a in node.args[:3]]
        mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
        if isinstance(mask, Node) and mask.meta["val"].dim() > 2:
            whole = _emit(node.graph, aten.expand.default, mask, [*lead, -1, -1])
            mask = _merged(whole)
    kwargs = dict(node.kwargs)
    kwargs.pop("attn_mask", None)
    with node.graph.inserting_after(node):
        args = (*operands, mask, *node.args[4:])
        made = _emit(node.graph, node.target, *args, like=node, **kwargs)
    with node.graph.inserting_after(made):
        node.replace_all_uses_with(_parted(made, lead[:-1], node))
    node.graph.erase_node(node)


def _merged(node: Any) -> Any:
    """All that comes before the last three dimensions as one."""
    rank = node.meta["val"].dim()
    if rank > _RANK:
        return _emit(node.graph, aten.flatten.using_ints, node, 0, rank - _RANK)
    for _ in range(_RANK - rank):
        node = _emit(node.graph, aten.unsqueeze.default, node, 0)
    return node


def _parted(made: Node, lead: list[Any], like: Node) -> Node:
    """The reverse: `lead` are the dimensions before the heads."""
    rank = like.meta["val"].dim()
    if rank > _RANK:
        return _emit(made.graph, aten.unflatten.int, made, 0, lead, like=like)
    for _ in range(_RANK - rank):
        made = _emit(made.graph, aten.squeeze.dim, made, 0, like=like)
    return made


def _size(node: Node, axis: int) -> Any:
    """A size as a number, or as a node where it is dynamic."""
    size = node.meta["val"].shape[axis]
    return size if isinstance(size, int) else _emit(node.graph, aten.sym_size.int, node, axis)


def _emit(graph: Graph, target: Any, *args: Any, like: Node | None = None, **kwargs: Any) -> Node:
    node = graph.call_function(target, args, kwargs)
    source = like or args[0]
    node.meta = {k: v for k, v in source.meta.items() if k not in {"val", "tensor_meta"}}
    node.meta["val"] = propagate(target, args, kwargs)
    return node
