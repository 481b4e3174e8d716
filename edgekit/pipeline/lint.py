"""`lint` of a file that any tool made, and its mend, which is verified before it is written."""

import json
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import __version__
from edgekit import target as targets
from edgekit.errors import GateError, UsageError
from edgekit.quantize.rules import Finding, Mended

if TYPE_CHECKING:
    import onnx

    from edgekit.quantize.fidelity import Fidelity
    from edgekit.target import IntegerScheme

SCHEMA_VERSION = 1
LABEL = "edgekit.mended"
EXACT_STEPS, LOSSY_STEPS = 1.0, 2.0


@dataclass(frozen=True)
class Located(Finding):
    """A finding, with what is known of its place.

    Attributes:
        operator: the node's ONNX operator.
        layer: the user's module that it came from, as far as it is known.
    """

    operator: str = ""
    layer: str = ""


@dataclass(frozen=True)
class Fix:
    """What `--fix` did.

    Attributes:
        out: the file written.
        mends: what was mended.
        lossy: whether one of them makes levels coarser.
        fidelity: how far the result lies from the original.
        left: what still stands against the file.
    """

    out: str
    mends: tuple[Mended, ...]
    lossy: bool
    fidelity: "Fidelity | None"
    left: tuple[Located, ...]


@dataclass(frozen=True)
class LintReport:
    """The verdict on a file.

    Attributes:
        model: the file.
        target: the target's name.
        dialect: its integer dialect.
        unverified: why the dialect was never tried on its device; empty where it was.
        opset: of the file.
        quantized: how the file is quantized, in words; empty for a float model.
        ok: no error stands against the file, or after `--fix` against the mended one.
        counts: how many findings of each severity.
        findings: in the order of the nodes.
        fix: what was mended, None without `--fix`.
    """

    model: str
    target: str
    dialect: str
    unverified: str
    opset: int
    quantized: str
    ok: bool
    counts: dict[str, int]
    findings: tuple[Located, ...]
    fix: Fix | None = None
    edgekit: str = field(default=__version__)
    schema_version: int = field(default=SCHEMA_VERSION)


def lint_model(
    model: Path, target: str, *, out: Path | None = None, max_steps: float | None = None
) -> LintReport:
    """Hold an ONNX file against a target's dialect, and mend it where a place for it is given.

    Args:
        model: an `.onnx` file, or the folder of an artifact of that format.
        target: a target's name, or the path of a YAML file.
        out: the `.onnx` file to write the mended model to; None mends nothing.
        max_steps: how far an output may move, in its own 8-bit steps: 1 unless told otherwise, 2
            where a mend is lossy.

    Raises:
        UsageError: the file or the target is not one, or the target has no integer dialect.
        GateError: the mended file lies too far from the original; nothing was written.
    """
    from edgekit.pipeline.preflight import onnx_file
    from edgekit.quantize.detect import quantized

    chosen = targets.load(target)
    if chosen.int8 is None:
        raise UsageError(
            f"Target {chosen.name} has no integer dialect to hold a file against.",
            "Choose a target with an int8 scheme: `edgekit targets`.",
        )
    path, names = onnx_file(model)
    if out is not None:
        _check_out(out, path)
    held = _read(path, data=out is not None)
    findings = _located(held, chosen.int8, path.parent, names)
    fix = None
    if out is not None:
        fix = _fix(path, held, chosen, out, max_steps, names)
    standing = findings if fix is None else fix.left
    return LintReport(
        model=str(path),
        target=chosen.name,
        dialect=chosen.int8.name,
        unverified=chosen.int8.unverified,
        opset=next((int(o.version) for o in held.opset_import if o.domain in {"", "ai.onnx"}), 0),
        quantized=quantized(held),
        ok=not any(f.severity == "error" for f in standing),
        counts=dict(Counter(f.severity for f in findings)),
        findings=findings,
        fix=fix,
    )


def raise_unless_ok(report: LintReport) -> None:
    """Turn errors into exit code 5.

    Raises:
        GateError: the file breaks the dialect; names the first node and its mend.
    """
    if report.ok:
        return
    standing = report.findings if report.fix is None else report.fix.left
    errors = [f for f in standing if f.severity == "error"]
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    name = Path(report.model if report.fix is None else report.fix.out).name
    raise GateError(
        f"{name} breaks dialect {report.dialect} at {first.node!r}: {first.message}{more}",
        f"`--fix -o OUT` mends it. {first.mend}"
        if report.fix is None and first.kinds
        else first.mend,
    )


def _read(path: Path, *, data: bool) -> "onnx.ModelProto":
    from edgekit.graph.onnx_model import read_onnx

    try:
        return read_onnx(path, data=data)
    except UsageError as e:
        if "attribute: axis for operator" not in e.message:
            raise
        raise UsageError(
            f"{path} has scales for each channel, which its opset is too old for.",
            "Export it again with opset 13 or newer.",
        ) from e


def _check_out(out: Path, path: Path) -> None:
    if out.suffix != ".onnx":
        raise UsageError(f"--out {out} does not end in .onnx.", "Name the file to write.")
    if out.exists() and out.samefile(path):
        raise UsageError(f"--out {out} is the model itself.", "Write to another file.")


def _located(
    model: "onnx.ModelProto", scheme: "IntegerScheme", folder: Path, names: Any
) -> tuple[Located, ...]:
    from edgekit.lower.names import layer_of
    from edgekit.quantize.lint import lint

    nodes = {n.name: n for n in model.graph.node}
    found = []
    for each in lint(model, scheme, folder):
        node = nodes.get(each.node)
        layer = names.get(each.node) or (layer_of(node) if node is not None else "")
        operator = node.op_type if node is not None else ""
        found.append(Located(**vars(each), operator=operator, layer=layer))
    return tuple(found)


def _fix(
    path: Path,
    model: "onnx.ModelProto",
    target: "targets.Target",
    out: Path,
    max_steps: float | None,
    names: Any,
) -> Fix:
    from edgekit.graph.onnx_model import write_onnx
    from edgekit.quantize import fidelity
    from edgekit.quantize.mend import mend

    assert target.int8 is not None  # noqa: S101 - lint_model has looked
    made, mends = mend(model, target.int8)
    lossy = any(m.kind == "lossy" for m in mends)
    found = None
    try:
        folder = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")
    except OSError as e:
        raise UsageError(f"{out} cannot be written: {e}.", "Choose another folder.") from e
    with folder as draft:
        if mends:
            write_onnx(made, Path(draft) / out.name)
            found = fidelity.compare(path, Path(draft) / out.name, model)
            _hold(found, lossy, max_steps, target.name)
        _label(made, target, mends, found)
    write_onnx(made, out)
    return Fix(str(out), tuple(mends), lossy, found, _located(made, target.int8, out.parent, names))


def _hold(found: "Fidelity", lossy: bool, max_steps: float | None, target: str) -> None:
    allowed = max_steps if max_steps is not None else (LOSSY_STEPS if lossy else EXACT_STEPS)
    if found.worst_steps <= allowed:
        return
    name = max(found.steps, key=lambda n: found.steps[n])
    raise GateError(
        f"The mended file lies {found.worst_steps:.2f} 8-bit steps from the original at output "
        f"{name!r}; {allowed:g} are allowed. Nothing was written.",
        f"Quantize the float model again for {target}, or accept it with "
        f"--max-steps {found.worst_steps + 0.1:.1f}.",
    )


def _label(
    model: "onnx.ModelProto",
    target: "targets.Target",
    mends: "list[Mended]",
    found: "Fidelity | None",
) -> None:
    """Write into the file itself what was done to it."""
    kept = [p for p in model.metadata_props if p.key != LABEL]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    if not mends:
        return
    said = {
        "edgekit": __version__,
        "dialect": target.int8.name if target.int8 is not None else "",
        "mends": {
            f"{rule} ({kind})": count
            for (rule, kind), count in sorted(Counter((m.rule, m.kind) for m in mends).items())
        },
        "lossy": any(m.kind == "lossy" for m in mends),
        "fidelity": None if found is None else asdict(found),
    }
    model.metadata_props.add(key=LABEL, value=json.dumps(said, sort_keys=True))
