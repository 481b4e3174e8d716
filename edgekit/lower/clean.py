"""Cleaning an ONNX file that comes from elsewhere, so that later passes see one plain form.

onnxslim folds the chains of shape arithmetic that older exporters leave; the rest is what an
exported file gets too (`edgekit.lower.tidy`). Names stay as they are, except where they are missing
or used twice. The cleaned graph is compared with the original on random inputs before it is
written.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import PassError
from edgekit.lower import check, tidy
from edgekit.lower.export import finish, quiet
from edgekit.lower.opset import opset_of, upgrade

if TYPE_CHECKING:
    import onnx

    from edgekit.artifact import TensorSpec

_SIMPLE_DIM = re.compile(r"(?:(\d+)\s*\*\s*)?([A-Za-z_?][\w?]*)")


@dataclass(frozen=True)
class CleanReport:
    """What cleaning changed, and how close the numbers are.

    Attributes:
        opset: of the file.
        nodes_before: how many nodes there were.
        nodes: how many there are.
        size_bytes: of the file.
        checked: the input shapes that were compared, in plain text.
        max_abs_error: largest absolute difference of any output from the original's.
        max_rel_error: largest difference relative to its output's largest magnitude.
        atol: absolute tolerance that was held.
        rtol: relative tolerance that was held.
        warnings: what the user should know.
    """

    opset: int
    nodes_before: int
    nodes: int
    size_bytes: int
    checked: tuple[str, ...]
    max_abs_error: float
    max_rel_error: float
    atol: float
    rtol: float
    warnings: tuple[str, ...] = field(default=())


def clean_onnx(
    src: Path,
    dst: Path,
    *,
    opset: int | None = None,
    batches: tuple[int, ...] = (1, 2, 5),
    atol: float = 1e-4,
    rtol: float = 1e-3,
    seed: int = 0,
) -> CleanReport:
    """Clean an ONNX file and compare it with the original.

    Args:
        src: the original.
        dst: the file to write; whole or not at all.
        opset: a newer one to write it in; None keeps the file's.
        batches: sizes to give to dynamic dimensions, one run each.
        atol: absolute tolerance (`edgekit.lower.check` says how it scales).
        rtol: relative tolerance.
        seed: of the random inputs.

    Raises:
        UsageError: the file is broken or hostile.
        PassError: ONNX Runtime cannot run it, or the cleaned graph differs.
    """
    from edgekit.graph.onnx_model import read_onnx, specs, write_onnx

    original = read_onnx(src)
    before = len(original.graph.node)
    proto, warnings = cleaned(original if opset is None else upgrade(original, opset))
    inputs, _ = specs(proto)
    write_onnx(proto, dst)
    try:
        feeds, difference = _compare(src, dst, inputs, batches, seed, atol, rtol)
    except PassError:
        dst.unlink(missing_ok=True)
        raise
    if not feeds:
        warnings.append("The original does not run on random inputs, so nothing was compared.")
    return CleanReport(
        opset=opset_of(proto),
        nodes_before=before,
        nodes=len(proto.graph.node),
        size_bytes=dst.stat().st_size,
        checked=tuple(", ".join(f"{k}{list(v.shape)}" for k, v in f.items()) for f in feeds),
        max_abs_error=difference.max_abs,
        max_rel_error=difference.max_rel,
        atol=atol,
        rtol=rtol,
        warnings=tuple(warnings),
    )


def cleaned(model: "onnx.ModelProto") -> tuple["onnx.ModelProto", list[str]]:
    """A clean copy of a model, and warnings.

    Raises:
        PassError: the cleaned graph is not valid.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    from edgekit.graph.onnx_model import name_open_dims

    warnings: list[str] = []
    graph = ir.from_proto(_slim(model, warnings))
    common.NameFixPass()(graph)
    with quiet():
        tidy.tidy(graph)
    common.NameFixPass()(graph)
    _name_nodes(graph)
    proto = finish(graph)
    name_open_dims(proto)
    # onnx-ir drops what it takes for nothing: the original's order of inputs is the contract.
    kept = {i.name for i in model.graph.initializer}
    wanted = [i.name for i in model.graph.input if i.name not in kept]
    if [i.name for i in proto.graph.input] != wanted:
        raise PassError(
            "Cleaning changed the model's inputs.", "Give the file to `quantize` as it is."
        )
    return proto, warnings


def _slim(model: "onnx.ModelProto", warnings: list[str]) -> "onnx.ModelProto":
    """Let onnxslim fold what it can; a graph that it cannot take goes on as it is."""
    import onnx
    import onnxslim

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        with quiet():
            slimmed = onnxslim.slim(copy, skip_fusion_patterns=None, no_shape_infer=False)
    except Exception as e:  # noqa: BLE001 - whatever it stumbles on, the graph is usable without it
        warnings.append(f"onnxslim could not take the graph ({type(e).__name__}); it was skipped.")
        return model
    if not isinstance(slimmed, onnx.ModelProto):
        return model
    return slimmed


def _name_nodes(model: object) -> None:
    used: set[str] = set()
    for node in model.graph.all_nodes():  # type: ignore[attr-defined]
        name = node.name or node.op_type
        count = 1
        while name in used:
            count += 1
            name = f"{node.name or node.op_type}_{count}"
        node.name = name
        used.add(name)


def _compare(
    src: Path,
    dst: Path,
    inputs: tuple["TensorSpec", ...],
    batches: tuple[int, ...],
    seed: int,
    atol: float,
    rtol: float,
) -> tuple[list[check.Arrays], check.Difference]:
    reference, other = check.onnx_runner(src), check.onnx_runner(dst)
    used: list[check.Arrays] = []
    seen = set()
    for step, size in enumerate(batches):
        feed = random_feed(inputs, size, seed + step)
        shapes = tuple(v.shape for v in feed.values())
        if shapes in seen:
            continue
        seen.add(shapes)
        try:
            reference(feed)
        except Exception:  # noqa: BLE001, S112 - sizes that the original itself refuses
            continue
        used.append(feed)
    difference = check.compare(reference, other, used, atol=atol, rtol=rtol)
    return used, difference


def random_feed(inputs: tuple["TensorSpec", ...], size: int, seed: int) -> check.Arrays:
    """Random inputs: standard normal floats, integers of 0 and 1.

    Args:
        inputs: the model's inputs.
        size: given to the leading dynamic dimension; others are larger, so that networks with
            windows and strides run.
        seed: of the generator.
    """
    generator = np.random.default_rng(seed)
    feed: check.Arrays = {}
    for spec in inputs:
        shape = []
        for axis, entry in enumerate(spec.shape):
            if isinstance(entry, int):
                shape.append(entry)
                continue
            found = _SIMPLE_DIM.fullmatch(entry)
            factor = int(found[1] or 1) if found else 1
            shape.append(size if axis == 0 else factor * (64 if factor == 1 else 2))
        dtype = np.dtype(spec.dtype)
        if np.issubdtype(dtype, np.floating):
            feed[spec.name] = generator.standard_normal(shape).astype(dtype)
        else:
            feed[spec.name] = generator.integers(0, 2, shape).astype(dtype)
    return feed
