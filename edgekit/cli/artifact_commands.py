"""The commands that look at artifacts: inspect, verify, eval."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import common
from edgekit.errors import UsageError


def inspect(
    model: common.Model,
    *,
    dim: common.Dim = None,
    imports: common.Imports = None,
    json: common.Json = False,
) -> None:
    """Say what a model is: inputs, outputs, size, costs, operators, layers, what is coupled."""
    from edgekit.cli import show
    from edgekit.pipeline import inspect as inspect_model

    with common.progress():
        found = inspect_model(model, dims=common.sizes(dim), imports=imports or ())
    common.print_json(found) if json else show.inspection(found)


def verify(
    a: common.Model,
    b: Annotated[
        Path | None,
        typer.Argument(metavar="OTHER", help="The model to compare with it.", show_default=False),
    ] = None,
    *,
    atol: Annotated[
        float | None, typer.Option(min=0.0, help="Largest absolute difference allowed.")
    ] = None,
    min_sqnr_db: Annotated[float | None, typer.Option(help="Smallest SQNR allowed, dB.")] = None,
    min_agreement: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Smallest share of rows with the same answer: 0.99."),
    ] = None,
    data: common.Data = None,
    samples: Annotated[int, typer.Option(min=1, help="Random samples, without --data.")] = 32,
    dim: common.Dim = None,
    seed: common.Seed = 0,
    imports: common.Imports = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Run OTHER, or MODEL again, on this device of yours."),
    ] = None,
    json: common.Json = False,
) -> None:
    """Compare two models on the same inputs. Without a limit, atol is 1e-4. Exit 5: they differ.

    With --device, compare what a model computes here with what it computes there.
    """
    from edgekit.cli import show, units
    from edgekit.pipeline import compare_models
    from edgekit.verify import check

    agreement = None if min_agreement is None else units.part(min_agreement, "--min-agreement")
    if b is None and device is None:
        raise UsageError(
            "There is nothing to compare with.", "Give a second model, or --device NAME."
        )
    with common.progress() as progress:
        parity, on = compare_models(
            a,
            b or a,
            data=common.data_config(data),
            samples=samples,
            seed=seed,
            imports=imports or (),
            device=device,
            dims=common.sizes(dim),
            progress=progress,
        )
    plain = {name: p.model_dump() for name, p in parity.items()}
    common.print_json(plain) if json else show.parity(plain, on)
    no_limit = atol is None and min_sqnr_db is None and agreement is None
    check(
        parity,
        atol=1e-4 if no_limit else atol,
        min_sqnr_db=min_sqnr_db,
        min_agreement=agreement,
    )


def evaluate(
    model: common.Model,
    *,
    data: common.Data,
    task: common.Task = "classification",
    split: Annotated[str, typer.Option(help="calibration, train or evaluation.")] = "evaluation",
    threads: common.Threads = None,
    imports: common.Imports = None,
    json: common.Json = False,
) -> None:
    """Compute the task's metric on held-out data, with its 95 % interval."""
    from edgekit.cli import show
    from edgekit.pipeline import evaluate_model

    with common.progress() as progress:
        result = evaluate_model(
            model,
            common.data_config(data),
            common.task_config(task),
            split=split,
            threads=threads,
            imports=imports or (),
            progress=progress,
        )
    common.print_json(result) if json else show.evaluation(result)
