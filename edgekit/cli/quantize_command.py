"""`edgekit quantize`: int8, held against its parent."""

from typing import Annotated, Any

import typer

from edgekit.cli import common, units
from edgekit.cli.pass_commands import apply
from edgekit.errors import UsageError


def quantize(
    model: common.Model,
    out: common.Out,
    *,
    data: common.Data,
    target: Annotated[str, typer.Option("--target", help="A name from `edgekit targets`.")],
    scheme: Annotated[
        str | None,
        typer.Option(
            help="static: ranges from data; dynamic: ranges at each run (LSTM, matrix products on "
            "ONNX Runtime); auto: what suits the network."
        ),
    ] = None,
    ranges: Annotated[
        str | None, typer.Option(help="min-max, mean-min-max, percentile, mse or kl.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="What it may lose: accuracy-drop, sqnr-db or slowdown; may be repeated.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="What it may cost: latency-ms, size-bytes or energy-j. What loses most stays in "
            "float32.",
        ),
    ] = None,
    no_guard: Annotated[
        bool, typer.Option("--no-guard", help="Do not hold it against its parent.")
    ] = False,
    search: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="How long the guard may search, such as 90s or 30m (default 15m)."
        ),
    ] = None,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Take a model that is quantized already.")
    ] = False,
    task: common.Task = "classification",
    set_: common.Set = None,
    imports: common.Imports = None,
    seed: common.Seed = 0,
    threads: common.Threads = None,
    json: common.Json = False,
) -> None:
    """Quantize to int8 in the target's scheme; repair or refuse what is slower or inaccurate."""
    from edgekit.passes.quantize import Quantize

    fields: dict[str, Any] = {
        "method": scheme,
        "ranges": ranges,
        "gate": limits(gate or [], "--gate") or None,
        "budget": limits([budget], "--budget") if budget else None,
        "guard": False if no_guard else None,
        "search_s": units.seconds(search, "--search") if search else None,
        "requantize": requantize or None,
    }
    apply(
        Quantize,
        fields,
        model,
        out,
        json=json,
        set_=set_,
        data=data,
        task=task,
        target=target,
        seed=seed,
        threads=threads,
        imports=imports,
    )


def limits(pairs: list[str], option: str) -> dict[str, float]:
    """Read `name=number` options.

    Raises:
        UsageError: one has no `=`, or no number.
    """
    found = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            number = float(value)
        except ValueError as e:
            raise UsageError(
                f"{option} {pair!r} is not a name and a number.", f"Write {option} name=0.01."
            ) from e
        found[name.strip().replace("-", "_")] = int(number) if number.is_integer() else number
    return found
