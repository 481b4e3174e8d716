"""The commands that run one pass on one artifact. Each is a recipe of one step."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli import common

if TYPE_CHECKING:
    from edgekit.passes.base import Pass

Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the data.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Samples at once, in each process.")]
LearningRate = Annotated[float | None, typer.Option(help="Its peak.")]
Precision = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16 in the forward and backward pass.")
]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", help="Keep the teacher's answers here, for later commands too."),
]


def apply(
    step: "type[Pass]",
    fields: dict[str, Any],
    model: Path,
    out: Path,
    *,
    json: bool,
    set_: list[str] | None = None,
    data: str | None = None,
    task: str = "classification",
    target: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    imports: list[str] | None = None,
    cache: Path | None = None,
) -> None:
    """Run one pass on one artifact, and show what came out."""
    from edgekit.cli import show
    from edgekit.pipeline import apply as apply_pass

    given = {k: v for k, v in fields.items() if v is not None} | common.settings(set_)
    config = common.build(step, {"kind": step.model_fields["kind"].default, **given}, "options")
    with common.progress() as progress:
        manifest = apply_pass(
            config,
            model,
            out,
            data=common.data_config(data),
            task=common.task_config(task),
            target=target,
            seed=seed,
            threads=threads,
            imports=imports or (),
            cache=cache,
            progress=progress,
        )
    common.print_json(manifest) if json else show.manifest(manifest)


def capture(
    model: Annotated[
        str, typer.Argument(help="module:factory or file.py:factory (runs it), .pt2 or .onnx.")
    ],
    out: common.Out,
    *,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="A .safetensors, or a .pt of tensors.")
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=SHAPE[:DTYPE]",
            help="An input, such as image=batch,3,32*h,32*w:float32; names are dynamic sizes.",
        ),
    ] = None,
    imports: common.Imports = None,
    data: common.Data = None,
    seed: common.Seed = 0,
    json: common.Json = False,
) -> None:
    """Capture a network once, as a graph that needs its source no more."""
    from edgekit.cli import show
    from edgekit.pipeline import capture as capture_model

    source = "file" if model.endswith((".pt2", ".onnx")) else "python"
    with common.progress() as progress:
        manifest = capture_model(
            {
                source: model.removeprefix("python:"),
                "weights": None if weights is None else str(weights),
                "inputs": common.input_specs(input),
                "imports": imports or [],
            },
            out,
            data=common.data_config(data),
            seed=seed,
            progress=progress,
        )
    common.print_json(manifest) if json else show.manifest(manifest)


def shrink(
    model: common.Model,
    out: common.Out,
    *,
    width: Annotated[
        float | None, typer.Option(help="Share of the channels that every layer keeps, 0 to 1.")
    ] = None,
    depth: Annotated[
        float | None, typer.Option(help="Share of the repeated residual blocks to keep, 0 to 1.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="kept, or new: drawn as if it had never been trained.")
    ] = None,
    set_: common.Set = None,
    imports: common.Imports = None,
    target: common.Target = None,
    seed: common.Seed = 0,
    json: common.Json = False,
) -> None:
    """Make a narrower or shallower student of a .pt2, to be distilled from it."""
    from edgekit.passes.shrink import Shrink

    fields = {"width": width, "depth": depth, "weights": weights}
    apply(
        Shrink,
        fields,
        model,
        out,
        json=json,
        set_=set_,
        target=target,
        seed=seed,
        imports=imports,
    )


def finetune(
    model: common.Model,
    out: common.Out,
    *,
    data: common.Data,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    precision: Precision = None,
    cache: Cache = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="First give it a new last layer, for so many classes.")
    ] = None,
    head_epochs: Annotated[
        int | None, typer.Option(min=0, help="Epochs in which the new layer alone learns.")
    ] = None,
    task: common.Task = "classification",
    set_: common.Set = None,
    imports: common.Imports = None,
    seed: common.Seed = 0,
    threads: common.Threads = None,
    json: common.Json = False,
) -> None:
    """Train a .pt2 on its own labels; goes on where it was interrupted."""
    from edgekit.passes.fine_tune import FineTune

    apply(
        FineTune,
        {
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "precision": precision,
            "classes": classes,
            "head_epochs": head_epochs,
        },
        model,
        out,
        json=json,
        set_=set_,
        data=data,
        task=task,
        seed=seed,
        threads=threads,
        imports=imports,
        cache=cache,
    )


def distill(
    model: Annotated[Path, typer.Argument(metavar="STUDENT", help="An artifact or a .pt2 file.")],
    out: common.Out,
    *,
    teacher: Annotated[
        list[Path],
        typer.Option(
            "--teacher", help="An artifact, a .pt2 or an .onnx file; several answer as one."
        ),
    ],
    data: common.Data,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    precision: Precision = None,
    cache: Cache = None,
    loss: Annotated[
        str | None,
        typer.Option(help="kd, dist, dkd, token-kd, channel-kd, mean-squared-error or none."),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Softens both answers.")] = None,
    label_weight: Annotated[
        float | None, typer.Option(help="The labels' share of the loss; 0 needs no labels.")
    ] = None,
    task: common.Task = "classification",
    set_: common.Set = None,
    imports: common.Imports = None,
    seed: common.Seed = 0,
    threads: common.Threads = None,
    json: common.Json = False,
) -> None:
    """Train a .pt2 to answer as its teacher does; goes on where it was interrupted."""
    from edgekit.evaluate import open_artifact
    from edgekit.passes.distill import Distill

    fields = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "loss": loss,
        "temperature": temperature,
        "label_weight": label_weight,
        "teacher": [str(open_artifact(t, imports or ()).path.resolve()) for t in teacher],
    }
    apply(
        Distill,
        fields,
        model,
        out,
        json=json,
        set_=set_,
        data=data,
        task=task,
        seed=seed,
        threads=threads,
        imports=imports,
        cache=cache,
    )


def build(
    model: common.Model,
    out: common.Out,
    *,
    target: Annotated[str, typer.Option("--target", help="A name from `edgekit targets`.")],
    shapes: common.Shapes = None,
    workspace: Annotated[
        int | None, typer.Option("--workspace", help="Most GPU memory of a layer, MiB.")
    ] = None,
    level: Annotated[
        int | None, typer.Option("-O", help="0: fastest build, to 5: longest search.")
    ] = None,
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Use kernels for 2:4 sparse weights.")
    ] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="Leave the weights out, to be refitted.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Load in later TensorRT versions too.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Run on Ampere and every later GPU.")
    ] = False,
    dla: Annotated[int | None, typer.Option("--dla", help="Build for this DLA core.")] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option("--timing-cache", help="A folder; one cache for each version and GPU."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Build on this device of `edgekit device list`."),
    ] = None,
    set_: common.Set = None,
    json: common.Json = False,
) -> None:
    """Build a TensorRT engine from an ONNX file."""
    from edgekit.passes.build_tensorrt import BuildTensorrt

    fields = {
        "shapes": common.shape_triples(shapes),
        "workspace_mib": workspace,
        "optimization_level": level,
        "sparse": sparse or None,
        "strip_weights": strip_weights or None,
        "version_compatible": version_compatible or None,
        "hardware_compatible": hardware_compatible or None,
        "dla": dla,
        "timing_cache": None if timing_cache is None else str(timing_cache),
        "device": device,
    }
    apply(BuildTensorrt, fields, model, out, json=json, set_=set_, target=target)
