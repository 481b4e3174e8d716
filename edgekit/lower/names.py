"""Names that people know: nodes are called after the modules of the user's own network.

A node is named `path/Operator`, where `path` is the module path (`layers.0.conv1`), so that
profiles, engine layers and quantizer patterns speak of the user's layers in every later tool
without a table beside the file. Inner tensors are called as the node that makes them; no inner name
can equal the name of an input or output (torch's exporter writes such a file without a word, and it
is invalid).
"""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit.errors import PassError
from edgekit.graph.onnx_names import unique

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from edgekit.artifact import TensorSpec

_SCOPES = "pkg.torch.onnx.name_scopes"
_FX_NODE = "pkg.torch.onnx.fx_node"
_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
_ANONYMOUS = re.compile(r"(val|const|anonymous)_\w+|\W*|.*\.shape")
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def module_of(node: "ir.Node", name_map: Mapping[str, str], parameters: set[str]) -> str:
    """The path of the user's module that a node came from; empty for the outermost module.

    Args:
        node: with the metadata that torch's exporter leaves.
        name_map: graph node name to module path.
        parameters: names in the program's state dict.
    """
    if node.op_type in _WEIGHTED:
        for value in node.inputs[1:2]:
            if value is not None and value.name in parameters and "." in str(value.name):
                return str(value.name).rsplit(".", 1)[0]
    found = re.match(r"%(\w+)", node.metadata_props.get(_FX_NODE, ""))
    if found is not None and name_map.get(found[1], _NO_MODULE) != _NO_MODULE:
        return name_map[found[1]]
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    path = str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""
    return "" if path == _NO_MODULE else path


def rename(
    model: "ir.Model",
    inputs: Sequence["TensorSpec"],
    outputs: Sequence["TensorSpec"],
    modules: Mapping["ir.Node", str],
) -> dict[str, str]:
    """Give inputs and outputs their names and shapes, and every node its module's, in place.

    Args:
        model: as exported.
        inputs: what goes in, in order.
        outputs: what comes out, in order.
        modules: node to module path.

    Returns:
        Node name to module path, for nodes inside a named module.

    Raises:
        PassError: the graph has other inputs or outputs than the program.
    """
    graph = model.graph
    _check_count("inputs", graph.inputs, inputs)
    _check_count("outputs", graph.outputs, outputs)
    taken = {spec.name for spec in (*inputs, *outputs)}
    if len(taken) < len(inputs) + len(outputs):
        raise PassError(
            f"Two of the network's inputs and outputs share a name: {sorted(taken)}.",
            "Give each input and output a name of its own.",
        )
    ends = {*graph.inputs, *graph.outputs}
    _rename_initializers(graph, taken)
    names = _rename_nodes(model, modules, taken, ends)
    _name_constants(model, taken)
    for index, value in enumerate(ends):  # out of the way first: names may be swapped
        value.name = f"edgekit.end.{index}"
    for value, spec in zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True):
        _name_end(value, spec)
    return names


def _name_end(value: "ir.Value", spec: "TensorSpec") -> None:
    import onnx_ir as ir

    value.name = spec.name
    value.shape = ir.Shape(spec.shape)


def _check_count(what: str, values: Sequence["ir.Value"], specs: Sequence["TensorSpec"]) -> None:
    if len(values) != len(specs):
        raise PassError(
            f"The exported graph has {len(values)} {what}, the program {len(specs)}: "
            f"{', '.join(s.name for s in specs)}.",
            "Remove inputs that the network does not read, and outputs that are constants.",
        )


def _rename_initializers(graph: "ir.Graph", taken: set[str]) -> None:
    for value in list(graph.initializers.values()):
        name = str(value.name)
        if _ANONYMOUS.fullmatch(name):
            continue
        if name.endswith(".weight_bias"):  # what the batch-norm fusion calls a bias it made
            name = name.removesuffix("weight_bias") + "bias"
            name = str(value.name) if name in graph.initializers else name
        name = unique(name, taken)
        if name != value.name:
            value.name = name


def _name_constants(model: "ir.Model", taken: set[str]) -> None:
    """Call what the exporter numbered (`val_12`) after the first node that reads it."""
    for node in model.graph.all_nodes():
        for index, value in enumerate(node.inputs):
            if (
                value is not None
                and value.is_initializer()
                and _ANONYMOUS.fullmatch(str(value.name))
            ):
                value.name = unique(f"{node.name}.{index}", taken)


def _rename_nodes(
    model: "ir.Model", modules: Mapping["ir.Node", str], taken: set[str], ends: set["ir.Value"]
) -> dict[str, str]:
    names: dict[str, str] = {}
    nodes = list(model.graph.all_nodes())
    for index, node in enumerate(nodes):  # old names must not stand in a new one's way
        for output in node.outputs:
            if output.name and output not in ends:
                output.name = f"edgekit.inner.{index}.{output.index()}"
    used: set[str] = set()
    for node in nodes:
        path = modules.get(node, "")
        node.name = unique(f"{path}/{node.op_type}" if path else node.op_type, used)
        if path:
            names[node.name] = path
        for output in node.outputs:
            if not output.name or output in ends:
                continue
            suffix = f"/{output.index()}" if len(node.outputs) > 1 else ""
            output.name = unique(node.name + suffix, taken)
    return names


def layer_of(node: "onnx.NodeProto") -> str:
    """The user's module that a node came from, read from the file; empty where nothing says it.

    edgekit names nodes `path/Operator`; torch's exporters leave their scopes in the metadata, or
    name nodes `/layers/0/conv1/Conv`.
    """
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            try:
                scopes = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError):
                break
            inner = isinstance(scopes, list) and len(scopes) > 1
            return str(scopes[-2]) if inner and scopes[-2] != _NO_MODULE else ""
    path, slash, last = node.name.rpartition("/")
    if slash and last.startswith(node.op_type):
        return path.strip("/").replace("/", ".")
    return ""
