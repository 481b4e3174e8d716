"""Reading and writing ONNX files. A model file is hostile input until it was checked.

External data must lie inside the model's folder, and every declared size must agree with the bytes
that are there, before anything is allocated.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.artifact import TensorSpec
from edgekit.errors import UsageError
from edgekit.graph.onnx_cost import onnx_cost as onnx_cost

if TYPE_CHECKING:
    import onnx

_TWO_GIB = 2**31 - 1
_HINT = "Export the model again, and keep its external data in the model's folder."


def read_onnx(path: Path, *, data: bool = True) -> "onnx.ModelProto":
    """Read an ONNX file with its external data, and check it.

    Args:
        path: the file.
        data: False leaves the external data where it is, so that a model of any size can be looked
            at; it is checked all the same.

    Raises:
        UsageError: the file is missing, truncated or invalid, its external data lies outside its
            folder, or a tensor's declared size does not agree with its bytes.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        raise UsageError(f"{path} does not exist.", "Check the path.")
    if path.stat().st_size > _TWO_GIB:
        raise UsageError(f"{path} is larger than 2 GiB, which protobuf cannot hold.", _HINT)
    try:
        model = onnx.load_model(path, load_external_data=False)
    except (DecodeError, ValueError, RuntimeError) as e:
        raise UsageError(f"{path} is not an ONNX file, or is truncated: {e}", _HINT) from e
    if not model.HasField("graph") or not model.graph.node or not model.opset_import:
        raise UsageError(f"{path} holds no graph: it is empty or truncated.", _HINT)
    folder = path.parent.resolve()
    external = False
    for tensor in tensors(model.graph, *model.functions):
        external |= _check_tensor(tensor, folder, path.name)
    try:
        onnx.checker.check_model(str(path) if external else model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as e:
        reason = next((line for line in str(e).splitlines() if line.strip()), repr(e))
        raise UsageError(f"{path} is not a valid ONNX model: {reason}", _HINT) from e
    if external and data:
        onnx.external_data_helper.load_external_data_for_model(model, str(folder))
    name_open_dims(model)
    return model


def name_open_dims(model: "onnx.ModelProto") -> None:
    """Give open dimensions that some exporters write as -1 or `?` a name of their own, in place."""
    for value in (*model.graph.input, *model.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value < 0 or dim.dim_param == "?":
                dim.dim_param = "batch" if axis == 0 else f"{value.name}_dim_{axis}"


def specs(model: "onnx.ModelProto") -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Names, dtypes and shapes of a model's inputs and outputs.

    Dimensions without a name or size are called `<tensor>_dim_<axis>`.

    Raises:
        UsageError: an input or output is not a tensor, or has no known rank.
    """
    held = {tensor.name for tensor in model.graph.initializer}
    outputs = list(model.graph.output)
    if any(not o.type.tensor_type.HasField("shape") for o in outputs):
        import onnx

        outputs = list(onnx.shape_inference.infer_shapes(model).graph.output)
    inputs = tuple(_spec(value) for value in model.graph.input if value.name not in held)
    return inputs, tuple(_spec(value) for value in outputs)


def weight_bytes(model: "onnx.ModelProto") -> int:
    """Bytes of the weights that a model holds in memory; protobuf cannot say that over 2 GiB."""
    return sum(len(t.raw_data) for t in tensors(model.graph, *model.functions))


def write_onnx(
    model: "onnx.ModelProto", path: Path, *, external_over_bytes: int = _TWO_GIB
) -> None:
    """Write a model, whole or not at all; the same model gives the same bytes.

    Args:
        model: to be written.
        path: of the model file. Tensors go to `<name>.data` beside it where the model is larger
            than `external_over_bytes`.
        external_over_bytes: protobuf's limit, unless told otherwise.

    Raises:
        UsageError: the folder cannot be written.
    """
    import onnx

    size = sum(len(t.raw_data) for t in model.graph.initializer)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            draft = Path(folder) / path.name
            if size > external_over_bytes - (64 << 20 if external_over_bytes == _TWO_GIB else 0):
                copy = onnx.ModelProto()
                copy.CopyFrom(model)
                data = f"{path.name}.data"
                onnx.external_data_helper.convert_model_to_external_data(
                    copy, all_tensors_to_one_file=True, location=data, size_threshold=0
                )
                onnx.external_data_helper.write_external_data_tensors(copy, folder)
                (Path(folder) / data).replace(path.parent / data)
                model = copy
            with draft.open("wb") as file:
                file.write(model.SerializeToString(deterministic=True))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as e:
        raise UsageError(f"{path} cannot be written: {e}.", "Choose another folder.") from e


def tensors(*graphs: Any) -> Iterator["onnx.TensorProto"]:
    """Every tensor in graphs or functions: initializers, attributes, sub-graphs."""
    for graph in graphs:
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield sparse.values
            yield sparse.indices
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("g"):
                    yield from tensors(attribute.g)
                yield from tensors(*attribute.graphs)


def external_data(path: Path) -> tuple[str, ...]:
    """Names of the files beside an ONNX file that hold its tensors; none where it is broken."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model(path, load_external_data=False)
    except (DecodeError, ValueError, RuntimeError):
        return ()
    names = {
        entry.value
        for tensor in tensors(model.graph, *model.functions)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    folder = path.parent.resolve()
    return tuple(sorted(n for n in names if (folder / n).resolve().is_relative_to(folder)))


def _check_tensor(tensor: "onnx.TensorProto", folder: Path, file: str) -> bool:
    """Check a tensor's sizes; whether its data is external."""
    import onnx

    name = tensor.name or "a constant"
    if any(d < 0 for d in tensor.dims):
        raise UsageError(f"{file}: tensor {name!r} has a negative size.", _HINT)
    count = 1
    for dim in tensor.dims:
        count *= dim
    bits = _bits(tensor.data_type)
    expected = None if bits is None else (count * bits + 7) // 8
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, folder, file, expected)
        return True
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
    if tensor.HasField("raw_data"):
        if expected is not None and len(tensor.raw_data) != expected:
            raise UsageError(
                f"{file}: tensor {name!r} declares {expected} bytes and has "
                f"{len(tensor.raw_data)}.",
                _HINT,
            )
    elif count > 4 * sum(len(getattr(tensor, field)) for field in fields):
        raise UsageError(f"{file}: tensor {name!r} declares {count} elements and has fewer.", _HINT)
    return False


def _check_external(
    tensor: "onnx.TensorProto", folder: Path, file: str, expected: int | None
) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    relative = Path(location)
    target = folder / relative
    where = f"{file}: external data {location!r} of {tensor.name!r}"
    if not location or relative.is_absolute() or ".." in relative.parts or "\\" in location:
        raise UsageError(f"{where} lies outside the model's folder.", _HINT)
    if target.is_symlink() or not target.resolve().is_relative_to(folder):
        raise UsageError(f"{where} is a link.", _HINT)
    if not target.is_file():
        raise UsageError(f"{where} is missing.", "Copy it beside the model.")
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", expected if expected is not None else -1))
    except ValueError as e:
        raise UsageError(f"{where} has an offset or length that is no number.", _HINT) from e
    size = target.stat().st_size
    if offset < 0 or length < 0 or offset + length > size:
        raise UsageError(
            f"{where} declares {length} bytes at {offset}; the file has {size}.", _HINT
        )
    if expected is not None and length != expected:
        raise UsageError(f"{where} has {length} bytes, its shape needs {expected}.", _HINT)


def _bits(data_type: int) -> int | None:
    """Bits of one element, None for strings; an unknown dtype is an error of its own."""
    import onnx

    if data_type == onnx.TensorProto.STRING:
        return None
    known = onnx.TensorProto.DataType.values()
    names = onnx.TensorProto.DataType.Name(data_type) if data_type in known else ""
    if names in {"INT4", "UINT4", "FLOAT4E2M1"}:
        return 4
    if names in {"INT2", "UINT2"}:
        return 2
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize) * 8
    except (KeyError, ValueError, TypeError) as e:
        raise UsageError(f"A tensor has the unknown dtype {data_type}.", _HINT) from e


def _spec(value: "onnx.ValueInfoProto") -> TensorSpec:
    import onnx

    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise UsageError(
            f"{value.name!r} is not a tensor of known rank.", "Export the model with tensors."
        )
    shape = []
    for axis, dim in enumerate(kind.shape.dim):
        if dim.HasField("dim_value"):
            shape.append(dim.dim_value)
        else:
            shape.append(dim.dim_param or f"{value.name}_dim_{axis}")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    return TensorSpec(name=value.name, dtype=str(dtype.name), shape=tuple(shape))
