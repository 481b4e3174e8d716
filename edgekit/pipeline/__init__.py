"""Run recipes and single passes: what the command line and Python scripts call."""

from edgekit.pipeline.bench_request import BenchRequest
from edgekit.pipeline.benchmark import bench_models
from edgekit.pipeline.convert import convert_model
from edgekit.pipeline.gates import raise_for_verdict
from edgekit.pipeline.lint import lint_model, raise_unless_ok
from edgekit.pipeline.measure import cpu_threads
from edgekit.pipeline.plan import explain, locate
from edgekit.pipeline.preflight import preflight_model, raise_unless_fit
from edgekit.pipeline.run import run_recipe
from edgekit.pipeline.sarif import sarif_from_report
from edgekit.pipeline.single import (
    apply,
    capture,
    compare_models,
    evaluate_model,
    examine_machine,
    inspect,
)
from edgekit.pipeline.snippet import write_snippet

__all__ = [
    "BenchRequest",
    "apply",
    "bench_models",
    "capture",
    "compare_models",
    "convert_model",
    "cpu_threads",
    "evaluate_model",
    "examine_machine",
    "explain",
    "inspect",
    "lint_model",
    "locate",
    "preflight_model",
    "raise_for_verdict",
    "raise_unless_fit",
    "raise_unless_ok",
    "run_recipe",
    "sarif_from_report",
    "write_snippet",
]
