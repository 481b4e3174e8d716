"""The report as GitHub-flavoured Markdown, for a pull request or a job summary."""

import html
import re
from collections.abc import Iterable, Iterator, Sequence

from edgekit.report import view
from edgekit.report.learning import learning
from edgekit.report.schema import BranchReport, GateReport, RunReport, StepReport
from edgekit.report.text import count_text, printable, seconds_text

_SPECIAL = re.compile(r"([\\`*~|\[\]<>&$])|(?<![^\W_])(_)|(_)(?![^\W_])")
# A zero-width space keeps GitHub from turning a layer's name into a mention or a link.
_LINKING = re.compile(r"(@|#(?=\d)|:(?=//)|(?<=www)\.)")
_EXAMPLES = 10
_FROZEN = 10


def escape(text: object) -> str:
    """Make any text harmless inside a line or a table cell."""
    plain = _LINKING.sub("\\1\N{ZERO WIDTH SPACE}", printable(text))
    return _SPECIAL.sub(lambda m: "\\" + m.group(0), plain)


def markdown(report: RunReport) -> str:
    """Write the report as Markdown."""
    lines = [
        f"## {_mark(report.verdict)} edgekit: {escape(report.recipe)} {report.verdict}",
        "",
        escape(view.headline(report)),
        "",
        *_summary(report),
        *_warnings(report),
    ]
    for branch in report.branches:
        lines += _branch(report, branch)
    if not report.branches:
        lines += ["### Steps", "", *_table(report, None)]
    if report.gates:
        lines += ["### Gates of the shared chain", "", *_gates(report.gates)]
    lines += [*_frozen(report), *_learned(report), *_facts(report)]
    return "\n".join(lines).rstrip() + "\n"


def _mark(verdict: str) -> str:
    return {"passed": "✅", "failed": "❌"}.get(verdict, "⚪")


def _summary(report: RunReport) -> Iterator[str]:
    if not report.branches:
        return
    name = escape(view.metric_name(report))
    yield from _rows(["Branch", "Verdict", name, "Drop", "Speed-up", "Size", "MACs"], numbers=2)
    for branch in report.branches:
        verdict = f"{_mark(branch.status)} {branch.status}"
        step = view.final(report, branch)
        if step is None:
            yield _line([escape(branch.name), verdict, escape(branch.reason), "", "", "", ""])
            continue
        row = next(r for r in view.table(report, branch).rows[::-1] if r.step is step)
        wanted = [row.cells[i] for i in (0, 1, 5, 6, 7)]
        yield _line([escape(branch.name), verdict, *(_cell(c, marks=False) for c in wanted)])
    yield ""


def _branch(report: RunReport, branch: BranchReport) -> Iterator[str]:
    target = f" on {escape(branch.target)}" if branch.target not in {"", branch.name} else ""
    yield from (f"### {escape(branch.name)}{target}: {branch.status}", "")
    if branch.reason:
        yield from (f"{branch.status.capitalize()}: {escape(branch.reason)}", "")
    if not view.has_results(branch):
        return
    yield from _gates(branch.gates)
    yield from _table(report, branch)
    # Only the last: a comment on GitHub has a limit, and the HTML page has them all.
    changed = [s for s in view.steps(report, branch) if s.changes]
    for step in changed[-1:]:
        yield from _changes(step)


def _table(report: RunReport, branch: BranchReport | None) -> Iterator[str]:
    table = view.table(report, branch)
    yield from _rows(["Step", *(escape(c.title) for c in table.columns)], numbers=1)
    for row in table.rows:
        name = f"{escape(row.step.name)} ({row.status})" if row.status else escape(row.step.name)
        yield _line([name, *map(_cell, row.cells)])
    yield ""
    for i, note in enumerate(table.footnotes, 1):
        yield f"<sup>{i}</sup> {escape(note)}<br>"
    if table.footnotes:
        yield ""
    for row in table.rows:
        if row.status and row.step.reason:
            yield from (f"**{escape(row.step.name)}** {row.status}: {escape(row.step.reason)}", "")
            yield from _details(row.step)


def _sign(gate: GateReport) -> str:
    return "⚪" if gate.outcome == "not judged" else "❌"


def _details(step: StepReport) -> Iterator[str]:
    more = view.details(step)
    if more is None:
        return
    if more.rows:
        yield from _rows([escape(cell) for cell in more.rows[0]], numbers=1)
        yield from (_line(map(escape, row)) for row in more.rows[1:])
    else:
        yield from (f"{escape(line)}<br>" for line in more.text.splitlines())
    yield ""


def _cell(cell: view.Cell, *, marks: bool = True) -> str:
    # What stands under a figure is numbers of our own, and its brackets need no escape.
    between = " " if cell.sub.startswith(("[", "(")) else ", "
    text = escape(cell.main) + (between + cell.sub if cell.sub else "")
    text += f" *{cell.label}*" if cell.label else ""
    return text + (f" <sup>{cell.mark}</sup>" if cell.mark and marks else "")


def _gates(gates: Sequence[GateReport]) -> Iterator[str]:
    if not gates:
        yield from ("No gates.", "")
        return
    yield from _rows(["Gate", "Budget", "Observed", "Verdict"], numbers=4)
    for gate in gates:
        verdict = "✅ pass" if gate.passed else f"{_sign(gate)} **{view.gate_verdict(gate)}**"
        observed = _cell(view.gate_observed(gate))
        yield _line([escape(gate.name), escape(view.gate_budget(gate)), observed, verdict])
    yield ""
    for gate in gates:
        if gate.message and not gate.passed:
            yield from (f"{_sign(gate)} {escape(gate.message)}", "")


def _changes(step: StepReport) -> Iterator[str]:
    changes = step.changes
    if changes is None:
        return
    agreement = _html(changes.agreement.format())
    lost = "not defined for this task" if changes.right_to_wrong is None else changes.right_to_wrong
    yield (
        f"<details><summary>{_html(step.name)}: {lost} of {changes.n} examples went from right to"
        f" wrong; agreement {agreement}</summary>"
    )
    yield ""
    if changes.wrong_to_right is not None:
        yield from (f"{changes.wrong_to_right} went from wrong to right.", "")
    classes = view.worst_classes(changes)
    if classes:
        yield from _rows(["Class", "Examples", "Original", "Now", "Drop"], numbers=1)
        for c in classes:
            yield _line([escape(c.name), str(c.n), c.original, c.now, _cell(c.drop)])
        yield ""
        if len(changes.per_class) > len(classes):
            yield from (f"The {len(classes)} worst of {len(changes.per_class)} classes.", "")
    if changes.examples:
        ids = ", ".join(escape(e.id) for e in changes.examples[:_EXAMPLES])
        more = ", …" if len(changes.examples) > _EXAMPLES else ""
        yield from (f"From right to wrong: {ids}{more}", "")
    yield from ("</details>", "")


def _frozen(report: RunReport) -> Iterator[str]:
    for place, step in view.all_steps(report):
        found = view.frozen(step)
        if not found:
            continue
        yield from (f"**{escape(place)}** left these whole:", "")
        yield from _rows(["Cause", "Parameters", "Layers"], numbers=1)
        for f in found[:_FROZEN]:
            layers = ", ".join(f.layers[:5]) + (", …" if len(f.layers) > 5 else "")
            yield _line([escape(f.operator), escape(count_text(f.parameters)), escape(layers)])
        yield ""


def _learned(report: RunReport) -> Iterator[str]:
    for place, step in view.all_steps(report):
        found = learning(step.notes)
        if found is None:
            continue
        text = f"**{escape(place)}** trained for {found.epochs} epochs. {escape(found.said)}"
        yield from (text.rstrip(), "")
        yield from _rows(["Figure", "First epoch", "Last", "Curve"], numbers=2)
        for c in found.curves:
            yield _line([escape(c.name), escape(c.first), escape(c.last), c.bars])
        yield ""


def _warnings(report: RunReport) -> Iterator[str]:
    found = list(view.warnings(report))
    if found:
        yield from ("> [!WARNING]", *(f"> {escape(w)}<br>" for w in found), "")


def _facts(report: RunReport) -> Iterator[str]:
    yield from ("<details><summary>Device, data, seed and versions</summary>", "")
    yield from _rows(["", ""], numbers=2)
    for section, facts in view.facts(report).items():
        for name, value in facts:
            yield _line([escape(f"{section}: {name}"), escape(value)])
    yield from ("", "</details>", "")
    yield (
        f"edgekit {escape(report.edgekit)} · {escape(view.when(report))} · the run took "
        f"{seconds_text(report.seconds)}, its steps {escape(view.cost_text(report))} when they were"
        " made"
    )


def _rows(titles: Sequence[str], *, numbers: int) -> Iterator[str]:
    """Head of a table whose columns are right-aligned from number `numbers` on."""
    yield _line(titles)
    yield _line(["---" if i < numbers else "--:" for i in range(len(titles))])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _html(text: object) -> str:
    """Escape for a line of raw HTML, where Markdown's backslashes would show."""
    return html.escape(_LINKING.sub("\\1\N{ZERO WIDTH SPACE}", printable(text)))
