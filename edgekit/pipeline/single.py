"""What can be done to one artifact outside a recipe: one pass, a comparison, a look inside."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit import manifest
from edgekit import target as targets
from edgekit.artifact import Artifact, TensorSpec
from edgekit.entry import import_modules
from edgekit.errors import RecipeError, UsageError
from edgekit.evaluate import (
    answer_of,
    captured_sizes,
    cost_of,
    fixed_batch,
    match_inputs,
    open_artifact,
    predict,
    predictor,
    targets_of,
)
from edgekit.extras import EXTRA_OF, command
from edgekit.manifest import Manifest
from edgekit.metrics import Task
from edgekit.passes.base import Context, Pass
from edgekit.passes.capture import ModelConfig
from edgekit.pipeline import crew
from edgekit.pipeline.cost import CostMeter
from edgekit.pipeline.measure import cpu_threads
from edgekit.pipeline.on_device import runner_on
from edgekit.pipeline.run import locked
from edgekit.pipeline.step import Made, Store, capture_key, guarded, make, step_key
from edgekit.progress import Progress, Silent
from edgekit.verify import OutputParity, compare

if TYPE_CHECKING:
    from edgekit.data import DataConfig, Dataset

_DISTRIBUTION = {"PIL": "pillow", "pynvml": "nvidia-ml-py"}


def apply(
    step: Pass,
    model: Path,
    out: Path,
    *,
    data: "DataConfig | None" = None,
    task: Task | None = None,
    target: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    imports: Sequence[str] = (),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Run one pass on one artifact.

    Args:
        step: the pass with its parameters.
        model: an artifact's folder, a `.pt2` or an `.onnx` file.
        out: the folder of the new artifact.
        data: where samples come from, for passes that need them.
        task: what the network is for.
        target: a target's name, for passes that take parameters from it.
        seed: every random choice comes from it.
        threads: CPU threads.
        imports: modules that register the custom operators of a `.pt2`.
        cache: a folder for a teacher's answers and a training's state, which later calls find
            again; one beside `out` unless given, removed when the artifact is made.
        progress: where to show the progress.

    Returns:
        The new artifact's manifest, as it stands in `out`.

    Raises:
        EdgekitError: as the pass and its inputs demand.
    """
    import_modules(imports, Path.cwd())
    artifact = open_artifact(model, imports)
    if artifact.root.resolve() == out.resolve():
        raise UsageError(f"{out} is the model's own folder.", "Give another folder with -o.")
    step = step.resolve((targets.load(target),) if target else ())
    if artifact.format not in step.accepts:
        raise UsageError(
            f"`{step.kind}` takes {' or '.join(sorted(step.accepts))}, not {artifact.format}.",
            "Give another model, or export it first.",
        )
    if step.reads_data and data is None:
        raise UsageError(f"`{step.kind}` needs data.", "Give it with --data.")
    context = Context(
        out=out,
        seed=seed,
        task=task or Task(),
        data=_open(data),
        threads=threads or cpu_threads(),
        progress=progress or Silent(),
        imports=tuple(imports),
        cache=cache or out.resolve().parent / f".{out.resolve().name}.cache",
    )
    parent = Made(_foreign(artifact), cached=True)
    with _place(out) as (store, folder):
        made = make(
            store,
            folder,
            step=step.title,
            config=step.model_dump(mode="json"),
            key=step_key(step, parent, context),
            context=context,
            run=lambda c: crew.run_step(step, artifact, c),
        ).manifest
    if cache is None and context.cache is not None:
        shutil.rmtree(context.cache, ignore_errors=True)
    return made


def capture(
    model: Mapping[str, Any],
    out: Path,
    *,
    data: "DataConfig | None" = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Manifest:
    """Capture a network into an artifact.

    Args:
        model: the keys of a recipe's `model:` section.
        out: the folder of the new artifact.
        data: where example inputs come from, where `model` has none.
        seed: seeds the example inputs and the factory.
        progress: where to show the progress.

    Raises:
        UsageError: the model cannot be read, built or captured.
    """
    from pydantic import ValidationError

    try:
        config = ModelConfig.model_validate(dict(model))
    except ValidationError as e:
        raise UsageError(
            f"The model is not valid: {e.errors()[0]['msg']}.", "See `edgekit capture --help`."
        ) from e
    context = Context(
        out=out,
        seed=seed,
        task=Task(),
        data=_open(data),
        threads=cpu_threads(),
        progress=progress or Silent(),
        imports=tuple(config.imports),
    )
    import_modules(config.imports, context.base)
    with _place(out) as (store, folder):
        return make(
            store,
            folder,
            step="capture",
            config={"kind": "capture", **config.model_dump(mode="json", exclude_none=True)},
            key=capture_key(config, context),
            context=context,
            run=config.run,
        ).manifest


def _open(data: "DataConfig | None") -> "Dataset | None":
    if data is None:
        return None
    from edgekit.data import open_data

    return open_data(data, Path.cwd())


@contextmanager
def _place(out: Path) -> Iterator[tuple[Store, Path]]:
    """The folder of one artifact, with its staging beside it."""
    place = out.resolve()
    workshop = place.parent / f".{place.name}.edgekit"
    with locked(workshop, out), CostMeter() as cost:
        try:
            yield Store(workshop, cost=cost), place
        finally:
            shutil.rmtree(workshop, ignore_errors=True)


def _foreign(artifact: Artifact) -> Manifest:
    """A manifest for a file that edgekit did not make."""
    return Manifest(
        artifact=artifact,
        step="file",
        pass_config={},
        cache_key="",
        seed=0,
        versions={},
        seconds=0.0,
    )


def inspect(
    model: Path, *, dims: Mapping[str, int] | None = None, imports: Sequence[str] = ()
) -> dict[str, Any]:
    """Say what a model is.

    Args:
        model: an artifact's folder, a `.pt2` or an `.onnx` file.
        dims: sizes of an ONNX file's dynamic dimensions by name; 1 where not given.
        imports: modules that register the custom operators of a `.pt2`.

    Returns:
        `format`, `inputs`, `outputs`, `size_bytes`, `macs` for one sample (None where none of its
        layers can be counted; too few where some are `uncounted`), the `sizes` of dynamic
        dimensions that they are counted at, `parameters` (None for an engine), `layers` as name to
        MACs and parameters, `uncounted` layers, `operators` as name to number of calls,
        `content_hash`, and `made_by` with `notes` and `warnings` where edgekit made it;
        `activation_bytes` (the most that is alive at once, for
        one sample) unless the sizes of an ONNX model's tensors cannot be inferred. Of a `.pt2`
        also `groups` (coupled layers and their width) and `frozen` (operator to what it keeps from
        being pruned).
    """
    import_modules(imports, Path.cwd())
    artifact = open_artifact(model, imports)
    sizes = _sizes(artifact, dims or {}, imports)
    cost = cost_of(artifact, sizes, imports)
    found: dict[str, Any] = {
        "path": str(artifact.path),
        "format": artifact.format,
        "inputs": [s.model_dump() for s in artifact.inputs],
        "outputs": [s.model_dump() for s in artifact.outputs],
        "size_bytes": artifact.size_bytes,
        "macs": cost.macs if cost and (cost.macs or not cost.uncounted) else None,
        "sizes": sizes,
        "parameters": cost.parameters if cost else None,
        "layers": cost.by_layer if cost else {},
        "uncounted": list(cost.uncounted) if cost else [],
        "content_hash": artifact.content_hash,
        "made_by": artifact.made_by,
    }
    found |= _structure(artifact, imports, sizes)
    if model.is_dir():
        known = manifest.read(model)
        found |= {"notes": known.notes, "warnings": known.warnings, "versions": known.versions}
    return found


def _sizes(artifact: Artifact, given: Mapping[str, int], imports: Sequence[str]) -> dict[str, int]:
    """The sizes of dynamic dimensions, the batch left out, that costs are counted at.

    Raises:
        UsageError: the model has no such dimension, or its sizes are those of its capture.
    """
    if given and artifact.format != "onnx":
        raise UsageError(
            "--dim sets sizes of ONNX files; a pt2 is counted as it was captured.",
            "Leave --dim out.",
        )
    entries = [d for s in artifact.inputs for d in s.shape[1:] if isinstance(d, str)]
    batches = {s.shape[0] for s in artifact.inputs if s.shape}
    if artifact.format != "onnx":
        captured = captured_sizes(artifact, imports)
        return {name: size for name, size in captured.items() if name not in batches}
    names = dict.fromkeys(d.rpartition("*")[2].strip() for d in entries if d not in batches)
    for name in given:
        if name not in names:
            known = ", ".join(names) or "none beside the batch"
            raise UsageError(f"The model has no dimension {name!r}.", f"It has {known}.")
    return {name: given.get(name, 1) for name in names}


def _structure(
    artifact: Artifact, imports: Sequence[str], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Operators and, of a graph that can be pruned, memory and coupling."""
    if artifact.format == "onnx":
        from edgekit.graph.activations import onnx_activation_bytes, onnx_operators
        from edgekit.graph.onnx_model import read_onnx

        model = read_onnx(artifact.path)
        memory = onnx_activation_bytes(model, sizes)
        known = {} if memory is None else {"activation_bytes": memory}
        return {"operators": onnx_operators(model), **known}
    if artifact.format != "pt2":
        return {}
    from dataclasses import asdict

    from edgekit.graph.activations import activation_bytes, operators
    from edgekit.graph.store import load
    from edgekit.prune.coupling import analyse
    from edgekit.prune.families import find_families
    from edgekit.prune.report import frozen_by

    program = load(artifact.path, imports)
    names = program.name_map()
    families = find_families(analyse(program.module()), names)
    groups = [
        {"layers": list(f.layers), "channels": int(f.groups.size) * f.channels}
        for f in families.families
    ]
    return {
        "operators": operators(program),
        "activation_bytes": activation_bytes(program),
        "groups": groups,
        "frozen": {cause: asdict(f) for cause, f in frozen_by(families, names)[0].items()},
    }


def compare_models(
    a: Path,
    b: Path,
    *,
    data: "DataConfig | None",
    samples: int = 32,
    seed: int = 0,
    imports: Sequence[str] = (),
    device: str | None = None,
    dims: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, OutputParity], str]:
    """Compare two models' outputs on the evaluation split, or on random inputs.

    Args:
        a: the reference.
        b: the other.
        data: where inputs come from; None draws random ones.
        samples: how many random ones.
        seed: seeds them.
        imports: modules that register the custom operators of a `.pt2`.
        device: a device of the user's to run the other on; None: this machine.
        dims: sizes of dynamic dimensions, of random inputs.
        progress: where to show the progress on a device.

    Returns:
        How far each output is apart, and on what that was seen, in words.
    """
    import_modules(imports, Path.cwd())
    first, second = open_artifact(a, imports), open_artifact(b, imports)
    there = None if device is None else runner_on(second, device, progress)
    dataset = _open(data)
    with guarded("Comparing the models"):
        if dataset is not None:
            parity = compare(
                predict(first, dataset, "evaluation", imports=imports),
                predict(second, dataset, "evaluation", imports=imports, runner=there),
            )
            count = dataset.count("evaluation")
            return parity, f"{count} of {len(dataset)} samples, the evaluation split"
        # Two models with a fixed batch must have the same one; one of them decides for the other.
        samples = fixed_batch(first) or fixed_batch(second) or samples
        names = match_inputs(second, [s.name for s in first.inputs])
        _same_shapes(first, second, names)
        feeds = random_inputs(first.inputs, samples, seed, dims)
        renamed = {n: feeds[src] for n, src in names.items()}
        here = predictor(first, imports=imports)(feeds)
        if there is None:
            other = predictor(second, imports=imports)(renamed)
        else:
            other = next(iter(there([renamed])))
        shown = "; ".join(f"{n} {list(a.shape)}" for n, a in feeds.items())
        return compare(here, other), f"random inputs, seed {seed}: {shown}"


def _same_shapes(first: Artifact, second: Artifact, names: Mapping[str, str]) -> None:
    """Refuse two models that cannot read the same inputs; `names` maps the second's to the first's.

    Raises:
        UsageError: an input's rank or a fixed size differs.
    """
    shapes = {s.name: s.shape for s in first.inputs}
    for spec in second.inputs:
        if spec.name not in names:
            continue
        other = shapes[names[spec.name]]
        fits = len(other) == len(spec.shape) and all(
            a == b or isinstance(a, str) or isinstance(b, str)
            for a, b in zip(other, spec.shape, strict=True)
        )
        if not fits:
            raise UsageError(
                f"The two models read other inputs: {names[spec.name]} is {list(other)} in the"
                f" first, {spec.name} is {list(spec.shape)} in the second.",
                "Compare two models of the same task.",
            )


def random_inputs(
    inputs: Sequence[TensorSpec],
    samples: int,
    seed: int,
    dims: Mapping[str, int] | None = None,
) -> dict[str, NDArray[Any]]:
    """Random arrays that fit the inputs: normal for floats, zeros and ones for integers.

    Args:
        inputs: what the model takes.
        samples: the size of dynamic first axes.
        seed: of the numbers.
        dims: sizes of other dynamic dimensions; 16 (or twice its factor) where not given.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        shape = [
            d if isinstance(d, int) else samples if i == 0 else _size(d, dims or {})
            for i, d in enumerate(spec.shape)
        ]
        if spec.dtype.startswith("float"):
            feeds[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        else:
            feeds[spec.name] = rng.integers(0, 2, shape).astype(spec.dtype)
    return feeds


def _size(dim: str, dims: Mapping[str, int]) -> int:
    factor, star, name = dim.partition("*")
    if not star or not factor.strip().isdigit():
        return dims.get(dim.strip(), 16)
    return int(factor) * dims.get(name.strip(), 2)


def evaluate_model(
    model: Path,
    data: "DataConfig | None",
    task: Task,
    *,
    split: str = "evaluation",
    threads: int | None = None,
    imports: Sequence[str] = (),
    progress: Progress | None = None,
) -> Any:
    """Compute a task's metric on one split; `imports` register the custom operators of a `.pt2`.

    Returns:
        `edgekit.metrics.Evaluation`.

    Raises:
        UsageError: there is no data, or it has no targets.
    """
    from edgekit.metrics import evaluate_predictions

    dataset = _open(data)
    if dataset is None:
        raise UsageError("`eval` needs data.", "Give it with --data.")
    if split not in dataset.splits:
        raise RecipeError(f"There is no split {split!r}.", f"Splits: {', '.join(dataset.splits)}.")
    import_modules(imports, Path.cwd())
    artifact = open_artifact(model, imports)
    with guarded(f"Evaluating {model}"):
        outputs = predict(
            artifact,
            dataset,
            split,
            threads=threads or cpu_threads(),
            imports=imports,
            progress=progress,
        )
    targets = targets_of(task, dataset, split, outputs)
    if targets is None:
        raise UsageError("The data has no targets to judge by.", "Name them in `data:`.")
    ids = [dataset.ids[i] for i in dataset.splits[split]]
    found, _ = evaluate_predictions(task, answer_of(task, dataset, split, outputs), targets, ids)
    classes, shares = dataset.classes, found.per_class
    if classes is not None and shares is not None:
        shares = {classes[int(number)]: share for number, share in shares.items()}
    return found.model_copy(update={"split": split, "of": len(dataset), "per_class": shares})


def examine_machine() -> dict[str, Any]:
    """Say what this machine has: libraries, runtimes, meters; what is missing, and the mend."""
    from edgekit.pipeline.machine import machine

    libraries: dict[str, dict[str, str | None]] = {}
    for name in EXTRA_OF:
        try:
            libraries[name] = {"version": metadata.version(_DISTRIBUTION.get(name, name))}
        except metadata.PackageNotFoundError:
            libraries[name] = {"version": None, "fix": command(name)}
    return {"versions": manifest.versions(), "libraries": libraries, **machine()}
