"""Open an artifact, run it over data, and say what it costs to compute."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit import manifest
from edgekit.artifact import FORMAT_OF_SUFFIX, Artifact, TensorSpec
from edgekit.errors import UnavailableError, UsageError
from edgekit.progress import Progress, Silent

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.graph.cost import Cost
    from edgekit.metrics import Task

Arrays = dict[str, NDArray[Any]]
Predictor = Callable[[Mapping[str, NDArray[Any]]], Arrays]
Runner = Callable[[Iterable[Mapping[str, NDArray[Any]]]], Iterable[Arrays]]
"""Runs an artifact on one batch after the other."""


def open_artifact(path: Path, imports: Sequence[str] = ()) -> Artifact:
    """Open what a user names: an artifact's folder, or a `.pt2` or `.onnx` file.

    Args:
        path: the folder or file.
        imports: modules that register the custom operators of a `.pt2`.

    Raises:
        UsageError: it is not there, is broken or hostile, or is of an unknown kind.
    """
    if path.is_dir():
        artifact = manifest.read(path).artifact
        if not artifact.intact():
            raise UsageError(
                f"The files in {path} were changed after edgekit made them.",
                f"Make the artifact again, or give the model file: {artifact.path}.",
            )
        return artifact
    if not path.is_file():
        raise UsageError(f"{path} does not exist.", "Give an artifact folder or a model file.")
    fmt = FORMAT_OF_SUFFIX.get(path.suffix)
    if fmt is None:
        raise UsageError(
            f"{path} is neither an artifact folder nor a .pt2 or .onnx file.",
            "An engine is opened through its artifact folder.",
        )
    inputs, outputs = _specs(path, imports)
    beside: tuple[str, ...] = ()
    if fmt == "onnx":
        from edgekit.graph.onnx_model import external_data

        beside = external_data(path)
    return Artifact.create(
        path.parent,
        model=path.name,
        format=fmt,
        inputs=inputs,
        outputs=outputs,
        made_by="file",
        extra_files=beside,
    )


def _specs(
    path: Path, imports: Sequence[str]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    if path.suffix == ".onnx":
        from edgekit.graph.onnx_model import read_onnx, specs

        return specs(read_onnx(path))
    from edgekit.graph.store import load

    program = load(path, imports)
    return program.inputs, program.outputs


def predictor(artifact: Artifact, *, threads: int = 1, imports: Sequence[str] = ()) -> Predictor:
    """Something that runs an artifact on a batch: ONNX Runtime or torch, on the CPU.

    Raises:
        UnavailableError: an engine, which needs its device.
    """
    if artifact.format == "onnx":
        return _onnx_predictor(artifact, threads)
    if artifact.format == "pt2":
        return _torch_predictor(artifact, threads, imports)
    raise UnavailableError(
        f"{artifact.path.name} is a {artifact.format} engine and runs only on its GPU.",
        "Evaluate the ONNX file that it was built from.",
    )


def _onnx_predictor(artifact: Artifact, threads: int) -> Predictor:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(artifact.path, options, providers=["CPUExecutionProvider"])
    except Exception as e:
        raise UsageError(
            f"ONNX Runtime cannot load {artifact.path}: {str(e).splitlines()[0]}",
            "Check the file with `edgekit inspect`.",
        ) from e
    names = [o.name for o in session.get_outputs()]

    def run(feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run


def _torch_predictor(artifact: Artifact, threads: int, imports: Sequence[str]) -> Predictor:
    import torch

    from edgekit.graph.store import load

    program = load(artifact.path, imports)
    module = program.module()

    def run(feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                outputs = module(*(torch.from_numpy(feeds[s.name]) for s in program.inputs))
        finally:
            torch.set_num_threads(before)
        return {s.name: o.numpy() for s, o in zip(program.outputs, outputs, strict=True)}

    return run


def predict(
    artifact: Artifact,
    data: "Dataset",
    split: str,
    *,
    batch_size: int = 64,
    threads: int = 1,
    imports: Sequence[str] = (),
    progress: Progress | None = None,
    runner: Runner | None = None,
) -> Arrays:
    """Run an artifact over one split of a data set.

    Args:
        artifact: a `.pt2` or ONNX artifact.
        data: the data set; its inputs are matched by name, or a single one to a single one.
        split: `calibration`, `train` or `evaluation`.
        batch_size: rows at once; a model with a fixed batch is fed its own.
        threads: CPU threads.
        imports: modules that register the custom operators of a `.pt2`.
        progress: where to show the progress.
        runner: what runs it; this machine's CPU where None.

    Returns:
        Output arrays by name, one row a sample, in the split's order.

    Raises:
        UsageError: the data does not fit the model, or the split is empty.
    """
    count = data.count(split)
    if count == 0:
        raise UsageError(f"The {split} split is empty.", "Give it samples in `data: split:`.")
    data = data.for_model(artifact.inputs)
    fixed = fixed_batch(artifact)
    run = runner or partial(map, predictor(artifact, threads=threads, imports=imports))
    rows: dict[str, list[NDArray[Any]]] = {}
    counts: list[int] = []

    def fed() -> Iterator[Arrays]:
        for batch in data.batches(split, fixed or batch_size):
            counts.append(len(batch.ids))
            yield padded(batch.inputs, fixed) if fixed else dict(batch.inputs)

    with (progress or Silent()).task(f"evaluate {artifact.made_by}", count) as task:
        for place, outputs in enumerate(run(fed())):
            n = counts[place]
            for name, value in outputs.items():
                if value.ndim == 0 or len(value) < n:
                    raise UsageError(
                        f"Output {name!r} has shape {value.shape} for {n} samples: no row each.",
                        "Name an output with a batch dimension in `task: output:`.",
                    )
                rows.setdefault(name, []).append(value[:n])
            task.advance(n)
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def targets_of(
    task: "Task", data: "Dataset", split: str, outputs: Mapping[str, NDArray[Any]]
) -> NDArray[Any] | None:
    """What a task's output is held against; None where there is nothing.

    A reconstruction is held against targets of its own shape (denoising), and else against the
    first input.

    Raises:
        UsageError: the data names other classes than the network tells apart.
    """
    if task.kind == "none":
        return None
    targets = None if data.targets is None else data.targets[data.splits[split]]
    if task.kind == "classification":
        _check_classes(data, outputs.get(task.output or next(iter(outputs))))
    if task.kind != "reconstruction":
        return targets
    shape = outputs[task.output or next(iter(outputs))].shape
    if targets is not None and targets.shape == shape:
        return targets
    inputs = [next(iter(b.inputs.values())) for b in data.batches(split, 256)]
    return np.concatenate(inputs)


def _check_classes(data: "Dataset", judged: NDArray[Any] | None) -> None:
    """Names were numbered in sorted order, so one that is missing would shift all behind it."""
    if data.classes is None or judged is None or judged.ndim != 2:
        return
    told, have = max(judged.shape[1], 2), len(data.classes)
    if have != told:
        shown = ", ".join(data.classes[:8]) + (", ..." if have > 8 else "")
        raise UsageError(
            f"The data has {have} classes ({shown}), and the network tells {told} apart: which"
            " label belongs to which output is not known.",
            "Name all of the network's classes, in its outputs' order, in `data: classes:`.",
        )


def answer_of(
    task: "Task", data: "Dataset", split: str, outputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The outputs as the task judges them.

    An anomaly detector gives a score for each sample; one that gives the input back is judged by
    its reconstruction error, the mean squared error of each sample.
    """
    found = dict(outputs)
    name = task.output or next(iter(outputs))
    if task.kind != "anomaly" or name not in outputs or outputs[name][0].size <= 2:
        return found
    inputs = np.concatenate([next(iter(b.inputs.values())) for b in data.batches(split, 256)])
    answer = outputs[name]
    if answer.shape == inputs.shape:
        axes = tuple(range(1, answer.ndim))
        found[name] = np.square(answer.astype(np.float64) - inputs).mean(axis=axes)
    return found


def match_inputs(artifact: Artifact, available: list[str]) -> dict[str, str]:
    """Which data column feeds which model input.

    Raises:
        UsageError: an input has no data.
    """
    wanted = [s.name for s in artifact.inputs]
    if all(name in available for name in wanted):
        return {name: name for name in wanted}
    if len(wanted) == 1 and len(available) == 1:
        return {wanted[0]: available[0]}
    missing = [name for name in wanted if name not in available]
    raise UsageError(
        f"The data has no {', '.join(map(repr, missing))}; it has {', '.join(available)}.",
        "Name the data's inputs as the model's.",
    )


def fixed_batch(artifact: Artifact) -> int | None:
    """The batch size that a model was fixed to, None where it is dynamic."""
    sizes = {s.shape[0] for s in artifact.inputs if s.shape}
    fixed = [d for d in sizes if isinstance(d, int)]
    return fixed[0] if len(fixed) == 1 and len(sizes) == 1 else None


def padded(feeds: Mapping[str, NDArray[Any]], rows: int) -> Arrays:
    """Repeat the last row until a batch has the rows that the model was fixed to."""
    return {
        name: np.concatenate([value, np.repeat(value[-1:], rows - len(value), axis=0)])
        if len(value) < rows
        else value
        for name, value in feeds.items()
    }


def cost_of(
    artifact: Artifact, dims: Mapping[str, int] | None = None, imports: Sequence[str] = ()
) -> "Cost | None":
    """MACs and parameters of an artifact for one sample, None for an engine, which does not tell.

    Args:
        artifact: the artifact.
        dims: sizes of an ONNX file's dynamic dimensions; one unit each where not given. A `.pt2`
            is counted at the sizes that it was captured with.
        imports: modules that register the custom operators of a `.pt2`.
    """
    if artifact.format == "onnx":
        from edgekit.graph.onnx_model import onnx_cost, read_onnx

        return onnx_cost(read_onnx(artifact.path), dims)
    if artifact.format == "pt2":
        from edgekit.graph.cost import cost
        from edgekit.graph.store import load

        return cost(load(artifact.path, imports))
    return None


def captured_sizes(artifact: Artifact, imports: Sequence[str] = ()) -> dict[str, int]:
    """Sizes of a `.pt2`'s dynamic dimensions when it was captured; empty for other formats."""
    if artifact.format != "pt2":
        return {}
    from edgekit.graph.store import load

    return load(artifact.path, imports).dim_sizes()
