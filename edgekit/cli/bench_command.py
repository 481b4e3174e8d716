"""`edgekit bench`: latency, throughput and energy of one or several models, interleaved."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import bench_options as options
from edgekit.errors import UsageError


def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="Artifact folders or model files.")
    ],
    *,
    runtime: options.Runtime = None,
    provider: options.Provider = None,
    settings: options.Set = None,
    inputs: options.Inputs = None,
    recipe: options.Recipe = None,
    batch: options.Batch = 1,
    dim: options.Dim = None,
    shape: options.Shape = None,
    imports: options.Imports = None,
    quick: options.Quick = False,
    mode: options.ModeOption = None,
    rate: options.Rate = None,
    deadline: options.DeadlineOption = None,
    streams: options.Streams = None,
    sustained: options.Sustained = None,
    layers: options.Layers = False,
    roofline: options.Roofline = False,
    cuda_graph: options.CudaGraph = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    target: options.Target = None,
    threads: options.Threads = None,
    affinity: options.Affinity = None,
    power_mode: options.PowerMode = None,
    meter: options.MeterOption = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="FILE.json",
            help="Compare with an earlier --json of the same machine, model by name.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    max_slowdown: options.MaxSlowdown = None,
    strict: options.Strict = False,
    json: options.Json = False,
    save: options.Save = None,
) -> None:
    """Measure latency with its interval; several models are interleaved against the first.

    Exit 5: beyond --max-slowdown. Exit 6: a device was lost. Ctrl-C keeps what was measured.
    """
    given = dict(locals())
    from edgekit.cli.bench_results import Finish

    request = options.request(**{k: v for k, v in given.items() if k not in _NOT_ASKED})
    finish = Finish.of(
        request,
        device or [],
        baseline=baseline,
        max_slowdown=max_slowdown,
        strict=strict,
        json=json,
        save=save,
    )
    if finish.allowed is not None and baseline is None and len(models) < 2:
        raise UsageError(
            "--max-slowdown has nothing to compare with.",
            "Give --baseline FILE.json, or a second model.",
        )
    finish.run(request)


_NOT_ASKED = frozenset({"device", "baseline", "max_slowdown", "strict", "json", "save"})
