"""The report as one HTML file that asks the network for nothing: inline style, inline SVG."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import UnavailableError
from edgekit.report import plots, view
from edgekit.report.learning import HEIGHT, WIDTH, learning
from edgekit.report.schema import BranchReport, RunReport, StepReport
from edgekit.report.text import (
    count_text,
    microseconds_text,
    printable,
    seconds_text,
    share_text,
)

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class _Part:
    """One branch, laid out."""

    branch: BranchReport
    steps: tuple[StepReport, ...]
    table: view.Table
    row: view.Row | None
    scatter: plots.Scatter | None
    bars: tuple[plots.Bars, ...]


def html(report: RunReport) -> str:
    """Write the report as one self-contained HTML page.

    Raises:
        UnavailableError: Jinja2 is not installed.
    """
    template = _environment().get_template("report.html.j2")
    return template.render(
        report=report,
        has_results=view.has_results,
        parts=[_part(report, branch) for branch in report.branches],
        shared=None if report.branches else view.table(report, None),
        metric=view.metric_name(report),
        warnings=list(view.warnings(report)),
        facts=view.facts(report),
        headline=view.headline(report),
        when=view.when(report),
        widths=[(p, w) for p, s in view.all_steps(report) if (w := view.widths(s))],
        frozen=[(s, f) for _, s in view.all_steps(report) if (f := view.frozen(s))],
        excluded=[(p, e) for p, s in view.all_steps(report) if (e := view.excluded(s))],
        learned=[(p, x) for p, s in view.all_steps(report) if (x := learning(s.notes))],
        size=(WIDTH, HEIGHT),
        cost=view.cost_text(report),
    )


def _part(report: RunReport, branch: BranchReport) -> _Part:
    chain = view.steps(report, branch)
    table = view.table(report, branch)
    last = view.final(report, branch)
    return _Part(
        branch=branch,
        steps=chain,
        table=table,
        row=next((r for r in reversed(table.rows) if r.step is last), None),
        scatter=plots.scatter(chain),
        bars=plots.bars(chain),
    )


def _environment() -> "Environment":
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as e:
        raise UnavailableError(
            "The HTML report needs Jinja2, which is not installed.",
            "pip install 'edgekit[report]', or take the Markdown or JSON report.",
        ) from e
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.globals.update(
        budget=view.gate_budget,
        observed=view.gate_observed,
        verdict=view.gate_verdict,
        details=view.details,
        worst=view.worst_classes,
        seconds=seconds_text,
        count=count_text,
        ms=microseconds_text,
        percent=share_text,
    )
    return environment


def _finalize(value: Any) -> Any:
    """Make hidden characters visible in every plain text; markup of our own is left alone."""
    return printable(value) if type(value) is str else value
