"""A few lines of Python or C++ that run a model: the start of the user's own program.

They name the model's inputs and outputs, their dtypes and shapes, and use its runtime alone, not
edgekit. Names come from the model's file, which is hostile input: they appear as escaped literals
only, and identifiers are made from letters and digits of them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from edgekit import manifest
from edgekit.artifact import SNIPPETS, TensorSpec
from edgekit.errors import UsageError
from edgekit.manifest import write_text_atomically

Language = Literal["python", "cpp"]
Runtime = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
DTYPES = (
    *("float32", "float64", "float16", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
_ENGINE_DTYPES = {"float32", "float16", "int8", "int32", "int64", "uint8", "bool"}
_OF_FORMAT: dict[str, Runtime] = {
    "onnx": "onnxruntime",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}
_FACTOR = re.compile(r"(\d+)\s*\*.*")


@dataclass(frozen=True)
class Subject:
    """What a snippet runs.

    Attributes:
        file: the model file's path, as the snippet shall find it.
        runtime: what runs it.
        inputs: what goes in, in order.
        outputs: what comes out, in order.
        sizes: of dynamic dimensions, by their name in the shapes.
    """

    file: str
    runtime: Runtime
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """A dynamic dimension as a constant of the snippet.

    Attributes:
        dim: its name in the model.
        name: an identifier, in small letters.
        value: what the snippet sets it to.
    """

    dim: str
    name: str
    value: int


def snippet(subject: Subject, language: Language) -> str:
    """Write a program that runs a model once.

    Args:
        subject: the model.
        language: `python`, or `cpp` (C++17).

    Raises:
        UsageError: an input or output has a dtype that the runtime's interface does not pass.
    """
    from edgekit.lower import snippet_cpp, snippet_python

    if language not in get_args(Language):
        raise UsageError(f"There is no snippet in {language!r}.", "Languages: python, cpp.")
    if not subject.inputs or not subject.outputs:
        raise UsageError(f"{subject.file} has no inputs or no outputs.", "Export the model again.")
    known = _ENGINE_DTYPES if subject.runtime.startswith("tensorrt") else set(DTYPES)
    for spec in (*subject.inputs, *subject.outputs):
        if spec.dtype not in known:
            raise UsageError(
                f"{spec.name!r} is {spec.dtype}, which no plain array holds for {subject.runtime}.",
                "Keep the network's inputs and outputs in float32 or integers.",
            )
    write = snippet_python.write if language == "python" else snippet_cpp.write
    return write(subject, sizes_of(subject))


def sizes_of(subject: Subject) -> tuple[Size, ...]:
    """The dynamic dimensions of the inputs, each once, under identifiers that differ."""
    found: dict[str, Size] = {}
    for spec in subject.inputs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, int) or dim in found:
                continue
            plain = re.sub(r"[^a-z0-9]+", "_", dim.lower()).strip("_")[:40] or "size"
            name, count = f"n_{plain}", 1
            while name in {size.name for size in found.values()}:
                count += 1
                name = f"n_{plain}_{count}"
            found[dim] = Size(dim, name, subject.sizes.get(dim, _usual(dim, axis)))
    return tuple(found.values())


def _usual(dim: str, axis: int) -> int:
    """One sample; other dimensions large enough for windows and strides."""
    factor = _FACTOR.fullmatch(dim)
    unit = int(factor[1]) if factor else 1
    return 1 if axis == 0 else max(1, 64 // max(1, unit)) * max(1, unit)


def subject_of(model: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Subject:
    """Read what a model takes and gives.

    Args:
        model: an artifact's folder, or a file: `.onnx`, `.ort`, OpenVINO's `.xml`, or an engine
            with edgekit's JSON beside it.
        shapes: of inputs with dynamic dimensions; small ones unless given.

    Raises:
        UsageError: it is none of these, or a shape does not fit it.
        UnavailableError: the runtime that reads it is not installed.
    """
    sizes: dict[str, int] = {}
    if model.is_dir():
        artifact = manifest.read(model).artifact
        path, inputs, outputs = artifact.path, artifact.inputs, artifact.outputs
        if artifact.format not in _OF_FORMAT:
            raise UsageError(f"{path.name} is no file for a runtime.", "Export it: edgekit export.")
        runtime = _OF_FORMAT[artifact.format]
        if artifact.format != "onnx":
            sizes = _profile_sizes(_facts(path), inputs)
    else:
        path = model
        runtime, inputs, outputs, sizes = _read(path)
    sizes.update(_given_sizes(inputs, shapes or {}))
    return Subject(path.name, runtime, inputs, outputs, sizes)


def write_beside(
    path: Path,
    runtime: Runtime,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> tuple[str, ...]:
    """Write both snippets into a model's folder.

    Args:
        path: the model's file.
        runtime: what runs it.
        inputs: what goes in, in order.
        outputs: what comes out, in order.
        shapes: of inputs with dynamic dimensions.

    Returns:
        Their names; empty where the model's dtypes allow none.
    """
    try:
        sizes = _given_sizes(inputs, shapes or {})
        subject = Subject(path.name, runtime, tuple(inputs), tuple(outputs), sizes)
        texts = {name: snippet(subject, kind) for name, kind in _LANGUAGES.items()}
    except UsageError:  # an odd dtype, say: `edgekit snippet` tells
        return ()
    for name, text in texts.items():
        write_text_atomically(path.with_name(name), text)
    return tuple(texts)


_LANGUAGES: dict[str, Language] = {
    name: "python" if name.endswith(".py") else "cpp" for name in sorted(SNIPPETS)
}

_Ends = tuple[TensorSpec, ...]


def _read(path: Path) -> tuple[Runtime, _Ends, _Ends, dict[str, int]]:
    if not path.is_file():
        raise UsageError(f"{path} does not exist.", "Check the path.")
    if path.suffix == ".onnx":
        from edgekit.graph.onnx_model import read_onnx, specs

        return ("onnxruntime", *specs(read_onnx(path, data=False)), {})
    if path.suffix == ".ort":
        return ("onnxruntime", *_opened("onnxruntime", path), {})
    if path.suffix == ".xml":
        return ("openvino", *_opened("openvino", path), {})
    facts = _facts(path)
    runtime = facts.get("runtime")
    try:
        inputs, outputs = (
            tuple(TensorSpec.model_validate(each) for each in facts[key])
            for key in ("inputs", "outputs")
        )
    except (KeyError, TypeError, ValueError) as e:
        raise UsageError(
            f"{path.name}.json does not say what goes in and out.", "Build the engine again."
        ) from e
    if runtime not in ("tensorrt", "tensorrt-rtx"):
        raise UsageError(f"{path.name}.json names no builder.", "Build the engine again.")
    return runtime, inputs, outputs, _profile_sizes(facts, inputs)


def _opened(runtime: str, path: Path) -> tuple[_Ends, _Ends]:
    """Ask the runtime itself, for files that only it reads."""
    from edgekit.bench.runtimes import IoSpec, runtime_class

    def specs(ends: tuple[IoSpec, ...]) -> _Ends:
        return tuple(
            TensorSpec(
                name=end.name,
                dtype=end.dtype,
                shape=tuple(
                    f"{end.name}_dim_{axis}" if dim == "" else dim
                    for axis, dim in enumerate(end.shape)
                ),
            )
            for end in ends
        )

    with runtime_class(runtime)(path, {"threads": 1}) as opened:
        return specs(opened.inputs), specs(opened.outputs)


def _facts(engine: Path) -> dict[str, Any]:
    beside = engine.with_name(f"{engine.name}.json")
    if not beside.is_file():
        raise UsageError(
            f"{engine.name} is no .onnx, .ort or .xml file, and {beside.name} is not beside it.",
            "Give such a file, or an engine that `edgekit build` has written.",
        )
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UsageError(f"{beside} is not valid JSON: {e}.", "Build the engine again.") from e
    if not isinstance(found, dict):
        raise UsageError(f"{beside} says nothing of an engine.", "Build the engine again.")
    return found


def _profile_sizes(facts: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """The usual sizes that an engine was built for."""
    try:
        shapes = {str(name): [int(n) for n in each[1]] for name, each in facts["shapes"].items()}
        return _given_sizes(inputs, shapes)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as e:
        raise UsageError("The engine's JSON has broken shapes.", "Build the engine again.") from e


def _given_sizes(
    inputs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    by_name = {spec.name: spec for spec in inputs}
    found: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in by_name:
            raise UsageError(
                f"There is no input {name!r}.", f"Inputs: {', '.join(map(repr, by_name))}."
            )
        dims = by_name[name].shape
        if len(dims) != len(shape) or any(
            isinstance(dim, int) and dim != size for dim, size in zip(dims, shape, strict=False)
        ):
            raise UsageError(
                f"The shape {list(shape)} does not fit input {by_name[name]}.",
                "Give the fixed sizes as they are.",
            )
        for dim, size in zip(dims, shape, strict=True):
            if isinstance(dim, str) and found.setdefault(dim, size) != size:
                raise UsageError(
                    f"{dim!r} cannot be both {found[dim]} and {size}.", "Give it one size."
                )
    return found
