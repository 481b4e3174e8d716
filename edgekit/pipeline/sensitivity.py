"""What int8 does to each layer of a model: for `edgekit sensitivity`."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgekit import target as targets
from edgekit.entry import import_modules
from edgekit.errors import UsageError
from edgekit.evaluate import open_artifact
from edgekit.metrics import Task
from edgekit.passes.base import Context
from edgekit.pipeline.measure import cpu_threads
from edgekit.progress import Progress, Silent

if TYPE_CHECKING:
    from edgekit.data import DataConfig
    from edgekit.passes.quantize import Quantize

BY = ("sqnr", "metric")


def sensitivities(
    step: "Quantize",
    model: Path,
    *,
    data: "DataConfig | None",
    target: str,
    by: str = "sqnr",
    task: Task | None = None,
    seed: int = 0,
    imports: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure each layer's sensitivity to int8, and what int8 saves there.

    Args:
        step: how to quantize.
        model: an artifact's folder, a `.pt2` or an `.onnx` file.
        data: calibration samples.
        target: the target's name.
        by: what layers are ranked by: `sqnr` of the outputs, or the task's `metric`.
        task: what the network is for; the metric needs it.
        seed: every random choice comes from it.
        imports: modules that register the custom operators of a `.pt2`.
        progress: where to show the progress.

    Returns:
        `layers` (`edgekit.quantize.mixed.LayerRow` as data, the most sensitive first),
        `output_sqnr_db` with all layers in int8, `latency` in words, `method`.

    Raises:
        UsageError: there is no data, no labels for the metric, or nothing that can be quantized.
    """
    from edgekit.data import open_data
    from edgekit.passes.export_onnx import ExportOnnx
    from edgekit.quantize.mixed import analyse

    if data is None:
        raise UsageError("`sensitivity` needs data.", "Give it with --data.")
    if by not in BY:
        raise UsageError(
            f"Layers cannot be ranked by {by!r}.",
            f"Choose one of {', '.join(BY)}. A Fisher ranking needs gradients, which ONNX has not.",
        )
    import_modules(imports, Path.cwd())
    artifact = open_artifact(model, imports)
    step = step.resolve((targets.load(target),))
    with TemporaryDirectory(prefix="edgekit-sensitivity-") as name:
        folder = Path(name)
        context = Context(
            out=folder / "float32",
            seed=seed,
            task=task if by == "metric" and task is not None else Task(kind="none"),
            data=open_data(data, Path.cwd()),
            threads=cpu_threads(),
            imports=tuple(imports),
            progress=progress or Silent(),
        )
        context.out.mkdir()
        if artifact.format == "pt2":
            artifact = ExportOnnx().resolve(()).run(artifact, replace(context, notes={}))
        (folder / "int8").mkdir()
        ladder = step.ladder(artifact, context, folder / "int8")
        kind = ladder.kinds(step.method)[0]
        start = ladder.attempt("int8 throughout", kind, step, timed=True)
        if start.report is None or not start.report.quantized:
            raise UsageError(f"Nothing can be quantized: {start.failure}.", "See the message.")
        metric = by == "metric"
        rows = analyse(ladder, start, metric=metric)
        rows.sort(key=lambda r: (-(r.drop or 0.0) if metric else 0.0, -r.noise))
        return {
            "layers": [asdict(row) for row in rows],
            "output_sqnr_db": start.report.output_sqnr_db,
            "latency": start.latency.said if start.latency else "",
            "method": kind,
            "by": task.metric_name if metric and task is not None else "sqnr",
        }
