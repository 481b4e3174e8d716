"""Writing a graph in a newer ONNX opset; it computes the same."""

from typing import TYPE_CHECKING

from edgekit.errors import PassError, UsageError

if TYPE_CHECKING:
    import onnx


def opset_of(model: "onnx.ModelProto") -> int:
    """The opset of ONNX's own operators; 0 where the model imports none."""
    return next((int(o.version) for o in model.opset_import if o.domain in {"", "ai.onnx"}), 0)


def upgrade(model: "onnx.ModelProto", opset: int) -> "onnx.ModelProto":
    """The model in a newer opset; itself where it has that one.

    Args:
        model: with its weights.
        opset: at least the model's own.

    Raises:
        UsageError: the opset is older than the model's, or one that the installed onnx lacks.
        PassError: an operator has no form in that opset.
    """
    import onnx
    from onnx import version_converter

    have = opset_of(model)
    if have == opset:
        return model
    newest = onnx.defs.onnx_opset_version()
    if not have < opset <= newest:
        raise UsageError(
            f"Opset {opset} cannot be written: the file has {have}, the installed onnx knows"
            f" {newest}.",
            f"Give one from {have} to {newest}; older ones need another export.",
        )
    try:
        converted = version_converter.convert_version(model, opset)
    except (version_converter.ConvertError, RuntimeError, ValueError) as e:
        raise PassError(
            f"The file cannot be written in opset {opset}: {str(e).strip().splitlines()[0]}",
            "Export the network again in that opset.",
        ) from e
    keep_names(model, converted)
    converted.ir_version = max(converted.ir_version, model.ir_version)
    return converted


def keep_names(before: "onnx.ModelProto", after: "onnx.ModelProto") -> None:
    """Give nodes that make the same tensor their name and metadata back, in place."""
    made = {o: n for n in before.graph.node for o in n.output if o}
    for node in after.graph.node:
        old = next((made[o] for o in node.output if o in made), None)
        if old is not None:
            node.name = old.name
            if not node.metadata_props:
                node.metadata_props.extend(old.metadata_props)
