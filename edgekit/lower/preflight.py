"""Will the target take this file? Asked before there is a device, and answered by node and layer.

The best answer comes from the target's own parser (`exact`). Where that is not installed, another
parser of the family answers, or the tables of `operators.py` do (`proxy`): good evidence, no proof.
"""

import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekit.bench.engine import library
from edgekit.errors import UnavailableError, UsageError
from edgekit.lower import dla, operators
from edgekit.lower.limits import known_here, limits
from edgekit.lower.names import layer_of
from edgekit.lower.opset import opset_of

if TYPE_CHECKING:
    import onnx

    from edgekit.target import Target

Device = Literal["gpu", "dla", "gpu-fallback", "cpu", "none"]
Evidence = Literal["exact", "proxy"]
Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]

SCHEMA_VERSION = 1
_FAMILY: dict[str, tuple[library.Kind, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-rtx"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt"),
}
_ORT_NODE = re.compile(r"[Nn]ode:?\s*\(([^)]+)\)")


@dataclass(frozen=True)
class Finding:
    """Something that the target does not take, or takes with doubt.

    Attributes:
        severity: a file with an error does not fit; a warning is worth a look.
        rule: what was held against it, in kebab-case.
        node: the node's name in the file; empty where the whole file is meant.
        operator: its ONNX operator.
        layer: the user's module that it came from, as far as it is known.
        message: what is wrong.
        mend: what to do.
    """

    severity: Literal["error", "warning"]
    rule: str
    node: str
    operator: str
    layer: str
    message: str
    mend: str


@dataclass(frozen=True)
class Placement:
    """Where a node is predicted to run.

    Attributes:
        node: its name.
        operator: its ONNX operator.
        layer: the user's module.
        device: `gpu-fallback` where the DLA was asked for and does not take it; `none` where the
            parser refuses it.
        reason: why, for `gpu-fallback` and `none`.
    """

    node: str
    operator: str
    layer: str
    device: Device
    reason: str = ""


@dataclass(frozen=True)
class Preflight:
    """The verdict.

    Attributes:
        model: the file.
        target: the target's name.
        fit: whether nothing stands against it.
        evidence: `exact` where the target's own parser took part, else `proxy`.
        checked_by: which parser, with its version, or the tables.
        opset: of the file.
        findings: errors and warnings, in the order of the nodes.
        placements: every node, in order.
        devices: how many nodes run where.
        notes: what the verdict does not cover.
    """

    model: str
    target: str
    fit: bool
    evidence: Evidence
    checked_by: str
    opset: int
    findings: tuple[Finding, ...]
    placements: tuple[Placement, ...]
    devices: dict[str, int]
    notes: tuple[str, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION)


def preflight(
    path: Path,
    target: "Target",
    *,
    dla_core: int | None = None,
    shapes: Shapes | None = None,
    names: Mapping[str, str] | None = None,
) -> Preflight:
    """Hold an ONNX file against a target.

    Args:
        path: the file; read by path, so its external data may be of any size.
        target: what it should run on.
        dla_core: the DLA core to place layers on, None for none.
        shapes: smallest, usual and largest shape of dynamic inputs; the DLA wants the three equal.
        names: node name to the user's module, where an artifact holds it.

    Raises:
        UsageError: the file is broken or hostile, or the target has no such DLA core.
    """
    from edgekit.graph.onnx_model import read_onnx
    from edgekit.lower.profile import profile_of

    check_dla(target, dla_core)
    model = read_onnx(path, data=False)
    fixed = {
        name: small
        for name, (small, _, large) in profile_of(model, shapes).items()
        if small == large
    }
    known = {**{n.name: layer_of(n) for n in model.graph.node}, **(names or {})}
    evidence, checked_by, findings = _ask(path, model, target, known)
    findings += [*_of_builder(model, target, fixed, known), *_opset_finding(model, target)]
    if evidence == "proxy" and target.tensorrt is not None:
        findings += _too_new(model, target, target.tensorrt, known)
    placements = _place(model, target, dla_core, fixed, known, findings)
    return Preflight(
        model=str(path),
        target=target.name,
        fit=not any(f.severity == "error" for f in findings),
        evidence=evidence,
        checked_by=checked_by,
        opset=opset_of(model),
        findings=tuple(findings),
        placements=placements,
        devices=dict(Counter(p.device for p in placements)),
        notes=_notes(evidence, target, dla_core),
    )


def check_dla(target: "Target", core: int | None) -> None:
    """Refuse a DLA core that the target does not have.

    Raises:
        UsageError: it has none, or fewer.
    """
    if core is None or 0 <= core < target.dla_cores:
        return
    have = f"cores 0 to {target.dla_cores - 1}" if target.dla_cores else "no DLA"
    raise UsageError(
        f"Target {target.name} has {have}; --dla {core} was asked for.",
        "Leave --dla out, or choose a target with `dla_cores`.",
    )


def _ask(
    path: Path, model: "onnx.ModelProto", target: "Target", layers: Mapping[str, str]
) -> tuple[Evidence, str, list[Finding]]:
    if target.runtime == "onnxruntime":
        return _ask_onnxruntime(path, model, target, layers)
    if target.runtime not in _FAMILY:
        raise UsageError(
            f"Preflight knows no parser of {target.runtime}, which target {target.name} runs.",
            "Measure the model there with `edgekit bench`.",
        )
    for kind in _FAMILY[target.runtime]:
        ok, version, _ = library.available(kind)
        if not ok:
            continue
        try:
            parsed = _parsed(kind, path)
        except UnavailableError:  # TensorRT without a GPU
            continue
        own = kind == target.runtime and _is_here(target)
        found = _from_parser(parsed, model, layers)
        return "exact" if own else "proxy", f"{kind} {version}, its parser", found
    return "proxy", "tables of operators", _from_tables(model, layers)


def _is_here(target: "Target") -> bool:
    return target.machine in {None, platform.machine()}


def _parsed(kind: library.Kind, path: Path) -> library.Parsed:
    trt = library.load(kind)
    log = library.logger(trt)
    return library.parse(trt, library.make_builder(trt, kind, log), log, path)


def _from_parser(
    parsed: library.Parsed, model: "onnx.ModelProto", layers: Mapping[str, str]
) -> list[Finding]:
    found = []
    for refusal in parsed.refusals:
        name, operator = refusal.node, refusal.operator
        if not name and 0 <= refusal.index < len(model.graph.node):
            name = model.graph.node[refusal.index].name
        # The parser's source calls an operator that it never takes with the condition `false`.
        reason = "" if refusal.reason in {"", "false"} else f": {refusal.reason}"
        found.append(
            Finding(
                "error",
                "parser",
                name,
                operator,
                layers.get(name, ""),
                f"The parser does not take {operator or 'the file'}{reason}",
                operators.mend(operator),
            )
        )
    by_length = sorted((n.name for n in model.graph.node if len(n.name) > 1), key=len)[::-1]
    kinds = {n.name: n.op_type for n in model.graph.node}
    for message in parsed.warnings:
        name = next((n for n in by_length if n in message), "")
        found.append(
            Finding(
                "warning",
                "parser-warning",
                name,
                kinds.get(name, ""),
                layers.get(name, ""),
                message,
                "See what the parser says of this node; the engine may compute something else.",
            )
        )
    return found


def _from_tables(model: "onnx.ModelProto", layers: Mapping[str, str]) -> list[Finding]:
    found = []
    for node in model.graph.node:
        own = node.domain not in {"", "ai.onnx"}
        if not own and node.op_type not in operators.UNSUPPORTED:
            continue
        what = f"{node.domain}.{node.op_type}" if own else node.op_type
        found.append(
            Finding(
                "error",
                "operator",
                node.name,
                node.op_type,
                layers.get(node.name, ""),
                f"TensorRT's parser does not take {what}",
                operators.mend(node.op_type),
            )
        )
    return found


def _ask_onnxruntime(
    path: Path, model: "onnx.ModelProto", target: "Target", layers: Mapping[str, str]
) -> tuple[Evidence, str, list[Finding]]:
    import onnxruntime

    from edgekit.errors import PassError
    from edgekit.lower.check import onnx_runner

    evidence: Evidence = "exact" if _is_here(target) else "proxy"
    by = f"onnxruntime {onnxruntime.__version__}"
    try:
        onnx_runner(path)
    except PassError as e:
        said = _ORT_NODE.search(e.message)
        name = said[1] if said else ""
        kind = next((n.op_type for n in model.graph.node if n.name == name), "")
        layer = layers.get(name, "")
        return evidence, by, [Finding("error", "parser", name, kind, layer, e.message, e.hint)]
    return evidence, by, []


def _of_builder(
    model: "onnx.ModelProto",
    target: "Target",
    fixed: Mapping[str, Sequence[int]],
    layers: Mapping[str, str],
) -> list[Finding]:
    """What the parser takes and the builder does not."""
    if target.build != "tensorrt-rtx":
        return []
    sure = known_here()
    found = limits(model, target.compute_capabilities, tensors(model, fixed)[1])
    return [
        Finding(
            "error" if sure else "warning",
            "builder",
            each.node,
            each.operator,
            layers.get(each.node, ""),
            f"TensorRT-RTX 1.7 does not build it: {each.message}",
            each.mend,
        )
        for each in found
    ]


def _opset_finding(model: "onnx.ModelProto", target: "Target") -> list[Finding]:
    opset = opset_of(model)
    if opset <= target.opset:
        return []
    return [
        Finding(
            "warning",
            "opset",
            "",
            "",
            "",
            f"The file has opset {opset}; {target.name} is known to take {target.opset}.",
            f"Export it again with --opset {target.opset}.",
        )
    ]


def _too_new(
    model: "onnx.ModelProto", target: "Target", have: str, layers: Mapping[str, str]
) -> list[Finding]:
    """What came after the oldest TensorRT that a device of this class may have."""
    found = []
    mend = f"Export with --opset {target.opset}, or see on the device: `edgekit build --device`."
    if operators.is_older(have, operators.STRONGLY_TYPED_SINCE):
        said = f"edgekit builds with TensorRT 10 and 11; {target.name} may have {have}"
        update = "Update the device: JetPack 6.1 and later have TensorRT 10.3."
        found.append(Finding("error", "version", "", "", "", said, update))
    dtypes = tensors(model, {})[1]
    for node in model.graph.node:
        made = {dtypes.get(name, "") for name in node.output}
        since, dtype = max(((operators.DTYPE_SINCE.get(d, ""), d) for d in made), default=("", ""))
        if since and operators.is_older(have, since):
            layer, kind = layers.get(node.name, ""), node.op_type
            said = f"TensorRT has {dtype} from {since} on; {target.name} may have {have}"
            fewer = "Cast to float16, or quantize to int8."
            found.append(Finding("warning", "since", node.name, kind, layer, said, fewer))
    for node in model.graph.node:
        since = operators.since(node.op_type, opset_of(model), have)
        if since and node.domain in {"", "ai.onnx"}:
            layer, kind = layers.get(node.name, ""), node.op_type
            said = f"TensorRT takes {kind} from {since} on; {target.name} may have {have}"
            found.append(Finding("warning", "since", node.name, kind, layer, said, mend))
    return found


def _place(
    model: "onnx.ModelProto",
    target: "Target",
    core: int | None,
    fixed: Mapping[str, Sequence[int]],
    layers: Mapping[str, str],
    findings: Sequence[Finding],
) -> tuple[Placement, ...]:
    refused = {f.node: f.message for f in findings if f.severity == "error" and f.node}
    usual: Device = "cpu" if target.device_class == "cpu" else "gpu"
    shapes, dtypes = tensors(model, fixed) if core is not None else ({}, {})
    constants = {i.name for i in model.graph.initializer}
    placed = []
    for node in model.graph.node:
        device, reason = usual, ""
        if node.name in refused:
            device, reason = "none", refused[node.name]
        elif core is not None:
            reason = dla.why_not(node, shapes, dtypes, constants)
            device = "gpu-fallback" if reason else "dla"
        layer = layers.get(node.name, "")
        placed.append(Placement(node.name, node.op_type, layer, device, reason))
    return tuple(placed)


def tensors(
    model: "onnx.ModelProto", fixed: Mapping[str, Sequence[int]]
) -> tuple[dict[str, list[int | str]], dict[str, str]]:
    """Shapes and dtypes of a model's tensors, as far as ONNX's shape inference knows them.

    Args:
        model: any.
        fixed: shapes to give to dynamic inputs first.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        for dim, size in zip(
            value.type.tensor_type.shape.dim, fixed.get(value.name, ()), strict=False
        ):
            dim.dim_value = size
    if fixed:  # what was written for dynamic sizes would stand in the way
        copy.graph.ClearField("value_info")
        for value in copy.graph.output:
            value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(copy)
    shapes: dict[str, list[int | str]] = {}
    dtypes: dict[str, str] = {}
    graph = inferred.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.elem_type:
            dtypes[value.name] = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name)
        if kind.HasField("shape"):
            shapes[value.name] = [
                d.dim_value if d.HasField("dim_value") else d.dim_param or "?"
                for d in kind.shape.dim
            ]
    return shapes, dtypes


def _notes(evidence: Evidence, target: "Target", core: int | None) -> tuple[str, ...]:
    found = []
    if evidence == "proxy":
        found.append(
            f"Another parser than that of {target.name} answered: build there to be certain."
        )
    if core is not None:
        found.append("Where layers run is predicted from NVIDIA's table; the builder decides.")
    return tuple(found)
