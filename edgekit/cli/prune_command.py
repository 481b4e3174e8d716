"""`edgekit prune`: remove whole channels, or say what would be removed and what is in the way."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli import common
from edgekit.cli.pass_commands import apply
from edgekit.errors import UsageError


def prune(
    model: common.Model,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder to write to.")] = None,
    *,
    sparsity: Annotated[
        float | None, typer.Option(help="Share of channels to remove, 0 to 1.")
    ] = None,
    macs: Annotated[float | None, typer.Option(help="Share of MACs to keep, 0 to 1.")] = None,
    parameters: Annotated[
        float | None, typer.Option(help="Share of parameters to keep, 0 to 1.")
    ] = None,
    size_bytes: Annotated[
        int | None, typer.Option(min=1, help="Most bytes that the weights may take.")
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            help="l2, l1, bn-scale, activation, reconstruction, taylor, fisher, "
            "geometric-median, random."
        ),
    ] = None,
    allocation: Annotated[
        str | None,
        typer.Option(
            help="uniform: every layer alike; global: the least important; sensitivity: what "
            "loses least for a budget."
        ),
    ] = None,
    attention: Annotated[
        str | None, typer.Option(help="What attention loses: heads or head-dim.")
    ] = None,
    protect: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER", help="A layer, or a pattern, that stays; may be repeated."),
    ] = None,
    recovery: Annotated[
        list[str] | None,
        typer.Option(help="least-squares and batch-norm, without training; may be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed and what is frozen.")
    ] = False,
    explain: Annotated[
        str | None, typer.Option(metavar="LAYER", help="Say what one layer is coupled with.")
    ] = None,
    data: common.Data = None,
    task: common.Task = "classification",
    set_: common.Set = None,
    imports: common.Imports = None,
    target: common.Target = None,
    seed: common.Seed = 0,
    json: common.Json = False,
) -> None:
    """Remove whole channels from a .pt2, and prove that the rest computes what it did."""
    from edgekit.passes.prune import Prune

    fields: dict[str, Any] = {
        "sparsity": sparsity,
        "macs": macs,
        "parameters": parameters,
        "size_bytes": size_bytes,
        "importance": importance,
        "allocation": allocation,
        "attention": attention,
        "protect": protect,
        "recovery": recovery,
    }
    if dry_run or explain:
        _plan(fields, model, explain, json, set_, data, task, imports, target, seed)
        return
    if out is None:
        raise UsageError("`prune` has no folder to write to.", "Give it with -o, or --dry-run.")
    apply(
        Prune,
        fields,
        model,
        out,
        json=json,
        set_=set_,
        data=data,
        task=task,
        target=target,
        seed=seed,
        imports=imports,
    )


def _plan(
    fields: dict[str, Any],
    model: Path,
    layer: str | None,
    json: bool,
    set_: list[str] | None,
    data: str | None,
    task: str,
    imports: list[str] | None,
    target: str | None,
    seed: int,
) -> None:
    from edgekit.cli import show_pruning
    from edgekit.passes.prune import Prune
    from edgekit.pipeline.pruning import plan_pruning
    from edgekit.prune.config import AMOUNTS

    given = {k: v for k, v in fields.items() if v is not None} | common.settings(set_)
    if layer and not set(AMOUNTS) & set(given):
        given["sparsity"] = 0.5
    with common.progress():
        found = plan_pruning(
            common.build(Prune, {"kind": "prune", **given}, "options"),
            model,
            data=common.data_config(data),
            task=common.task_config(task),
            target=target,
            seed=seed,
            imports=imports or (),
            layer=layer,
        )
    if json:
        common.print_json(found)
    elif layer:
        show_pruning.layer(found)
    else:
        show_pruning.plan(found)
