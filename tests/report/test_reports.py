# ruff: noqa: S314 - the signs are what a reader sees; the XML is our own
"""The Markdown, JUnit and HTML reports against golden files and against hostile names.

`EDGEKIT_UPDATE_GOLDEN=1 pytest tests/report` writes the golden files again; read the difference.
"""

import builtins
import os
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from edgekit.errors import UnavailableError
from edgekit.report import plots, view
from edgekit.report.html import html
from edgekit.report.junit import junit
from edgekit.report.markdown import escape, markdown
from edgekit.report.schema import BranchReport, Changes, Figure, GateReport, RunReport, StepReport

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "a|b\n\n# heading\n| x |",
    "`code` *bold* [link](https://evil.example) ![i](x) @octocat #12 &lt; $x$",
    "{{ 7 * 7 }} {% include 'x' %}",
    "nul\x00 esc\x1b rtl\u202e ]]> --> </details></svg></style>",
    "",
    "n" * 300,
)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def hostile_report(bad):
    step = StepReport(
        name=bad,
        kind=bad,
        path=bad,
        size_bytes=10,
        macs=10,
        metric=Figure(value=0.5, unit="fraction", note=bad),
        latency_p50_ms=Figure(value=1.0, unit="ms"),
        notes={
            "frozen": {bad: {"parameters": 3, "layers": [bad]}},
            "groups": [{"layers": [bad], "before": 4, "after": 2}],
            "excluded": [[bad, bad]],
        },
        warnings=(bad,),
        status="failed",
        reason=bad,
        changes=Changes.model_validate(
            {
                "n": 1,
                "right_to_wrong": 1,
                "per_class": [{"name": bad, "n": 1, "original": 1.0, "now": 0.0}],
                "examples": [{"id": bad, "target": bad, "original": bad, "now": bad}],
            }
        ),
    )
    gate = GateReport(
        name=bad,
        budget=1.0,
        observed=Figure.unavailable("ms", bad),
        passed=False,
        message=bad,
    )
    branch = BranchReport.model_validate(
        {
            "name": bad,
            "target": bad,
            "original": step.model_copy(update={"status": "done"}),
            "steps": (step,),
            "gates": (gate,),
            "status": "failed",
            "reason": bad,
            "profile": [{"layer": bad, "op": bad, "ms": 0.1}],
        }
    )
    return RunReport(
        edgekit=bad,
        recipe=bad,
        seed=0,
        started_utc=bad,
        seconds=1.0,
        metric=bad,
        versions={bad: bad},
        device={bad: {bad: [bad]}},
        data={bad: bad},
        original=step,
        branches=(branch, BranchReport(name=bad, status="skipped", reason=bad)),
        gates=(gate,),
        warnings=(bad,),
        verdict="failed",
    )


@pytest.mark.parametrize(
    ("write", "name"),
    [(markdown, "report.md"), (junit, "junit.xml"), (html, "report.html")],
)
def test_reports_are_as_they_were_agreed(report, write, name):
    pytest.importorskip("jinja2")
    path = GOLDEN / name
    text = write(report)
    if os.environ.get("EDGEKIT_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


# --- HTML


@pytest.fixture(scope="module")
def page(report):
    pytest.importorskip("jinja2")
    return Page(html(report))


def test_the_page_asks_the_network_for_nothing(report, page):
    text = html(report)
    policy = next(m for m in page.all("meta") if m.get("http-equiv"))
    assert policy["content"].startswith("default-src 'none'")
    for tag, attrs in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "img", "base", "form"}
        assert not [a for a in attrs if a.startswith("on")]
        for key in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert attrs.get(key) in {None, "data:,"}
    assert "@import" not in text
    assert "url(" not in text


def test_the_page_says_what_was_asked(page):
    for said in (
        "41 of 2000",
        "pip install edgekit[tensorrt]",
        "unavailable",
        "not estimable: 40 independent runs, 299 are needed",
        "aten.layer_norm.default",
        "fewer than 16 channels",
        "Fixture CPU @ 2.00 GHz",
        "seed 7",
        "emulated",
        "[0.181, 0.186]",
        "+11.8 points",
        "1 of 4 gates beyond budget",
    ):
        assert said in page.text


def test_tables_and_plots_can_be_heard(page):
    headings = page.all("th")
    assert all(h.get("scope") in {"col", "row"} or h.get("aria-hidden") for h in headings)
    plots_seen = [s for s in page.all("svg") if s.get("role") == "img"]
    assert len(plots_seen) == 8
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for plot in plots_seen:
        assert set(plot["aria-labelledby"].split()) <= set(ids)
    scrollers = [d for d in page.all("div") if d.get("class") == "scroll"]
    assert scrollers
    assert all(d.get("aria-label") and d.get("tabindex") == "0" for d in scrollers)
    assert page.all("html")[0]["lang"] == "en"


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_names_stay_text(bad):
    pytest.importorskip("jinja2")
    page = Page(html(hostile_report(bad)))
    assert not {"script", "img", "h4", "iframe"} & {tag for tag, _ in page.tags}
    assert "{{ 7 * 7 }}" in page.text or "{{" not in bad
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\u202e]", page.text)
    for tag, attrs in page.tags:
        assert not [a for a in attrs if a.startswith("on")], tag


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("ink", "page"),
        ("ink", "paper"),
        ("ink", "soft"),
        ("ink", "warn-soft"),
        ("quiet", "page"),
        ("quiet", "paper"),
        ("quiet", "soft"),
        ("accent", "paper"),
        ("pass", "pass-soft"),
        ("fail", "fail-soft"),
        ("skip", "skip-soft"),
    ],
)
def test_text_stands_out_from_its_ground(theme, text, ground):
    css = (Path(plots.__file__).parent / "templates" / "report.css").read_text()
    block = css.split(":root {")[1 if theme == "light" else 2]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block.split("}")[0]))
    bright, dim = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
    assert (bright + 0.05) / (dim + 0.05) >= 4.5  # WCAG 2.2, success criterion 1.4.3


def test_without_jinja_the_error_names_the_extra(report, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "jinja2":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnavailableError, match=r"edgekit\[report\]"):
        html(report)
    assert markdown(report)
    assert junit(report)


# --- Markdown


def test_markdown_tables_have_as_many_cells_as_headings(report):
    for text in (markdown(report), *(markdown(hostile_report(bad)) for bad in HOSTILE)):
        width = 0
        for line in text.splitlines():
            if not line.startswith("|"):
                width = 0
                continue
            cells = len(re.findall(r"(?<!\\)\|", line))
            width = width or cells
            assert cells == width, line


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_names_cannot_write_markdown(bad):
    text = markdown(hostile_report(bad))
    assert not re.search(r"(?<!\\)<(?!/?(details|summary|sup|br)>)", text)
    assert "@octocat" not in text
    assert "https://" not in text
    assert "\n# heading" not in text


def test_escaping_keeps_plain_names_readable():
    assert escape("layers.0.conv_1") == "layers.0.conv_1"
    assert escape("_private_ a|b") == "\\_private\\_ a\\|b"


def test_a_run_without_branches_shows_its_chain(report):
    alone = report.model_copy(update={"branches": (), "verdict": "passed"})
    assert "distill" in markdown(alone)
    assert "No gates were set." in markdown(alone)
    pytest.importorskip("jinja2")
    assert "distill" in Page(html(alone)).text


# --- JUnit


def test_junit_has_one_test_case_for_each_gate(report):
    root = fromstring(junit(report))
    gates = [c for c in root.iter("testcase") if c.get("name") != "branch"]
    assert len(gates) == len(list(report.all_gates()))
    assert root.attrib | {"time": ""} == {
        "name": "edgekit fashion-cnn",
        "tests": "5",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
        "time": "",
    }


def test_junit_shows_a_failure_that_no_gate_shows(report):
    failed = BranchReport(
        name="pi",
        status="failed",
        steps=(StepReport(name="quantize", status="failed", reason="out of memory"),),
    )
    silent = BranchReport(name="rtx", status="failed", reason="lost")
    root = fromstring(junit(report.model_copy(update={"branches": (failed, silent)})))
    assert [e.get("message") for e in root.iter("error")] == ["out of memory", "lost"]
    assert root.get("errors") == "2"


@pytest.mark.parametrize("bad", HOSTILE)
def test_junit_is_well_formed_whatever_the_names(bad):
    root = fromstring(junit(hostile_report(bad)))
    assert root.get("failures") == "2"


# --- what is shown


def test_a_branch_that_stopped_half_way_shows_what_it_made(report):
    pytest.importorskip("jinja2")
    made = report.branches[0].steps[0]
    lost = StepReport(name="build-tensorrt", status="skipped", reason="no TensorRT")
    half = BranchReport(name="rtx", status="skipped", reason="no TensorRT", steps=(made, lost))
    run = report.model_copy(update={"branches": (half,)})
    assert view.final(run, half) is None
    for text in (markdown(run), Page(html(run)).text):
        assert "export-onnx" in text
        assert "0.276 ms" in text
        assert "no TensorRT" in text


def test_the_page_tells_the_changes_of_every_step_and_markdown_those_of_the_last(report):
    pytest.importorskip("jinja2")
    branch = report.branches[0]
    changed = branch.steps[-1].changes
    early = branch.steps[0].model_copy(update={"changes": changed.model_copy(update={"n": 777})})
    both = branch.model_copy(update={"steps": (early, branch.steps[-1])})
    run = report.model_copy(update={"branches": (both,)})
    page = Page(html(run))
    assert "41 of 777" in page.text
    assert "41 of 2000" in page.text
    assert "41 of 777" not in markdown(run)
    assert "41 of 2000" in markdown(run)


def test_notes_of_any_form_do_no_harm():
    for notes in (
        {"frozen": 3},
        {"frozen": {"op": "x"}},
        {"excluded": "x"},
        {"excluded": [1]},
        {"groups": 4},
        {"groups": [{"layers": 3}, {"layers": ["a"], "before": None, "after": 1}, 7]},
    ):
        step = StepReport(name="s", notes=notes)
        assert view.widths(step) == ()
        assert all(f.parameters is None for f in view.frozen(step))
        assert view.excluded(step) == ()
    counted = StepReport(name="s", notes={"frozen": {"a": 1, "b": [5, "l0", "l1"], "c": None}})
    assert [(f.operator, f.parameters, f.layers) for f in view.frozen(counted)] == [
        ("b", 5, ("l0", "l1")),
        ("a", 1, ()),
        ("c", None, ()),
    ]


def test_layers_that_kept_their_width_are_not_listed():
    groups = [
        {"layers": ["a", "b"], "before": 8, "after": 4},
        {"layers": ["c"], "before": 8, "after": 8},
    ]
    step = StepReport(name="prune", notes={"groups": groups})
    assert view.widths(step) == (view.Width(("a", "b"), 8, 4),)


@pytest.mark.parametrize(
    ("now", "original", "text"),
    [
        (25, 100, "4.00× smaller"),
        (100, 25, "4.00× larger"),
        (5, 100, "20.0× smaller"),
        (100, 100, "same"),
        (None, 100, ""),
        (0, 100, ""),
    ],
)
def test_sizes_are_compared_in_words(now, original, text):
    assert view.smaller_text(now, original) == text


def test_every_tick_is_round_and_the_span_is_covered():
    for low, high in [(0.0, 0.65), (0.889, 0.921), (-3.0, 8.0), (1e-7, 3e-7), (0.0, 12345.0)]:
        ticks = plots.nice_ticks(low, high)
        steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in pairwise(ticks)}
        assert steps == {1.0}
        assert ticks[0] <= low + 1e-12
        assert ticks[-1] >= high - 1e-12
        assert 3 <= len(ticks) <= 8
    with pytest.raises(ValueError, match="no span"):
        plots.nice_ticks(1.0, 1.0)


def test_points_stand_where_their_figures_are(report):
    branch = report.branches[0]
    plot = plots.scatter(view.steps(report, branch))
    names = ["original", "prune", "distill", "export-onnx", "quantize"]
    assert [p.name for p in plot.points] == names
    assert plot.absent == ()
    original, last = plot.points[0], plot.points[-1]
    assert last.x < original.x
    assert last.y > original.y
    assert last.top < last.y < last.bottom
    scale = (plot.right - plot.left) / 0.8
    assert last.x == pytest.approx(plot.left + 0.184 * scale, abs=0.1)


def test_names_in_the_plot_cover_nothing_and_points_on_one_spot_share_one(report):
    plot = plots.scatter(view.steps(report, report.branches[0]))
    assert {t.text for t in plot.labels} == {
        "original",
        "prune",
        "quantize",
        "distill, export-onnx",
    }
    boxes = []
    for label in plot.labels:
        width = len(label.text) * 6
        left = label.x - {"start": 0, "middle": width / 2, "end": width}[label.anchor]
        boxes.append((left, label.y - 10, left + width, label.y + 2))
    dots = [(p.x - 6, p.y - 6, p.x + 6, p.y + 6) for p in plot.points]
    for i, box in enumerate(boxes):
        assert plot.left <= box[0] <= box[2] <= plot.width
        for other in (*dots, *boxes[:i]):
            apart = box[2] <= other[0] or other[2] <= box[0]
            assert apart or box[3] <= other[1] or other[3] <= box[1]


def test_a_name_in_the_plot_is_nearer_to_its_own_point_than_to_any_other():
    """Three steps on one spot have a long name, and another step's point lies to their left."""
    found = ((0.0855, 1.0), (0.0592, 0.5), (0.0594, 1.0), (0.0595, 0.989), (0.0595, 0.989))
    names = ("original", "prune", "distill", "fine-tune", "export-onnx", "quantize")
    steps = [
        StepReport(
            name=name,
            metric=Figure(value=metric, unit="fraction"),
            latency_p50_ms=Figure(value=ms, unit="ms"),
        )
        for name, (ms, metric) in zip(names, (*found, (0.0381, 0.989)), strict=True)
    ]
    plot = plots.scatter(steps)
    points = {p.name: p for p in plot.points}
    assert {t.text for t in plot.labels} >= {"original", "quantize", "distill … export-onnx"}
    for label in plot.labels:
        width = len(label.text) * 6
        left = label.x - {"start": 0, "middle": width / 2, "end": width}[label.anchor]
        away = {
            name: max(left - p.x, 0, p.x - left - width) + max(label.y - 10 - p.y, 0, p.y - label.y)
            for name, p in points.items()
        }
        of = {"distill", "fine-tune", "export-onnx"} if "…" in label.text else {label.text}
        assert min(away, key=away.get) in of, (label, away)


def test_slowest_layers_have_their_share(report):
    pytest.importorskip("jinja2")
    branch = report.branches[0]
    layers = [
        layer.model_copy(update={"share": share})
        for layer, share in zip(branch.profile, (0.48, 0.4, 0.054), strict=True)
    ]
    run = report.model_copy(update={"branches": (branch.model_copy(update={"profile": layers}),)})
    text = html(run)
    for share, ms in (("48 %", "0.051 ms"), ("40 %", "0.044 ms"), ("5 %", "0.006 ms")):
        assert f'<td data-label="Share">{share}</td><td data-label="Time">{ms}</td>' in text


def test_on_a_narrow_screen_every_cell_of_a_stacked_row_says_what_it_is(report):
    pytest.importorskip("jinja2")
    for table in re.findall(r'<table class="stack">.*?</table>', html(report), re.DOTALL):
        cells = re.findall(r"<td[^>]*>", table)
        assert cells
        assert all("data-label=" in cell or "aria-hidden" in cell for cell in cells), table


def test_steps_without_a_latency_are_named_beside_the_plot(report):
    plot = plots.scatter(view.steps(report, report.branches[1]))
    assert [p.name for p in plot.points] == ["original", "quantize"]
    assert plot.absent == ("prune", "distill")


def test_one_known_point_is_no_plot(report):
    assert plots.scatter(report.shared) is None
    assert plots.bars((StepReport(name="a"), StepReport(name="b"))) == ()


def test_bars_are_relative_to_the_original(report):
    panels = {p.title: p for p in plots.bars(view.steps(report, report.branches[0]))}
    assert list(panels) == ["Latency", "Size", "MACs"]
    size = panels["Size"]
    assert size.bars[0].width == size.width == size.baseline
    assert size.bars[-1].width == pytest.approx(size.width * 121_904 / 1_124_332, abs=0.1)
    latency = panels["Latency"].bars[-1]
    assert latency.width == pytest.approx(size.width / 3.32, abs=0.1)
    assert latency.low < latency.width < latency.high


def test_a_slower_model_is_drawn_beyond_the_original():
    steps = [StepReport(name=n, size_bytes=b) for n, b in (("original", 100), ("bigger", 200))]
    (panel,) = plots.bars(steps)
    assert panel.bars[1].width == panel.width
    assert panel.baseline == panel.width / 2
