import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgekit.errors import UsageError
from edgekit.report.schema import Figure, RunReport, StepReport, json_schema, read

SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"


def test_a_report_survives_json(report):
    assert RunReport.model_validate_json(report.model_dump_json()) == report


def test_a_report_is_read_from_its_file(report, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(report.model_dump_json(indent=2))
    assert read(path) == report


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "the file"),
        ("{}", "edgekit"),
        ('{"schema_version": 2}', "schema_version"),
    ],
)
def test_another_file_is_refused_by_name(tmp_path, text, named):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=named):
        read(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.json"):
        read(tmp_path / "gone.json")


def test_a_report_cannot_be_changed_or_extended(report):
    with pytest.raises(ValidationError, match="frozen"):
        report.seed = 1
    with pytest.raises(ValidationError, match="extra"):
        StepReport(name="prune", speed_up=2)


def test_what_was_not_measured_is_unavailable_and_not_zero():
    step = StepReport(name="prune")
    assert step.energy_j.label == "unavailable"
    assert step.energy_j.value is None
    assert step.latency_p50_ms.unit == "ms"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"label": "unavailable", "value": 0.0}, "no number"),
        ({"label": "measured"}, "no number"),
        ({"value": 1.0, "low": 2.0, "high": 1.0}, "upside down"),
        ({"value": float("nan")}, "finite"),
        ({"value": 1.0, "label": "guessed"}, "label"),
    ],
)
def test_a_figure_that_contradicts_itself_is_refused(fields, problem):
    with pytest.raises(ValidationError, match=problem):
        Figure(**fields)


def test_points_are_hundredths_of_a_fraction():
    drop = Figure(value=0.02, low=-0.01, high=0.05, unit="fraction")
    assert drop.in_points() == Figure(value=2.0, low=-1.0, high=5.0, unit="points")
    decibels = Figure(value=0.2, unit="dB")
    assert decibels.in_points() == decibels


def test_the_published_json_schema_is_that_of_the_code():
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("EDGEKIT_UPDATE_GOLDEN"):
        SCHEMA.write_text(text, encoding="utf-8")
    assert SCHEMA.read_text(encoding="utf-8") == text


def test_every_field_of_the_report_is_told_apart_from_its_absence():
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert all(d["additionalProperties"] is False for d in schema["$defs"].values())
