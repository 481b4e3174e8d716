"""Learning curves in the reports, from the history in a step's notes."""

import pytest

from edgekit.report.html import html
from edgekit.report.learning import HEIGHT, WIDTH, learning
from edgekit.report.markdown import markdown

HISTORY = {
    "metric": "accuracy",
    "best_epoch": 3,
    "gap": 0.0625,
    "epochs": [
        {"loss": 2.0, "accuracy": None, "validation": 0.5, "fit": 0.5},
        {"loss": 1.5, "accuracy": None, "validation": 0.75, "fit": 0.8},
        {"loss": 1.0, "accuracy": None, "validation": 0.7, "fit": 1.0},
    ],
}


def test_curves_rise_and_fall_as_the_figures_do() -> None:
    found = learning({"history": HISTORY})
    assert found.epochs == 3
    assert found.said == (
        "The weights of epoch 3 were kept. Training samples minus held-out samples: 0.062."
    )
    loss, fit, held_out = found.curves
    assert (loss.name, loss.first, loss.last, loss.bars) == ("loss", "2.0000", "1.0000", "█▅▁")
    assert loss.points == f"0.0,0.0 {WIDTH / 2:.1f},{HEIGHT / 2:.1f} {WIDTH:.1f},{HEIGHT:.1f}"
    assert (fit.name, held_out.name) == ("accuracy on training samples", "accuracy held out")
    assert held_out.bars[1] == "█"


def test_long_ones_are_thinned_and_flat_ones_drawn_in_the_middle() -> None:
    epochs = [{"loss": 1.0} for _ in range(100)]
    (curve,) = learning({"history": {"epochs": epochs}}).curves
    assert 30 < len(curve.bars) <= 40
    assert set(curve.bars) == {"▅"}
    assert len(curve.points.split()) == 100


@pytest.mark.parametrize(
    "notes",
    [
        {},
        {"history": 3},
        {"history": {"epochs": []}},
        {"history": {"epochs": "x"}},
    ],
)
def test_steps_that_did_not_train_have_none(notes) -> None:
    assert learning(notes) is None


def test_notes_of_any_form_do_no_harm() -> None:
    found = learning({"history": {"epochs": [1, {"loss": "x"}]}})
    assert found.curves == ()


def test_both_reports_show_them(report) -> None:
    pytest.importorskip("jinja2")
    branch = report.branches[0]
    step = branch.steps[0].model_copy(update={"notes": {"history": HISTORY}})
    run = report.model_copy(
        update={"branches": (branch.model_copy(update={"steps": (step, *branch.steps[1:])}),)}
    )
    assert "█▅▁" not in markdown(report)
    assert "| loss | 2.0000 | 1.0000 | █▅▁ |" in markdown(run)
    page = html(run)
    assert "How training went" in page
    assert 'points="0.0,0.0 150.0,45.0 300.0,90.0"' in page
    assert "How training went" not in html(report)
