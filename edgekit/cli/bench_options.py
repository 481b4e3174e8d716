"""The options that `bench` and `compare` share, and what they come to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli import common, units

if TYPE_CHECKING:
    from edgekit.pipeline.bench_request import BenchRequest

MODEL, HOW, WHERE, ENERGY, OUTPUT = "Model", "How", "Where", "Energy", "Output"

Runtime = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help="One of `edgekit doctor`, such as onnxruntime or torch; from the file unless given.",
        rich_help_panel=MODEL,
    ),
]
Provider = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="ONNX Runtime's execution provider, such as cuda; best first.",
        rich_help_panel=MODEL,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other option of the runtime, such as precision=f16; may be repeated.",
        rich_help_panel=MODEL,
    ),
]
Inputs = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        metavar="FILE.npz",
        help="One array for each input; random ones unless given.",
        rich_help_panel=MODEL,
    ),
]
Recipe = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        metavar="DIR",
        help="Take the inputs from this recipe's evaluation data.",
        rich_help_panel=MODEL,
    ),
]
Batch = Annotated[
    int,
    typer.Option("--batch", min=1, help="Size of dynamic batch dimensions.", rich_help_panel=MODEL),
]
Dim = Annotated[
    list[str] | None,
    typer.Option(
        "--dim",
        metavar="NAME=SIZE",
        help="Size of another dynamic dimension.",
        rich_help_panel=MODEL,
    ),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="INPUT=1x3x224x224",
        help="Whole shape of an input.",
        rich_help_panel=MODEL,
    ),
]
Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        help="A module with custom operators of a .pt2 (runs it).",
        rich_help_panel=MODEL,
    ),
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="A short run, marked as such.", rich_help_panel=HOW),
]
ModeOption = Annotated[
    str | None,
    typer.Option(
        "--mode",
        metavar="MODE",
        help="back-to-back, paced, streams, server or offline.",
        rich_help_panel=HOW,
    ),
]
Rate = Annotated[
    str | None,
    typer.Option(
        "--rate",
        metavar="HZ",
        help="Frames (paced) or mean requests (server) a second: 30 for video, 90 for AR/VR.",
        rich_help_panel=HOW,
    ),
]
DeadlineOption = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        metavar="MS",
        help="Latest answer after its scheduled time; one period unless given.",
        rich_help_panel=HOW,
    ),
]
Streams = Annotated[
    int | None,
    typer.Option("--streams", min=1, help="Concurrent inferences.", rich_help_panel=HOW),
]
Sustained = Annotated[
    str | None,
    typer.Option(
        "--sustained",
        metavar="30m",
        help="Run this long, and show how the latency moves as the device heats up.",
        rich_help_panel=HOW,
    ),
]
Layers = Annotated[
    bool, typer.Option("--layers", help="Time each layer, apart.", rich_help_panel=HOW)
]
Roofline = Annotated[
    bool,
    typer.Option(
        "--roofline",
        help="Measure the device's limits, and say what share each model reaches.",
        rich_help_panel=HOW,
    ),
]
CudaGraph = Annotated[
    bool,
    typer.Option(
        "--cuda-graph",
        help="Run TensorRT engines as recorded CUDA graphs.",
        rich_help_panel=HOW,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", help="Every random choice comes from it.", rich_help_panel=HOW)
]
Device = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="A device of `edgekit device list`; may be repeated; `local` is this machine.",
        rich_help_panel=WHERE,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="A name from `edgekit targets`: gives runtime, threads and meters.",
        rich_help_panel=WHERE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="CPU threads of the runtime; the target's, or 1, unless given.",
        rich_help_panel=WHERE,
    ),
]
Affinity = Annotated[
    str | None,
    typer.Option("--affinity", metavar="0,1", help="CPUs to run on.", rich_help_panel=WHERE),
]
PowerMode = Annotated[
    str | None,
    typer.Option(
        "--power-mode",
        metavar="MODE",
        help="Set the device's power mode, and put it back afterwards.",
        rich_help_panel=WHERE,
    ),
]
MeterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--meter",
        metavar="NAME",
        help="Measure joules: auto, or a name from `edgekit meters`; best first.",
        rich_help_panel=ENERGY,
    ),
]
MaxSlowdown = Annotated[
    str | None,
    typer.Option(
        "--max-slowdown",
        metavar="5%",
        help="Exit 5 where a model is really slower than its baseline by more than this.",
        rich_help_panel=OUTPUT,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Exit 5 unless the whole 95 % interval is within --max-slowdown.",
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)
]
Save = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="RAW.npz",
        help="Keep every timed inference, in nanoseconds.",
        rich_help_panel=OUTPUT,
    ),
]


def request(models: list[Path], same_twice: bool = False, **given: Any) -> "BenchRequest":
    """Turn the options, as the command line gives them, into a request.

    Raises:
        UsageError: one cannot be read; the message names it.
    """
    from edgekit.pipeline.bench_request import BenchRequest

    def optional(name: str, read: Any) -> Any:
        text = given[name]
        return None if text is None else read(text, f"--{name}")

    return BenchRequest(
        models=tuple(models),
        same_twice=same_twice,
        rate_hz=optional("rate", units.hertz),
        deadline_ms=optional("deadline", units.milliseconds),
        sustained_s=optional("sustained", units.seconds),
        affinity=units.numbers(given["affinity"], "--affinity"),
        dims=common.sizes(given["dim"]),
        shapes=units.shapes(given["shape"]),
        providers=tuple(given["provider"] or ()),
        meters=None if given["meter"] is None else tuple(given["meter"]),
        settings=common.settings(given["settings"]),
        imports=tuple(given["imports"] or ()),
        **{
            name: given[name]
            for name in (
                "target",
                "runtime",
                "threads",
                "mode",
                "streams",
                "quick",
                "inputs",
                "recipe",
                "batch",
                "layers",
                "roofline",
                "cuda_graph",
                "power_mode",
                "seed",
            )
        },
    )
