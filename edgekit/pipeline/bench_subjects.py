"""Open what is to be measured: each model with its runtime, its inputs and its options."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import RecipeError, UsageError
from edgekit.pipeline.bench_request import BenchRequest, nearest
from edgekit.pipeline.runtimes import runtime_class

if TYPE_CHECKING:
    from edgekit.bench import Subject

_BY_RECIPE_FORMAT = {
    "onnx": "onnxruntime",
    "pt2": "torch",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}
_BY_SUFFIX = {".ort": "onnxruntime", ".xml": "openvino"}
# What each runtime can load, by file suffix.
_LOADS: dict[str, tuple[str, ...]] = {
    "onnxruntime": (".onnx", ".ort"),
    "openvino": (".onnx", ".xml"),
    "torch": (".pt2",),
    "torch-compile": (".pt2",),
    "tensorrt": (".engine",),
    "tensorrt-rtx": (".engine",),
}
_NOT_SET = frozenset({"threads", "providers", "profile"})  # flags, and what is edgekit's own
_KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", str: "a word"}
_PROVIDER_SUFFIX = "ExecutionProvider"
_PROVIDERS = (
    *("CPU", "CUDA", "Tensorrt", "NvTensorRTRTX", "OpenVINO", "CoreML", "Dml"),
    *("ROCM", "MIGraphX", "XNNPACK", "QNN", "ACL", "NNAPI", "DNNL"),
)


@dataclass(frozen=True)
class OpenModel:
    """A model that is to be measured.

    Attributes:
        name: how the result calls it.
        path: the model's file.
        runtime: what runs it.
        inputs: what goes in, things with `name`, `dtype` and `shape`.
    """

    name: str
    path: Path
    runtime: str
    inputs: tuple[Any, ...]


def open_models(request: BenchRequest) -> list[OpenModel]:
    """Open the models of a request, and choose each one's runtime.

    Raises:
        UsageError: a file is missing, broken, or not what the runtime loads.
        UnavailableError: an engine cannot say its inputs, since its runtime is not here.
    """
    return [
        _open(path, name, request)
        for path, name in zip(request.models, labels(request.models), strict=True)
    ]


def labels(models: Sequence[Path]) -> list[str]:
    """What each model is called in the result: its file's name where that is enough."""
    found: list[str] = []
    for path in models:
        short = path.name or str(path.resolve().name)
        name = short if [m.name for m in models].count(path.name) == 1 else str(path)
        number = sum(each == name or each.startswith(f"{name} (") for each in found)
        found.append(f"{name} ({number + 1})" if number else name)
    return found


def _open(path: Path, name: str, request: BenchRequest) -> OpenModel:
    target = request.loaded_target()
    wanted = request.runtime or (target.runtime if target else None)
    if not path.is_dir() and path.suffix in {".engine", ".plan", ".ort", ".xml"}:
        runtime = wanted or _runtime_of_file(path)
        _check_loads(path, name, runtime)
        return OpenModel(name, path, runtime, _inputs_of_file(path, runtime))
    from edgekit.evaluate import open_artifact

    artifact = open_artifact(path, request.imports)
    inferred = _BY_RECIPE_FORMAT[artifact.format]
    # A target names the runtime of its own format; the parent beside it still runs on its own.
    loads = _LOADS.get(wanted or "", (artifact.path.suffix,))
    runtime = wanted if wanted is not None and artifact.path.suffix in loads else inferred
    if request.runtime is not None:
        runtime = request.runtime
    _check_loads(artifact.path, name, runtime)
    return OpenModel(name, artifact.path, runtime, artifact.inputs)


def _check_loads(path: Path, name: str, runtime: str) -> None:
    loads = _LOADS.get(runtime)
    if loads is None or path.suffix in loads or (path.suffix == ".plan" and ".engine" in loads):
        return
    raise UsageError(
        f"{name} is a {path.suffix} file, which {runtime} does not run.",
        "Leave --runtime out, or export it (`edgekit export`) or build it (`edgekit build`) first.",
    )


def _runtime_of_file(path: Path) -> str:
    """The runtime of a file: by its suffix, an engine's from the JSON that the build wrote."""
    if path.suffix in _BY_SUFFIX:
        return _BY_SUFFIX[path.suffix]
    if not path.is_file():
        raise UsageError(f"{path} does not exist.", "Give an artifact folder or a model file.")
    for beside in (path.with_name(f"{path.name}.json"), path.with_suffix(".json")):
        try:
            facts = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(facts, dict) and facts.get("runtime") in {"tensorrt", "tensorrt-rtx"}:
            return str(facts["runtime"])
    raise UsageError(
        f"Nothing beside {path} says whether it is an engine of TensorRT or of TensorRT-RTX.",
        "Say it: --runtime tensorrt, or --runtime tensorrt-rtx.",
    )


def _inputs_of_file(path: Path, runtime: str) -> tuple[Any, ...]:
    """The inputs of a file that edgekit opens only with its runtime, or knows from its build."""
    from edgekit import manifest

    try:
        known = manifest.read(path.parent).artifact
    except UsageError:
        known = None
    if known is not None and known.model == path.name:
        return known.inputs
    from edgekit.bench import model_inputs

    return model_inputs(path, runtime)


def subjects_of(request: BenchRequest, models: Sequence[OpenModel]) -> list["Subject"]:
    """What the benchmark measures: each model with its inputs and its runtime's options.

    Raises:
        UsageError: a dimension has no size, the inputs given do not fit, or no runtime has an
            option.
    """
    from edgekit.bench import Subject

    _check_settings(request, list(dict.fromkeys(model.runtime for model in models)))
    return [
        Subject(
            name=model.name,
            runtime=model.runtime,
            model=model.path,
            feeds=feeds_of(request, model),
            options=options_of(request, model.runtime),
        )
        for model in models
    ]


def feeds_of(request: BenchRequest, model: OpenModel) -> dict[str, Any]:
    """One array for each input: from the file, the recipe's data, or random."""
    if request.inputs is not None:
        return read_feeds(request.inputs, model)
    if request.recipe is not None:
        return _recipe_feeds(request, model)
    from edgekit.bench import random_feeds

    known = {spec.name for spec in model.inputs}
    for name in request.shapes:
        if name not in known:
            raise UsageError(
                f"--shape names {name!r}, which is no input of {model.name}.",
                nearest(name, sorted(known), "Its inputs"),
            )
    inputs = [_shaped(spec, request.shapes.get(spec.name), model.name) for spec in model.inputs]
    return dict(
        random_feeds(inputs, batch=request.batch, seed=request.seed, dims=dict(request.dims))
    )


def read_feeds(path: Path, model: OpenModel) -> dict[str, Any]:
    """The arrays of a `.npz`, one for each input; a single one may have any name.

    Args:
        path: the file. Pickled objects in it are not loaded: that would run their code.
        model: what is fed.

    Raises:
        UsageError: it cannot be read, an input has no array, or an array is no input's.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise UsageError(f"{path} holds one array without a name.", "Give a .npz file.")
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as e:
        raise UsageError(f"The inputs {path} do not exist.", "Check the path.") from e
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as e:
        raise UsageError(
            f"The inputs {path} are not a .npz of plain arrays: {e}",
            "Write one with numpy.savez(path, name=array).",
        ) from e
    wanted = [spec.name for spec in model.inputs]
    if len(wanted) == len(arrays) == 1:
        arrays = {wanted[0]: next(iter(arrays.values()))}
    missing = [name for name in wanted if name not in arrays]
    unknown = [name for name in arrays if name not in wanted]
    if missing or unknown:
        lacks = f"has no {', '.join(map(repr, missing))}" if missing else ""
        more = f"has {', '.join(map(repr, unknown))}, no input of {model.name}" if unknown else ""
        raise UsageError(
            f"{path} {' and '.join(text for text in (lacks, more) if text)}.",
            f"Give one array for each input: {', '.join(wanted)}.",
        )
    return {name: arrays[name].astype(_dtype(arrays[name], name, model)) for name in wanted}


def _dtype(array: Any, name: str, model: OpenModel) -> Any:
    """The dtype of an input, where an array can be given in it without another meaning.

    Raises:
        UsageError: it cannot: floating numbers are not cut down to whole ones.
    """
    wanted = np.dtype(next(spec.dtype for spec in model.inputs if spec.name == name))
    if not np.can_cast(array.dtype, wanted, "same_kind"):
        raise UsageError(
            f"Array {name!r} is {array.dtype}, and {model.name} takes {wanted}.",
            f"Convert it: array.astype({str(wanted)!r}).",
        )
    return wanted


def _shaped(spec: Any, shape: tuple[int, ...] | None, model: str) -> tuple[str, str, Any]:
    """An input with the shape that the user gave it."""
    if shape is None:
        return spec.name, spec.dtype, spec.shape
    fits = len(shape) == len(spec.shape) and all(
        not isinstance(dim, int) or dim == size
        for dim, size in zip(spec.shape, shape, strict=False)
    )
    if not fits:
        raise UsageError(
            f"--shape {spec.name}={'x'.join(map(str, shape))} does not fit {model}, whose"
            f" {spec.name!r} is [{', '.join(map(str, spec.shape))}].",
            "Give a size for each dimension; those that are numbers are fixed.",
        )
    return spec.name, spec.dtype, shape


def _recipe_feeds(request: BenchRequest, model: OpenModel) -> dict[str, Any]:
    """The first batch of the evaluation data of a recipe."""
    from edgekit.data import open_data
    from edgekit.pipeline.plan import locate
    from edgekit.recipe import load

    if request.recipe is None:
        return {}
    path = locate(request.recipe)
    recipe = load(path)
    if recipe.data is None:
        raise RecipeError(f"{path} has no `data:` section.", "Give inputs with --inputs instead.")
    data = open_data(recipe.data, path.parent.resolve())
    firsts = {spec.shape[0] for spec in model.inputs if spec.shape}
    fixed = [size for size in firsts if isinstance(size, int) and size > 0]
    rows = fixed[0] if len(fixed) == 1 and len(firsts) == 1 else request.batch
    split = "evaluation"
    if data.count(split) < rows:
        raise UsageError(
            f"The {split} split of {path} has {data.count(split)} samples, and a batch is {rows}.",
            "Give a smaller --batch.",
        )
    specs = [_tensor_spec(spec) for spec in model.inputs]
    batch = next(iter(data.for_model(specs).batches(split, rows)))
    return dict(batch.inputs)


def _tensor_spec(spec: Any) -> Any:
    from edgekit.artifact import TensorSpec

    return TensorSpec(name=spec.name, dtype=spec.dtype, shape=spec.shape)


def options_of(request: BenchRequest, runtime: str) -> dict[str, Any]:
    """The options of a runtime: its threads, its providers, and others that were asked for."""
    target = request.loaded_target()
    options: dict[str, Any] = {"threads": request.threads or (target.threads if target else 1)}
    if request.providers and runtime == "onnxruntime":
        options["providers"] = tuple(map(provider_name, request.providers))
    known = _settable(runtime)
    return {**options, **{name: v for name, v in request.settings.items() if name in known}}


def _settable(runtime: str) -> list[str]:
    """The options of a runtime that have no flag of their own."""
    return [name for name in runtime_class(runtime).DEFAULTS if name not in _NOT_SET]


def _check_settings(request: BenchRequest, runtimes: Sequence[str]) -> None:
    for name, value in request.settings.items():
        having = [each for each in runtimes if name in _settable(each)]
        if not having:
            known = "; ".join(
                f"{each}: {', '.join(_settable(each)) or 'none'}" for each in runtimes
            )
            raise UsageError(
                f"--set {name}: no runtime here has this option.", f"Options: {known}."
            )
        default = runtime_class(having[0]).DEFAULTS[name]
        kind = str if default is None else type(default)
        if type(value) is not kind:
            raise UsageError(
                f"--set {name}={value} is not {_KINDS[kind]}.",
                f"{having[0]} has {default} unless set.",
            )


def provider_name(text: str) -> str:
    """The full name of an execution provider: `cuda` is `CUDAExecutionProvider`."""
    if text.endswith(_PROVIDER_SUFFIX):
        return text
    known = {name.lower(): f"{name}{_PROVIDER_SUFFIX}" for name in _PROVIDERS}
    return known.get(text.lower(), text)
