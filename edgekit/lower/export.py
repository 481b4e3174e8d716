"""From a captured program to an ONNX file that is small, valid, named, and computes the same.

torch's own exporter translates the operators. What it leaves is mended here: it writes an invalid
file when an output's name equals an inner one, keeps stack traces that hold paths of the machine,
names dimensions `s40`, and says nothing about whether the numbers are right.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import PassError, UsageError
from edgekit.lower import check, names, tidy

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from torch import Tensor

    from edgekit.graph.program import Program

PRODUCER = "edgekit"
OPSETS = range(18, 24)
_LIMIT = 2_000_000_000
_SIMPLE_DIM = re.compile(r"(?:(\d+)\*)?([A-Za-z_]\w*)")


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how close its numbers are.

    Attributes:
        opset: of the file.
        nodes: how many.
        size_bytes: of the file.
        checked: the input shapes that were compared, in plain text.
        checked_batches: the batch sizes that were compared.
        max_abs_error: largest absolute difference of any output.
        max_rel_error: largest difference relative to its output's largest magnitude.
        atol: absolute tolerance that was held.
        rtol: relative tolerance that was held.
        names: node name to the user's module path.
        warnings: what the user should know.
    """

    opset: int
    nodes: int
    size_bytes: int
    checked: tuple[str, ...]
    checked_batches: tuple[int, ...]
    max_abs_error: float
    max_rel_error: float
    atol: float
    rtol: float
    names: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def export_onnx(
    program: "Program",
    path: Path,
    *,
    opset: int = 20,
    batches: tuple[int, ...] = (1, 2, 5),
    atol: float = 1e-4,
    rtol: float = 1e-3,
) -> ExportReport:
    """Write a program as ONNX and compare the two.

    Args:
        program: the captured network.
        path: the file to write; whole or not at all.
        opset: ONNX opset.
        batches: batch sizes to compare on; other dynamic dimensions vary along.
        atol: absolute tolerance (`edgekit.lower.check` says how it scales).
        rtol: relative tolerance.

    Raises:
        UsageError: an opset that the exporter cannot write.
        PassError: an operator has no translation, the file is invalid, or an output differs.
    """
    from edgekit.graph.onnx_model import write_onnx

    if opset not in OPSETS:
        raise UsageError(
            f"Opset {opset} cannot be written.",
            f"Give one from {OPSETS.start} to {OPSETS.stop - 1}.",
        )
    model = _translate(program, opset)
    parameters = set(program.exported.state_dict)
    name_map = program.name_map()
    tidy.tidy(model)
    modules = {n: names.module_of(n, name_map, parameters) for n in model.graph.all_nodes()}
    found = names.rename(model, program.inputs, program.outputs, modules)
    proto = finish(model)
    write_onnx(proto, path)
    try:
        difference, feeds = _compare(program, path, batches, atol, rtol)
    except PassError:
        path.unlink(missing_ok=True)
        raise
    return ExportReport(
        opset=opset,
        nodes=len(proto.graph.node),
        size_bytes=path.stat().st_size,
        checked=tuple(", ".join(f"{k}{list(v.shape)}" for k, v in feed.items()) for feed in feeds),
        checked_batches=tuple(dict.fromkeys(_batch(feed) for feed in feeds)),
        max_abs_error=difference.max_abs,
        max_rel_error=difference.max_rel,
        atol=atol,
        rtol=rtol,
        names=found,
    )


def finish(model: "ir.Model") -> "onnx.ModelProto":
    """Serialise a tidy graph without what is no part of it, and check that it is valid.

    Raises:
        PassError: the ONNX checker refuses it.
    """
    import onnx
    import onnx_ir as ir

    from edgekit import __version__
    from edgekit.graph.onnx_model import weight_bytes

    proto: onnx.ModelProto = ir.to_proto(model)
    tidy.strip(proto)
    proto.producer_name, proto.producer_version = PRODUCER, __version__
    proto.graph.name = "main"
    if weight_bytes(proto) < _LIMIT:
        try:
            onnx.checker.check_model(proto, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
            raise PassError(
                f"The exported graph is not valid ONNX: {str(e).strip().splitlines()[0]}",
                "Try another opset; the message names the node.",
            ) from e
    return proto


def _translate(program: "Program", opset: int) -> "ir.Model":
    import torch

    from edgekit.graph.attention import in_four_dimensions

    exported = in_four_dimensions(program.exported)
    # Without gradients: with them torch takes attention apart in another way than it planned with,
    # and a view of its result fails.
    with quiet(), torch.no_grad():
        try:
            made = torch.onnx.export(
                exported, dynamo=True, opset_version=opset, verbose=False, optimize=True
            )
        except Exception as e:
            raise _translation_error(e) from e
    if made is None:
        raise PassError("torch's ONNX exporter gave nothing.", "Try another opset.")
    model: ir.Model = made.model
    return model


def _translation_error(error: Exception) -> PassError:
    text, seen = "", error.__cause__ or error
    for e in (error, seen):
        if found := re.search(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'", str(e)):
            return PassError(
                f"Operator {found[1]} has no ONNX translation.",
                "Replace it in the network by operators that have one.",
            )
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        text = lines[-1] if lines else type(e).__name__
    return PassError(
        f"The program cannot be written as ONNX: {text[:500]}",
        "Try another opset, or replace the operator that the message names.",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep third parties' notices off the console; errors still come as exceptions."""
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "onnxscript", "onnx_ir")]
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    levels = [(log, log.level) for log in (*loggers, registration)]
    for log, _ in levels:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in levels:
            log.setLevel(level)


def _compare(
    program: "Program", path: Path, batches: tuple[int, ...], atol: float, rtol: float
) -> tuple[check.Difference, list[check.Arrays]]:
    import torch

    module = program.module()
    outputs = [spec.name for spec in program.outputs]
    inputs = [spec.name for spec in program.inputs]

    def reference(feed: Any) -> check.Arrays:
        with torch.inference_mode():
            # Copies: the graph may hand an input through as an output.
            values = module(*(torch.from_numpy(feed[name].copy()) for name in inputs))
        return {n: v.detach().cpu().numpy() for n, v in zip(outputs, values, strict=True)}

    feeds = feeds_of(program, batches)
    difference = check.compare(reference, check.onnx_runner(path), feeds, atol=atol, rtol=rtol)
    return difference, feeds


def feeds_of(program: "Program", batches: tuple[int, ...]) -> list[check.Arrays]:
    """Random inputs in several sizes of every dynamic dimension.

    Args:
        program: whose inputs to feed; a program without dynamic dimensions gets one feed.
        batches: sizes of the batch dimension; those outside the program's own range are left out.
    """
    feeds: list[check.Arrays] = []
    seen = set()
    for step, batch in enumerate(batches):
        tensors = list(program.example_inputs(batch=batch, seed=step))
        if step:
            tensors = [
                _grown(program, spec.shape, tensor, index, step)
                for index, (spec, tensor) in enumerate(zip(program.inputs, tensors, strict=True))
            ]
        shapes = tuple(tuple(t.shape) for t in tensors)
        if shapes in seen or not _within(program, shapes):
            continue
        seen.add(shapes)
        feeds.append({s.name: t.numpy() for s, t in zip(program.inputs, tensors, strict=True)})
    if not feeds:
        tensors = list(program.example_inputs())
        feeds.append({s.name: t.numpy() for s, t in zip(program.inputs, tensors, strict=True)})
    return feeds


def _grown(
    program: "Program", shape: tuple[int | str, ...], tensor: "Tensor", index: int, step: int
) -> "Tensor":
    """Make the dynamic dimensions other than the batch larger by `step` units, within bounds."""
    for axis, entry in enumerate(shape):
        found = _SIMPLE_DIM.fullmatch(entry) if isinstance(entry, str) else None
        if found is None or found[2] == _batch_name(program):
            continue
        size = tensor.shape[axis] + step * int(found[1] or 1)
        if size <= _bounds(program, index, axis)[1]:
            repeats = [1] * tensor.dim()
            repeats[axis] = -(-size // tensor.shape[axis])
            tensor = tensor.repeat(repeats).narrow(axis, 0, size)
    return tensor.contiguous()


def _batch_name(program: "Program") -> str:
    dims = [d for s in program.inputs for d in s.shape[:1] if isinstance(d, str)]
    return "batch" if "batch" in dims else (dims[0] if dims else "")


def _within(program: "Program", shapes: tuple[tuple[int, ...], ...]) -> bool:
    # torch writes 2 where it means "any": below 2 it only promises not to specialise.
    return all(
        (low <= size or low <= 2) and size <= high
        for index, shape in enumerate(shapes)
        for axis, size in enumerate(shape)
        for low, high in (_bounds(program, index, axis),)
    )


def _bounds(program: "Program", index: int, axis: int) -> tuple[float, float]:
    """Smallest and largest size that the program allows on one axis of one input."""
    names_ = list(program.exported.graph_signature.user_inputs)
    nodes = {n.name: n for n in program.exported.graph.nodes if n.op == "placeholder"}
    size = nodes[str(names_[index])].meta["val"].shape[axis]
    if isinstance(size, int):
        return float(size), float(size)
    expression = size.node.expr
    symbols = list(expression.free_symbols)
    if len(symbols) != 1 or symbols[0] not in program.exported.range_constraints:
        return 0.0, float("inf")
    limits = program.exported.range_constraints[symbols[0]]
    low, high = (expression.subs(symbols[0], v) for v in (limits.lower, limits.upper))
    return float(low), float(high) if high.is_finite else float("inf")


def _batch(feed: check.Arrays) -> int:
    first = next(iter(feed.values()))
    return int(first.shape[0]) if first.ndim else 1
