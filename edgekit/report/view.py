"""What the Markdown and the HTML report show, worked out once: rows, cells, gates, changes.

Texts here are plain; each report escapes them for its own format.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, get_args

from edgekit.report.schema import (
    BranchReport,
    Changes,
    Figure,
    GateReport,
    Outcome,
    RunReport,
    StepReport,
)
from edgekit.report.text import (
    DASH,
    TIMES,
    bytes_text,
    count_text,
    exact_text,
    figure_parts,
    number,
    seconds_text,
)

WORST_CLASSES = 20
_COLUMNS = re.compile(r" {2,}")


@dataclass(frozen=True)
class Cell:
    """One cell: the figure, what stands under it, its label and its footnote.

    Attributes:
        main: the figure.
        sub: interval or change, may be empty.
        label: how it is known, empty where it was measured or counted.
        mark: number of its footnote, 0 for none.
    """

    main: str
    sub: str = ""
    label: str = ""
    mark: int = 0


@dataclass(frozen=True)
class Row:
    """One line of a branch's table."""

    step: StepReport
    status: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Column:
    """One heading, and one line that says what stands under it."""

    title: str
    hint: str


@dataclass(frozen=True)
class Table:
    """The table of one branch."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...]


@dataclass
class _Footnotes:
    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> int:
        if not text:
            return 0
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def steps(report: RunReport, branch: BranchReport | None) -> tuple[StepReport, ...]:
    """The original, the shared chain, and the branch's own steps, in order."""
    if branch is None:
        return (report.original, *report.shared)
    original = branch.original or report.original
    return (original, *(branch.shared or report.shared), *branch.steps)


def final(report: RunReport, branch: BranchReport) -> StepReport | None:
    """The artifact that a branch ends with; None where a step of it is missing."""
    chain = steps(report, branch)[1:]
    whole = branch.status != "skipped" and all(s.status in {"done", "cached"} for s in chain)
    return chain[-1] if chain and whole else None


def has_results(branch: BranchReport) -> bool:
    """Whether there is more to tell of a branch than why it was skipped."""
    if branch.status != "skipped":
        return True
    return any(s.status in {"done", "cached"} for s in branch.steps)


def headline(report: RunReport) -> str:
    """The run in one sentence: gates that failed, branches that were skipped or failed."""
    given = list(report.all_gates())
    skipped = {b.name for b in report.branches if b.status == "skipped"}
    gates = [g for g in given if g.branch not in skipped]
    failed = [g.outcome for g in gates if not g.passed]
    if not gates:
        text = "No gates were judged" if given else "No gates were set"
    elif failed:
        text = f"{len(failed)} of {_plural(len(gates), 'gate')} {_outcomes(failed)}"
    else:
        text = f"{'All ' if len(gates) > 1 else ''}{_plural(len(gates), 'gate')} within budget"
    for status in ("failed", "skipped"):
        names = [b.name for b in report.branches if b.status == status]
        if names:
            text += f"; {status}: {', '.join(names)}"
    return text + "."


def _outcomes(failed: Sequence[Outcome]) -> str:
    """What became of gates that are not held: `beyond budget`, `not held (not measured)`."""
    counts = {each: failed.count(each) for each in get_args(Outcome) if each in failed}
    if list(counts) == ["beyond budget"]:
        return "beyond budget"
    if len(counts) == 1:
        return f"not held ({next(iter(counts))})"
    return f"not held ({', '.join(f'{n} {each}' for each, n in counts.items())})"


def gate_verdict(gate: GateReport) -> str:
    """A gate's verdict in a word or two: `pass`, `fail`, `not measured`."""
    return {"held": "pass", "beyond budget": "fail"}.get(gate.outcome, gate.outcome)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def when(report: RunReport) -> str:
    """When the run started, to the minute; as it stands where it is not ISO 8601."""
    try:
        started = datetime.fromisoformat(report.started_utc)
    except ValueError:
        return report.started_utc
    return f"{started:%Y-%m-%d %H:%M} UTC"


def metric_name(report: RunReport) -> str:
    """The metric's name as a heading."""
    name = report.metric or "metric"
    return name[0].upper() + name[1:]


def columns(report: RunReport) -> tuple[Column, ...]:
    """The headings of a branch's table, after the step's name."""
    way = "higher" if report.higher_is_better else "lower"
    return (
        Column(metric_name(report), f"on the evaluation split; {way} is better"),
        Column("Drop", "against the original; positive is worse"),
        Column("Latency p50", "median latency"),
        Column("p90", "90th percentile of latency"),
        Column("p99", "99th percentile of latency"),
        Column("Speed-up", "original's median latency divided by this one's, interleaved"),
        Column("Size", "what must be shipped"),
        Column("MACs", "multiply-accumulates for one sample"),
        Column("Energy", "for one inference"),
        Column("Took", "wall time of the step itself: the cost of compressing"),
    )


def table(report: RunReport, branch: BranchReport | None) -> Table:
    """Lay out one branch, or the shared chain where there is no branch."""
    notes = _Footnotes()
    lines = steps(report, branch)
    original = lines[0]
    rows = tuple(_row(step, original, notes, first=i == 0) for i, step in enumerate(lines))
    return Table(columns(report), rows, tuple(notes.texts))


def _row(step: StepReport, original: StepReport, notes: _Footnotes, *, first: bool) -> Row:
    def figure(value: Figure, *, signed: bool = False, baseline: str = "") -> Cell:
        return Cell(baseline) if first and baseline else figure_cell(value, notes, signed=signed)

    spent = [str(step.cost_j)] if step.cost_j.value is not None else []
    took = ", ".join([*spent, *(["cached"] if step.cached else [])])
    cells = (
        figure(step.metric),
        figure(step.metric_drop.in_points(), signed=True, baseline="baseline"),
        figure(step.latency_p50_ms),
        figure(step.latency_p90_ms),
        figure(step.latency_p99_ms),
        figure(step.speedup, baseline="baseline"),
        _counted(step.size_bytes, original.size_bytes, bytes_text, first=first),
        _counted(step.macs, original.macs, count_text, first=first),
        figure(step.energy_j),
        Cell(DASH) if step.seconds is None else Cell(seconds_text(step.seconds), took),
    )
    return Row(step, step_status(step), cells)


def step_status(step: StepReport) -> str:
    """What to say of a step that did not run to its end."""
    return step.status if step.status in {"skipped", "failed"} else ""


@dataclass(frozen=True)
class Details:
    """Lines under a reason: a table where they are one, else text.

    Attributes:
        rows: cells, the headings first; every row has as many; empty where it is no table.
        text: the lines as they are.
    """

    rows: tuple[tuple[str, ...], ...]
    text: str


def details(step: StepReport) -> Details | None:
    """The lines that belong to why a step failed; None where there are none."""
    if not step.details:
        return None
    rows = tuple(tuple(_COLUMNS.split(line.strip())) for line in step.details.splitlines())
    whole = len(rows) > 1 and len(rows[0]) > 1 and len({len(row) for row in rows}) == 1
    return Details(rows if whole else (), step.details)


def figure_cell(figure: Figure, notes: _Footnotes | None = None, *, signed: bool = False) -> Cell:
    """A figure with its interval under it, its label where not measured, its note as footnote."""
    main, sub = figure_parts(figure.value, figure.low, figure.high, figure.unit, signed=signed)
    label = "" if figure.label in {"measured", "unavailable"} else figure.label
    if figure.label == "unavailable" and figure.note.lower().startswith("not estimable"):
        main = "not estimable"
    return Cell(main, sub, label, notes.mark(figure.note) if notes else 0)


def _counted(now: int | None, original: int | None, write: Any, *, first: bool) -> Cell:
    return Cell(write(now), "" if first else smaller_text(now, original))


def smaller_text(now: float | None, original: float | None) -> str:
    """How two sizes compare: `3.64x smaller`, `same`, `1.05x larger` with a times sign."""
    if not now or not original:
        return ""
    ratio = max(now, original) / min(now, original)
    if ratio < 1.005:
        return "same"
    digits = 1 if ratio >= 10 else 2
    return f"{number(ratio, digits)}{TIMES} {'smaller' if now < original else 'larger'}"


def gate_budget(gate: GateReport) -> str:
    """A gate's budget with its sign: `≤ 1.00 points`."""
    budget = Figure(value=gate.budget, unit=gate.observed.unit, label="derived")
    sign = "≤" if gate.at_most else "≥"
    told = _gate_figure(budget, gate)
    return f"{sign} {exact_text(told.value or 0.0, told.unit)}"


def gate_observed(gate: GateReport) -> Cell:
    """What a gate saw."""
    return figure_cell(_gate_figure(gate.observed, gate))


def _gate_figure(figure: Figure, gate: GateReport) -> Figure:
    """A drop is told in points; a share such as agreement stays a percentage."""
    return figure.in_points() if "drop" in gate.name else figure


def all_steps(report: RunReport) -> Iterator[tuple[str, StepReport]]:
    """Yield every step that the run made, with its place such as `x86/quantize`."""
    for step in report.shared:
        yield step.name, step
    for branch in report.branches:
        for step in branch.steps:
            yield f"{branch.name}/{step.name}", step


def cost_text(report: RunReport) -> str:
    """What the steps took when they were made, cached ones included: `41 s and 3.2 kJ`."""
    seconds = report.cost_seconds
    if seconds is None:
        seconds = sum(step.seconds or 0.0 for _, step in all_steps(report))
    if report.cost_j.value is None:
        return seconds_text(seconds)
    label = "estimated, " if report.cost_j.label == "estimated" else ""
    return f"{seconds_text(seconds)} and {report.cost_j} ({label}{report.cost_j.note})"


@dataclass(frozen=True)
class Frozen:
    """What an operator without a pruning rule froze."""

    operator: str
    parameters: int | None
    layers: tuple[str, ...]


def frozen(step: StepReport) -> tuple[Frozen, ...]:
    """Operators that froze parameters, largest first, from a pruning step's notes."""
    found = step.notes.get("frozen")
    if not isinstance(found, Mapping):
        return ()
    items = [_frozen(str(op), value) for op, value in found.items()]
    return tuple(sorted(items, key=lambda f: (-(f.parameters or 0), f.operator)))


def _frozen(operator: str, value: Any) -> Frozen:
    if isinstance(value, Mapping):
        count, layers = value.get("parameters"), value.get("layers", ())
    elif isinstance(value, list | tuple):
        count, layers = next((v for v in value if isinstance(v, int)), None), value
    else:
        count, layers = value, ()
    names = [layers] if isinstance(layers, str) else layers
    flat = tuple(str(v) for v in names if isinstance(v, str)) if names else ()
    return Frozen(operator, count if isinstance(count, int) else None, flat)


@dataclass(frozen=True)
class Width:
    """The width of coupled layers before and after pruning."""

    layers: tuple[str, ...]
    before: int
    after: int


def widths(step: StepReport) -> tuple[Width, ...]:
    """Layers that pruning made narrower, in the order of the graph, from its notes."""
    found = step.notes.get("groups")
    if not isinstance(found, list | tuple):
        return ()
    groups = [g for g in found if isinstance(g, Mapping)]
    known = [g for g in groups if isinstance(g.get("layers"), list | tuple)]
    return tuple(
        Width(tuple(map(str, g["layers"])), g["before"], g["after"])
        for g in known
        if isinstance(g.get("before"), int)
        and isinstance(g.get("after"), int)
        and g["before"] != g["after"]
    )


@dataclass(frozen=True)
class Excluded:
    """A layer that stayed in float, and why."""

    layer: str
    reason: str


def excluded(step: StepReport) -> tuple[Excluded, ...]:
    """Layers that a quantizing step left in float, from its notes."""
    found = step.notes.get("excluded")
    if not isinstance(found, list | tuple):
        return ()
    pairs = [x for x in found if isinstance(x, list | tuple) and len(x) == 2]
    return tuple(Excluded(str(layer), str(reason)) for layer, reason in pairs)


@dataclass(frozen=True)
class ClassLine:
    """One class of the table of per-class drops."""

    name: str
    n: int
    original: str
    now: str
    drop: Cell
    points: float


def worst_classes(changes: Changes) -> tuple[ClassLine, ...]:
    """The classes that lost most, worst first, at most `WORST_CLASSES` of them."""
    ordered = sorted(changes.per_class, key=lambda c: (-(c.drop.value or 0.0), c.name))
    return tuple(
        ClassLine(
            name=c.name,
            n=c.n,
            original=_share(c.original),
            now=_share(c.now),
            drop=figure_cell(c.drop.in_points(), signed=True),
            points=(c.drop.in_points().value or 0.0),
        )
        for c in ordered[:WORST_CLASSES]
    )


def _share(value: float | None) -> str:
    if value is None:
        return "unavailable"
    return Figure(value=value, unit="fraction").format()


def flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested facts as lines: `splits: {train: 800}` becomes (`splits train`, `800`)."""
    for key, value in data.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from flat(value, name)
        elif isinstance(value, list | tuple):
            yield name, ", ".join(map(str, value))
        elif value is not None:
            yield name, str(value)


def warnings(report: RunReport) -> Iterator[str]:
    """Warnings of the run and of its steps, each once, each with its step's name."""
    yield from report.warnings
    if report.quick:
        yield "Latencies come from the short benchmark protocol (quick); do not publish them."
    for place, step in (("original", report.original), *all_steps(report)):
        yield from (f"{place}: {text}" for text in dict.fromkeys(step.warnings))


def facts(report: RunReport) -> dict[str, list[tuple[str, str]]]:
    """What someone needs to run it again: device, data, run and versions."""
    run = [
        ("recipe", report.recipe),
        ("seed", str(report.seed)),
        ("started (UTC)", report.started_utc),
        ("edgekit", report.edgekit),
    ]
    sections = {
        "device": list(flat(report.device)),
        "data": list(flat(report.data)),
        "run": run,
        "versions": list(flat(report.versions)),
    }
    return {name: lines for name, lines in sections.items() if lines}
