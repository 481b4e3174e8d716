"""Synthetic samples in a file, for `edgekit synthesize`."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.entry import import_modules
from edgekit.errors import UsageError
from edgekit.evaluate import open_artifact
from edgekit.manifest import write_atomically
from edgekit.metrics import Task
from edgekit.pipeline.measure import cpu_threads
from edgekit.pipeline.raw import check_place
from edgekit.pipeline.step import guarded
from edgekit.progress import Progress


def synthesize_data(
    model: Path,
    out: Path,
    *,
    samples: int,
    steps: int,
    batch_size: int,
    task: Task | None = None,
    seed: int = 0,
    threads: int | None = None,
    imports: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write inputs that a network takes for its training data into an `.npz`.

    Args:
        model: an artifact's folder or a `.pt2`.
        out: the file; one that is there is replaced when the new one is whole.
        samples: how many.
        steps: of gradient descent for each batch.
        batch_size: samples whose statistics are taken together.
        task: what the network is for.
        seed: of the noise that they begin as.
        threads: CPU threads.
        imports: modules that register the custom operators of a `.pt2`.
        progress: where to show the progress.

    Returns:
        `path`, `samples`, `inputs` (name to shape), `target` (what the classes are called in the
        file) and `classes` (how many the network has), both None without any, and the statistics'
        distance from the running ones, `distance_before` and `distance_after`.

    Raises:
        UsageError: the network cannot be read, has no batch norm, or takes integers.
    """
    import numpy as np

    from edgekit.data.sources import TARGET_NAMES
    from edgekit.distill.synthesis import synthesize
    from edgekit.graph.onnx_names import unique
    from edgekit.graph.store import load

    if out.suffix != ".npz":
        raise UsageError(f"{out} is no .npz file.", "Give -o FILE.npz.")
    check_place(out, "-o")  # before the work, not after it
    import_modules(imports, Path.cwd())
    artifact = open_artifact(model, imports)
    if artifact.format != "pt2":
        raise UsageError(
            f"`synthesize` takes a pt2, not {artifact.format}.", "Give the captured network."
        )
    with guarded(f"Synthesis for {model}"):
        found = synthesize(
            load(artifact.path, imports),
            samples,
            task or Task(),
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
            threads=threads or cpu_threads(),
        )
    arrays: dict[str, Any] = dict(found.inputs)
    target = None
    if found.targets is not None:
        # The first of the names that a reader takes for the targets, unless an input has it.
        target = unique(TARGET_NAMES[0], set(arrays))
        arrays[target] = found.targets
    with guarded("Saving the samples"):
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(out, buffer.getvalue())
    return {
        "path": str(out),
        "samples": samples,
        "inputs": {name: list(array.shape) for name, array in found.inputs.items()},
        "target": target,
        "classes": found.classes,
        "distance_before": found.distance[0],
        "distance_after": found.distance[1],
    }
