"""The user's own names for the nodes of an ONNX file.

edgekit's exports call a node `path/Operator`, where `path` is the module's in the user's network.
torch's exporter leaves the path in the node's metadata. In any other file, the node's name is the
only one that its user has seen.
"""

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

PRODUCER = "edgekit"
SCOPES = "pkg.torch.onnx.name_scopes"
LONGEST = 10_000
_QUANTIZERS = ("/Q", "/DQ")


def layer_names(model: "onnx.ModelProto") -> dict[str, str]:
    """Node to the layer that it belongs to.

    Args:
        model: any.

    Returns:
        By node name (where it has none, by the name of its first output) the path of the user's
        module, or the node's name where nothing tells of modules.
    """
    own = model.producer_name == PRODUCER
    found = {}
    for node in model.graph.node:
        name = node.name or next((output for output in node.output if output), "")
        found[name] = _path_in(name) if own else _scope_of(node) or name
    return found


def unique(name: str, taken: set[str]) -> str:
    """A name that is not taken yet, numbered from 2 where it must be; it is taken now."""
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found


def _path_in(name: str) -> str:
    for suffix in _QUANTIZERS:  # these stand behind the tensor that they quantize
        name = name.removesuffix(suffix)
    return name.rpartition("/")[0] or name


def _scope_of(node: "onnx.NodeProto") -> str:
    for entry in node.metadata_props:
        if entry.key != SCOPES or len(entry.value) > LONGEST:
            continue
        try:
            scopes = ast.literal_eval(entry.value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return ""
        paths = [str(scope) for scope in scopes] if isinstance(scopes, list) else []
        return paths[-2] if len(paths) > 1 else ""
    return ""
