"""`edgekit synthesize`: samples from batch-norm statistics, where there are no data."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import common


def synthesize(
    model: common.Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .npz to write.")],
    *,
    samples: Annotated[int, typer.Option(min=2, help="How many.")] = 256,
    steps: Annotated[int, typer.Option(min=1, help="Of gradient descent for each batch.")] = 300,
    batch_size: Annotated[
        int, typer.Option(min=2, help="Samples whose statistics are taken together.")
    ] = 64,
    task: common.Task = "classification",
    imports: common.Imports = None,
    seed: common.Seed = 0,
    threads: common.Threads = None,
    json: common.Json = False,
) -> None:
    """Make inputs that match a .pt2's batch-norm statistics, to distil and calibrate without data.

    Nothing can be judged by them: keep real samples for that.
    """
    from edgekit.pipeline.synthesis import synthesize_data

    with common.progress() as progress:
        found = synthesize_data(
            model,
            out,
            samples=samples,
            steps=steps,
            batch_size=batch_size,
            task=common.task_config(task),
            seed=seed,
            threads=threads,
            imports=imports or (),
            progress=progress,
        )
    if json:
        common.print_json(found)
        return
    before, after = found["distance_before"], found["distance_after"]
    typer.echo(
        f"{found['path']}: {samples} samples, statistics' distance {before:.3g} to {after:.3g}"
    )
    classes = found["classes"]
    if classes is not None and samples < classes:
        typer.echo(f"Only {samples} of the network's {classes} classes have a sample.")
