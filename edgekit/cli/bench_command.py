"""`edgekit bench`: latency of one or several models, interleaved."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import common


def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="ONNX files or artifact folders.")
    ],
    *,
    quick: Annotated[bool, typer.Option("--quick", help="A short run, marked as such.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the runtime.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Size of dynamic batch dimensions.")] = 1,
    runtime: Annotated[str, typer.Option(help="onnxruntime, tensorrt or tensorrt-rtx.")] = (
        "onnxruntime"
    ),
    dim: Annotated[
        list[str] | None,
        typer.Option("--dim", metavar="NAME=SIZE", help="Size of another dynamic dimension."),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Time each layer, apart.")] = False,
    seed: common.Seed = 0,
    json: common.Json = False,
) -> None:
    """Measure latency with its interval; several models are interleaved against the first."""
    from edgekit.cli import show
    from edgekit.pipeline import bench_models

    with common.progress() as progress:
        result = bench_models(
            models,
            quick=quick,
            threads=threads,
            runtime=runtime,
            dims={"batch": batch, **common.sizes(dim)},
            layers=layers,
            seed=seed,
            progress=progress,
        )
    common.print_json(result) if json else show.bench(result)
