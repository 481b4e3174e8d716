"""`edgekit compare A B`: is B faster than A, and by how much; a gate for CI."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import bench_options as options


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The baseline: a folder or a file.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The model that is compared with it.")],
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
    max_slowdown: options.MaxSlowdown = None,
    strict: options.Strict = False,
    json: options.Json = False,
    save: options.Save = None,
) -> None:
    """Time two models in interleaved blocks: B is faster, slower, or it is inconclusive.

    Exit 5: B is slower than --max-slowdown allows. Their outputs are not compared: that is
    `edgekit verify`.
    """
    given = dict(locals())
    from edgekit.cli.bench_results import Finish

    asked = {k: v for k, v in given.items() if k not in _NOT_ASKED}
    request = options.request([a, b], same_twice=True, **asked)
    finish = Finish.of(
        request,
        device or [],
        max_slowdown=max_slowdown,
        strict=strict,
        json=json,
        save=save,
        verdict=True,
    )
    finish.run(request)


_NOT_ASKED = frozenset({"a", "b", "device", "max_slowdown", "strict", "json", "save"})
