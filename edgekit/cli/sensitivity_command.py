"""`edgekit sensitivity`: which layers int8 hurts, and what it saves there."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli import common


def sensitivity(
    model: common.Model,
    *,
    data: common.Data,
    target: Annotated[str, typer.Option("--target", help="A name from `edgekit targets`.")],
    scheme: Annotated[str | None, typer.Option(help="static, dynamic or auto.")] = None,
    by: Annotated[
        str,
        typer.Option(
            help="What layers are ranked by: sqnr of the outputs; the task's metric on the "
            "evaluation split, which needs labels; or fisher, what the rounding of weights adds to "
            "the loss, which needs a .pt2."
        ),
    ] = "sqnr",
    task: common.Task = "classification",
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Write the figure as SVG.")
    ] = None,
    set_: common.Set = None,
    imports: common.Imports = None,
    seed: common.Seed = 0,
    json: common.Json = False,
) -> None:
    """Say what int8 does to each layer: noise, bytes and time, in your layers' names."""
    from edgekit.passes.quantize import Quantize
    from edgekit.pipeline.sensitivity import sensitivities

    fields: dict[str, Any] = {"kind": "quantize", **({"method": scheme} if scheme else {})}
    with common.progress() as progress:
        found = sensitivities(
            common.build(Quantize, {**fields, **common.settings(set_)}, "options"),
            model,
            data=common.data_config(data),
            target=target,
            by=by,
            task=common.task_config(task),
            seed=seed,
            imports=imports or (),
            progress=progress,
        )
    if plot is not None:
        from edgekit.manifest import write_text_atomically
        from edgekit.report.sensitivity import figure

        write_text_atomically(plot, figure(found["layers"]))
    common.print_json(found) if json else _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = common.out_console()
    table = Table(box=None, header_style="bold")
    heads = {"sqnr": [], "fisher": ["loss added"]}
    ranked = heads.get(found["by"], [f"{found['by']} drop alone"])
    for column in ("layer", "operator", *ranked, "SQNR alone", "float32", "int8", "bytes saved"):
        table.add_column(column, justify="left" if column in {"layer", "operator"} else "right")
    for row in found["layers"]:
        both = row["float_ms"], row["int8_ms"]
        times = ("–" if ms is None else f"{ms:.4f} ms" for ms in both)
        sqnr = "equal" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f} dB"
        saved = f"{row['float_bytes'] - row['int8_bytes']:,}"
        drop = [f"{row['drop']:+.4f}"] if row["drop"] is not None else []
        if found["by"] == "fisher":
            drop = ["–" if row["fisher"] is None else f"{row['fisher']:.3g}"]
        table.add_row(Text(row["layer"]), row["op"], *drop, sqnr, *times, saved)
    console.print(table)
    whole = ", ".join(f"{n}: {db} dB" for n, db in found["output_sqnr_db"].items())
    console.print(
        f"all layers in int8 ({found['method']}): {whole}; {found['latency']}", markup=False
    )
