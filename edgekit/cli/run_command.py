"""`edgekit run`: a recipe from beginning to end."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import common


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, or a folder that holds recipe.yaml.")],
    out: common.Out,
    *,
    branch: Annotated[
        list[str] | None, typer.Option("--branch", help="Run only this branch; may be repeated.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make every step again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run.")] = False,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="NAME", help="Measure every branch on this device."),
    ] = None,
    threads: common.Threads = None,
    json: common.Json = False,
) -> None:
    """Run a recipe: compress, measure, hold the gates, and write the report.

    A second run does only what is new. Exit code 5: a gate is not held.
    """
    from edgekit.cli import show
    from edgekit.pipeline import cpu_threads, explain, raise_for_verdict, run_recipe

    if dry_run:
        with common.progress():
            plan = explain(recipe, out, threads=threads or cpu_threads(), device=device)
        common.print_json(plan) if json else show.plan(plan, key="given")
        return
    try:
        with common.progress() as progress:
            report = run_recipe(
                recipe,
                out,
                branches=branch,
                fresh=fresh,
                threads=threads,
                device=device,
                progress=progress,
            )
    except KeyboardInterrupt:
        typer.echo("Finished steps are kept: the same command goes on from there.", err=True)
        raise
    common.print_json(report) if json else show.report(report, out)
    raise_for_verdict(report)
