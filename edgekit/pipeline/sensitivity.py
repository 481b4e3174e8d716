"""What int8 does to each layer of a model: for `edgekit sensitivity`."""

from collections.abc import Callable, Iterator, Sequence
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
    from torch import Tensor

    from edgekit.artifact import Artifact
    from edgekit.data import DataConfig
    from edgekit.graph.program import Program
    from edgekit.passes.quantize import Quantize
    from edgekit.quantize.mixed import LayerRow
    from edgekit.train.batches import Minibatch

BY = ("sqnr", "metric", "fisher")
_SAMPLES, _BATCH = 256, 32  # for the Fisher matrix, which is of single samples all the same


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
        by: what layers are ranked by: `sqnr` of the outputs, the task's `metric`, or `fisher`: what
            the rounding of their weights adds to the loss.
        task: what the network is for; the metric and the Fisher matrix need it.
        seed: every random choice comes from it.
        imports: modules that register the custom operators of a `.pt2`.
        progress: where to show the progress.

    Returns:
        `layers` (`edgekit.quantize.mixed.LayerRow` as data, the most sensitive first),
        `output_sqnr_db` with all layers in int8, `latency` in words, `method`.

    Raises:
        UsageError: there is no data, no labels for the metric, no module for the Fisher matrix, or
            nothing that can be quantized.
    """
    from edgekit.data import open_data
    from edgekit.passes.export_onnx import ExportOnnx
    from edgekit.quantize.mixed import analyse

    if data is None:
        raise UsageError("`sensitivity` needs data.", "Give it with --data.")
    if by not in BY:
        raise UsageError(
            f"Layers cannot be ranked by {by!r}.",
            f"Choose one of {', '.join(BY)}.",
        )
    import_modules(imports, Path.cwd())
    artifact = open_artifact(model, imports)
    if by == "fisher" and artifact.format != "pt2":
        raise UsageError(
            "A Fisher ranking needs gradients, which an ONNX file does not have.",
            "Give the .pt2 that it was exported from, or rank by sqnr or metric.",
        )
    step = step.resolve((targets.load(target),))
    with TemporaryDirectory(prefix="edgekit-sensitivity-") as name:
        folder = Path(name)
        context = Context(
            out=folder / "float32",
            seed=seed,
            task=task if by != "sqnr" and task is not None else Task(kind="none"),
            data=open_data(data, Path.cwd()),
            threads=cpu_threads(),
            imports=tuple(imports),
            progress=progress or Silent(),
        )
        context.out.mkdir()
        original = artifact
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
        if by == "fisher":
            rows = _with_fisher(rows, original, context, step)
        rows.sort(key=lambda r: (-(r.drop or 0.0), -(r.fisher or 0.0), -r.noise))
        return {
            "layers": [asdict(row) for row in rows],
            "output_sqnr_db": start.report.output_sqnr_db,
            "latency": start.latency.said if start.latency else "",
            "method": kind,
            "by": task.metric_name if metric and task is not None else by,
        }


def _with_fisher(
    rows: "list[LayerRow]", artifact: "Artifact", context: Context, step: "Quantize"
) -> "list[LayerRow]":
    """The rows with what each layer's rounding adds to the loss on calibration samples."""
    from edgekit.graph.store import load
    from edgekit.prune.sensitivity import squared_gradients
    from edgekit.quantize.fisher import by_layer
    from edgekit.train.losses import task_loss

    program = load(artifact.path, context.imports)
    loss = task_loss(context.task, program)
    with context.progress.task("gradients of each sample", _SAMPLES) as bar:
        batches = _samples(program, context, bar.advance)
        squares = squared_gradients(program, batches, loss, kind="fisher")
    weights = {n: p.detach().numpy() for n, p in program.module().named_parameters()}
    found = by_layer(
        weights,
        {n: s.numpy() for n, s in squares.items()},
        [(row.node, row.layer, row.op) for row in rows],
        step.scheme.weight_bits if step.scheme is not None else 8,
    )
    return [replace(row, fisher=found[row.node]) for row in rows]


def _samples(
    program: "Program", context: Context, advance: Callable[[float], None]
) -> "Iterator[Minibatch]":
    """Calibration samples; a classifier without labels is given its own answers."""
    import torch

    from edgekit.train.batches import Batches
    from edgekit.train.config import TrainConfig
    from edgekit.train.losses import output_name

    if context.data is None:
        return
    classes = context.task.kind in {"classification", "segmentation"}
    place = [s.name for s in program.outputs].index(output_name(context.task, program))
    module = program.module()
    size = max(1, min(_BATCH, context.data.count("calibration")))
    source = Batches(
        program, context.data, context.task, TrainConfig(batch_size=size), seed=context.seed,
        split="calibration",
    )  # fmt: skip
    seen = 0
    for _, batch in source.epoch(0):
        if seen >= _SAMPLES:
            return
        if batch.targets is None and classes:
            with torch.no_grad():
                logits = module(*batch.inputs)[place]
            batch = replace(batch, targets=_answers(logits))
        yield batch
        seen += len(batch.ids)
        advance(len(batch.ids))


def _answers(logits: "Tensor") -> "Tensor":
    """Classes of logits as a loss takes them: by the largest, or by the sign of a single one."""
    if logits.ndim == 1 or logits.shape[1] == 1:
        return (logits > 0).long().reshape(logits.shape[0], *logits.shape[2:])
    return logits.argmax(1)
