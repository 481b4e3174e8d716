"""`edgekit lint`: does a file follow the target's integer dialect, and can it be mended?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import common
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.pipeline.lint import Fix, LintReport, Located

_STYLES = {"error": "red", "warning": "yellow", "note": "cyan"}


def lint(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An .onnx file, or its artifact's folder.")
    ],
    *,
    target: Annotated[str, typer.Option("--target", help="A name from `edgekit targets`.")],
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what can be mended, and write it to --out.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The .onnx file to write with --fix.")
    ] = None,
    max_steps: Annotated[
        float | None,
        typer.Option(
            "--max-steps",
            min=0.0,
            help="How far an output may move by --fix, in its own 8-bit steps. By default 1, and 2"
            " where a mend is lossy.",
        ),
    ] = None,
    sarif: Annotated[
        bool, typer.Option("--sarif", help="Print the findings as SARIF 2.1.0.")
    ] = False,
    json: common.Json = False,
) -> None:
    """Hold a file of any quantizer against the target's integer dialect. Exit 5: it breaks it."""
    from dataclasses import asdict

    from edgekit.pipeline import lint_model, raise_unless_ok, sarif_from_report

    _check(fix, out, sarif, json)
    with common.progress():
        report = lint_model(model, target, out=out, max_steps=max_steps)
    if sarif:
        common.print_json(sarif_from_report(report))
    elif json:
        common.print_json(asdict(report))
    else:
        show(report)
    raise_unless_ok(report)


def _check(fix: bool, out: Path | None, sarif: bool, json: bool) -> None:
    if fix != (out is not None):
        raise UsageError(
            "--fix needs a file to write." if fix else "--out is for --fix.",
            "Write --fix -o mended.onnx.",
        )
    if sarif and json:
        raise UsageError("--sarif and --json are both given.", "Choose one.")


def show(report: "LintReport") -> None:
    """Print the verdict, the findings, and what was mended."""
    from rich.text import Text

    console = common.out_console()
    verdict = "follows" if report.ok else "breaks"
    console.print(
        Text(f"{verdict} dialect {report.dialect} of {report.target}", style="bold")
        + Text(f" (opset {report.opset})", style="default")
    )
    console.print(Text(report.quantized or "it is not quantized"))
    for each in report.findings:
        _finding(each)
    if report.fix is not None:
        _fixed(report.fix)
    if report.unverified:
        console.print(Text(f"note: the dialect is unverified: {report.unverified}"))


def _finding(each: "Located") -> None:
    from rich.text import Text

    console = common.out_console()
    layer = f" of layer {each.layer}" if each.layer else ""
    console.print(
        Text(f"{each.severity}: ", style=_STYLES[each.severity])
        + Text(f"{each.node} ({each.operator}){layer}: {each.message} [{each.rule}]")
    )
    can = f" (--fix: {' or '.join(each.kinds)})" if each.kinds else ""
    console.print(Text(f"  mend: {each.mend}{can}"))


def _fixed(fix: "Fix") -> None:
    from rich.text import Text

    console = common.out_console()
    for mended in fix.mends:
        console.print(
            Text("mended: ", style="green")
            + Text(f"{mended.node}: {mended.what} [{mended.rule}, {mended.kind}]")
        )
    if fix.fidelity is not None:
        console.print(
            Text(
                f"verified on {fix.fidelity.samples} inputs: the outputs moved by up to "
                f"{fix.fidelity.worst_steps:.2f} of their own 8-bit steps"
                f"{' (a lossy mend)' if fix.lossy else ''}"
            )
        )
    console.print(Text(f"wrote {fix.out}; {len(fix.left)} findings left"))
    for each in fix.left:
        _finding(each)
