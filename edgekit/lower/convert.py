"""Writing an ONNX file as other runtimes want it: ONNX Runtime's `.ort`, OpenVINO's `.xml`.

The result is made in a folder beside its place, run on random inputs against the ONNX file, and
only then moved there: what stands in its place is whole and was compared.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.runtimes.openvino import import_openvino
from edgekit.errors import PassError, UsageError
from edgekit.lower import check
from edgekit.lower.clean import random_feed
from edgekit.lower.ort_format import Mobile, mobile_report, required_operators, write_ort

Kind = Literal["ort", "openvino"]
REPORT = "conversion.json"
ATOL, RTOL = 1e-4, 1e-3
# Half keeps 11 bits: each weight is off by up to 2^-11, and layers add such errors up.
HALF_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Conversion:
    """What was written, and how close its numbers are.

    Attributes:
        kind: `ort` or `openvino`.
        model: name of the model's file.
        files: names of all files of the folder, but the report's own and the snippets.
        size_bytes: of the model's file and its weights.
        runtime: the library that wrote it, with its version.
        half_weights: whether weights are stored in float16.
        checked: the input shapes that were compared, in plain text.
        max_abs_error: largest absolute difference of any output from the ONNX file's.
        max_rel_error: largest difference relative to its output's largest magnitude.
        atol: absolute tolerance that was held.
        rtol: relative tolerance that was held.
        operators: what a reduced build of ONNX Runtime must hold: operators by domain and opset.
        mobile: how much of the network a phone's accelerators take.
        warnings: what the user should know.
    """

    kind: Kind
    model: str
    files: tuple[str, ...]
    size_bytes: int
    runtime: str
    half_weights: bool
    checked: tuple[str, ...]
    max_abs_error: float
    max_rel_error: float
    atol: float
    rtol: float
    operators: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mobile: tuple[Mobile, ...] = ()
    warnings: tuple[str, ...] = ()


def convert_onnx(
    src: Path,
    out: Path,
    kind: Kind,
    *,
    fp16: bool = False,
    batches: tuple[int, ...] = (1, 2, 5),
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> Conversion:
    """Write an ONNX file for another runtime, and compare the two on random inputs.

    Args:
        src: the ONNX file.
        out: the folder to write, which does not exist or is empty; whole or not at all.
        kind: `ort` writes `<name>.ort` and `<name>.required_operators.config`; `openvino` writes
            `<name>.xml` and `<name>.bin`.
        fp16: store OpenVINO's weights in float16; half the size.
        batches: sizes to give to dynamic dimensions, one run each.
        atol: absolute tolerance (`edgekit.lower.check` says how it scales); 1e-4 unless given,
            1e-2 with `fp16`.
        rtol: relative tolerance; 1e-3 unless given, 1e-2 with `fp16`.
        seed: of the random inputs.

    Raises:
        UsageError: the file is missing, broken or hostile, the folder is in the way or cannot be
            written, or the options do not go together.
        UnavailableError: OpenVINO is not installed.
        PassError: the runtime lacks an operator, or the numbers differ.
    """
    from edgekit.graph.onnx_model import read_onnx, specs

    if kind not in get_args(Kind):
        raise UsageError(f"There is no format {kind!r}.", f"Formats: {', '.join(get_args(Kind))}.")
    if fp16 and kind != "openvino":
        raise UsageError(
            "Only OpenVINO's weights can be stored in float16 here.",
            "For ONNX Runtime cast the network first: `edgekit cast`.",
        )
    _check_free(out)
    if kind == "openvino":
        import_openvino()
    inputs, _ = specs(read_onnx(src, data=False))
    tolerances = (
        (HALF_TOLERANCE if fp16 else ATOL) if atol is None else atol,
        (HALF_TOLERANCE if fp16 else RTOL) if rtol is None else rtol,
    )
    reference = check.onnx_runner(src)
    feeds = [random_feed(inputs, size, seed + step) for step, size in enumerate(batches)]
    used = _accepted(reference, feeds, src)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as stage:
            made = Path(stage) / "made"
            made.mkdir()
            report = _write(src, made, kind, fp16, (reference, used), tolerances)
            _write_snippets(made / report.model)
            text = json.dumps(asdict(report), indent=2) + "\n"
            (made / REPORT).write_text(text, encoding="utf-8")
            made.replace(out)
    except OSError as e:
        raise UsageError(f"{out} cannot be written: {e}.", "Choose another folder.") from e
    return report


def _write_snippets(model: Path) -> None:
    """Write programs that run the result beside it; its own runtime says what goes in and out."""
    from edgekit.lower.snippet import subject_of, write_beside

    subject = subject_of(model)
    write_beside(model, subject.runtime, subject.inputs, subject.outputs)


def _check_free(out: Path) -> None:
    """Refuse a folder that something stands in.

    Raises:
        UsageError: it is a file, or holds files.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out} is in the way: it is no folder.", "Give another with -o.")
    try:
        full = out.is_dir() and any(out.iterdir())
    except OSError as e:
        raise UsageError(f"{out} cannot be read: {e}.", "Choose another folder.") from e
    if full:
        raise UsageError(
            f"{out} is in the way: it holds files.", "Remove it, or give another folder with -o."
        )


def _accepted(reference: check.Runner, feeds: list[check.Arrays], src: Path) -> list[check.Arrays]:
    """The feeds of different shapes that the ONNX file itself takes.

    Raises:
        PassError: it takes none, so that nothing could be compared.
    """
    used: dict[tuple[tuple[int, ...], ...], check.Arrays] = {}
    refusal = ""
    for feed in feeds:
        try:
            reference(feed)
        except Exception as e:  # noqa: BLE001 - sizes that the original itself refuses
            refusal = str(e).strip().splitlines()[0]
            continue
        used.setdefault(tuple(v.shape for v in feed.values()), feed)
    if not used:
        raise PassError(
            f"{src} does not run on random inputs, so nothing can be compared: {refusal}",
            "Fix its input sizes first: `edgekit export --shape NAME=SIZES`.",
        )
    return list(used.values())


def _write(
    src: Path,
    folder: Path,
    kind: Kind,
    fp16: bool,
    right: tuple[check.Runner, list[check.Arrays]],
    tolerances: tuple[float, float],
) -> Conversion:
    reference, feeds = right
    operators: dict[str, tuple[str, ...]] = {}
    mobile: tuple[Mobile, ...] = ()
    warnings: tuple[str, ...] = ()
    if kind == "ort":
        model = folder / f"{src.stem}.ort"
        runtime = write_ort(src, model)
        operators = required_operators(model)
        config = "".join(f"{key};{','.join(names)}\n" for key, names in operators.items())
        path = folder / f"{src.stem}.required_operators.config"
        path.write_text(f"# Generated from {model.name}\n{config}", encoding="utf-8")
        mobile, warnings = mobile_report(src)
        other = check.onnx_runner(model)
    else:
        model = folder / f"{src.stem}.xml"
        runtime = _write_ir(src, model, fp16)
        other = _ir_runner(model, list(reference(feeds[0])))
    difference = check.compare(reference, other, feeds, atol=tolerances[0], rtol=tolerances[1])
    weights = model.with_suffix(".bin")
    return Conversion(
        kind=kind,
        model=model.name,
        files=tuple(sorted(each.name for each in folder.iterdir())),
        size_bytes=sum(p.stat().st_size for p in (model, weights) if p.is_file()),
        runtime=runtime,
        half_weights=fp16,
        checked=tuple(", ".join(f"{k}{list(v.shape)}" for k, v in f.items()) for f in feeds),
        max_abs_error=difference.max_abs,
        max_rel_error=difference.max_rel,
        atol=tolerances[0],
        rtol=tolerances[1],
        operators=operators,
        mobile=mobile,
        warnings=warnings,
    )


def _write_ir(src: Path, dst: Path, fp16: bool) -> str:
    """Write OpenVINO's `.xml`, and its weights as `.bin` beside it.

    Returns:
        OpenVINO's name and version.
    """
    library = import_openvino()
    try:
        # Explicit: `save_model` stores weights in float16 unless it is told not to.
        library.save_model(library.Core().read_model(src), dst, compress_to_fp16=fp16)
    except RuntimeError as e:
        raise PassError(
            f"OpenVINO does not take {src}: {_reason(e)}",
            "Look at the operator that the message names; the ONNX file itself runs in"
            " ONNX Runtime.",
        ) from e
    return f"OpenVINO {str(library.__version__).partition('-')[0]}"


def _ir_runner(model: Path, outputs: list[str]) -> check.Runner:
    """Open an `.xml` on one CPU thread, computing in float32.

    Args:
        model: the file.
        outputs: the ONNX file's names. OpenVINO keeps their order, and may have several for one.
    """
    library = import_openvino()
    core = library.Core()
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    try:
        compiled = core.compile_model(core.read_model(model), "CPU", config)
    except RuntimeError as e:
        raise PassError(
            f"OpenVINO does not compile {model.name}: {_reason(e)}",
            "Look at the operator that the message names.",
        ) from e

    def run(feeds: Mapping[str, NDArray[Any]]) -> check.Arrays:
        try:
            values = compiled(dict(feeds))
        except RuntimeError as e:
            raise PassError(
                f"OpenVINO does not run {model.name}: {_reason(e)}",
                "Fix the input sizes first: `edgekit export --shape NAME=SIZES`.",
            ) from e
        return {name: np.array(values[index]) for index, name in enumerate(outputs)}

    return run


def _reason(error: BaseException) -> str:
    """OpenVINO's text in one line, without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [x for x in lines if x and not x.startswith(("Exception from", "Check '"))]
    return " ".join(said or [type(error).__name__])[:300]
