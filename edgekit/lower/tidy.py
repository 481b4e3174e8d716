"""Making an ONNX graph plain: the forms that runtimes fuse and quantizers see.

Quantizers skip weights that sit in Constant nodes, runtimes have no integer kernel for a mean over
the pixels written as ReduceMean, and exporters leave stack traces and doc strings that hold paths
of the machine they ran on. The passes of onnxscript and onnx-ir do the work; the order and the
rules that they lack are here.
"""

from string import ascii_lowercase
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_SPATIAL = [2, 3]


def tidy(model: "ir.Model") -> None:
    """Clean a graph in place; it computes the same.

    Folds constants and batch norm (W' = W·s, b' = (b - mean)·s + beta, s = gamma/√(var + eps)),
    turns Constant nodes into initializers, merges equal tensors and equal nodes, drops what nothing
    reads, writes means over the pixels as GlobalAveragePool, and equations of Einsum in small
    letters.

    Args:
        model: with functions or without; any opset from 13.
    """
    from onnx_ir.passes import Sequential, common
    from onnxscript import optimizer

    optimizer.optimize(model)
    pool_means(model)
    spell_equations(model)
    _lay_out(model)
    Sequential(
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.IdentityEliminationPass(),
        common.DeduplicateHashedInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.OutputFixPass(),
        common.TopologicalSortPass(),
    )(model)


def _lay_out(model: "ir.Model") -> None:
    """Make strided tensors (a transposed weight) contiguous: onnx-ir's hashing needs that."""
    import onnx_ir as ir

    for value in model.graph.initializers.values():
        if value.const_value is None:
            continue
        array = value.const_value.numpy()
        if not array.flags.c_contiguous:
            value.const_value = ir.tensor(np.ascontiguousarray(array), name=value.name)


def pool_means(model: "ir.Model") -> int:
    """Write each mean over the pixels of an NCHW tensor as GlobalAveragePool, in place.

    Runtimes have integer kernels for the pooling operator and none for ReduceMean.

    Returns:
        How many were rewritten.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type == "ReduceMean" and node.domain == "" and _over_pixels(node):
            _pool(node)
            count += 1
    return count


def spell_equations(model: "ir.Model") -> int:
    """Write Einsum's equations in small letters and without spaces, in place.

    ONNX allows both; TensorRT's parser takes neither.

    Returns:
        How many were rewritten.
    """
    import onnx_ir as ir

    count = 0
    for node in model.graph:
        if node.op_type != "Einsum" or node.domain != "":
            continue
        before = node.attributes["equation"].as_string()
        after = before.replace(" ", "")
        letters = list(dict.fromkeys(filter(str.isalpha, after)))
        if any(map(str.isupper, letters)) and len(letters) <= len(ascii_lowercase):
            after = after.translate(
                str.maketrans(dict(zip(letters, ascii_lowercase, strict=False)))
            )
        if after != before:
            node.attributes["equation"] = ir.AttrString("equation", after)
            count += 1
    return count


def _over_pixels(node: "ir.Node") -> bool:
    x = node.inputs[0]
    if x is None or x.shape is None or len(x.shape) != 4:
        return False
    axes = _axes(node)
    return axes is not None and sorted(a % 4 for a in axes) == _SPATIAL


def _axes(node: "ir.Node") -> list[int] | None:
    if (attribute := node.attributes.get("axes")) is not None:
        return [int(a) for a in attribute.as_ints()]
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return None
    value = node.inputs[1].const_value
    return None if value is None else [int(a) for a in value.numpy().reshape(-1)]


def _pool(node: "ir.Node") -> None:
    import onnx_ir as ir

    if node.graph is None:
        return
    out = node.outputs[0]
    keep = node.attributes.get("keepdims")
    pooled = ir.node("GlobalAveragePool", [node.inputs[0]])
    new = [pooled]
    if keep is not None and keep.as_int() == 0:
        # Reshape, not Flatten: ONNX Runtime moves integers through the one and not the other.
        shape = ir.Value(
            name=f"{out.name}.shape", const_value=ir.tensor(np.array([0, -1], "int64"))
        )
        node.graph.register_initializer(shape)
        new.append(ir.node("Reshape", [pooled.outputs[0], shape]))
    for made in new:
        made.metadata_props.update(node.metadata_props)
    ir.convenience.replace_nodes_and_values(
        node.graph, node, [node], new, [out], [new[-1].outputs[0]]
    )


def strip(proto: "onnx.ModelProto") -> None:
    """Drop in place what is no part of the computation: doc strings, metadata, inferred shapes.

    Shapes of inner tensors are inferred again by whoever wants them. The producer is kept.
    """
    proto.ClearField("doc_string")
    proto.ClearField("metadata_props")
    proto.ClearField("training_info")
    _strip_graph(proto.graph)
    for function in proto.functions:
        function.ClearField("doc_string")
        function.ClearField("metadata_props")
        function.ClearField("value_info")
        _strip_nodes(function.node)


def _strip_graph(graph: "onnx.GraphProto") -> None:
    for field in ("doc_string", "metadata_props", "value_info"):
        graph.ClearField(field)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    _strip_nodes(graph.node)


def _strip_nodes(nodes: "list[onnx.NodeProto]") -> None:
    for node in nodes:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            if attribute.HasField("g"):
                _strip_graph(attribute.g)
            for graph in attribute.graphs:
                _strip_graph(graph)
