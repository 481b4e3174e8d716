"""Where a recipe begins: a file, a package or the user's code becomes an artifact."""

import hashlib
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from edgekit.artifact import FORMAT_OF_SUFFIX, NAME_MAP, Artifact, TensorSpec
from edgekit.errors import PassError, UsageError
from edgekit.manifest import LIBRARIES, write_text_atomically
from edgekit.passes.base import Context

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgekit.graph.program import Program


class InputConfig(BaseModel):
    """One input of a network.

    Attributes:
        shape: sizes; a name (`batch`) or a multiple (`32*h`) marks a dynamic dimension.
        dtype: NumPy's name of the dtype.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[Annotated[int, Field(ge=1)] | str, ...]
    dtype: str = "float32"


class ModelConfig(BaseModel):
    """The `model:` section of a recipe: a file, or the user's own code with weights.

    Attributes:
        file: a `.pt2` or `.onnx` file, relative to the recipe, or to `package`.
        package: an installed Python package that ships `file`. It is not imported.
        python: `module:factory` or `file.py:factory`; calling it gives a `torch.nn.Module`.
            This runs the user's own code.
        weights: `.safetensors`, or a `.pt` that holds tensors only.
        inputs: example inputs by name; where missing they come from the data set.
        imports: modules that register the custom operators of a `.pt2`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str | None = None
    package: str | None = None
    python: str | None = None
    weights: str | None = None
    inputs: dict[str, InputConfig] | None = None
    imports: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_a_path(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Tell editors that a bare path does."""
        return {"anyOf": [{"type": "string"}, handler(schema)]}

    @model_validator(mode="after")
    def _one_source(self) -> "ModelConfig":
        if (self.file is None) == (self.python is None):
            raise ValueError("give exactly one of `file` and `python`")
        if self.package and not self.file:
            raise ValueError("`package` goes with `file`")
        if self.weights and not self.python:
            raise ValueError("`weights` goes with `python`; a model file holds its own")
        return self

    def source(self, base: Path) -> Path | None:
        """The model file's path, None for `python:`.

        Raises:
            UsageError: the file or the package is not there, or is of an unknown kind.
        """
        if self.file is None:
            return None
        root = package_folder(self.package) if self.package else base
        path = root / self.file
        if not path.is_file():
            raise UsageError(f"The model file {path} does not exist.", "Check `model:`.")
        if path.suffix not in FORMAT_OF_SUFFIX:
            raise UsageError(
                f"{path} is neither a .pt2 nor an .onnx file.",
                "Export it with torch.export.save or to ONNX, or give `python: module:factory`.",
            )
        return path

    def fingerprint(self, base: Path) -> str:
        """Hash of what decides the captured network: the model file, or the code and weights."""
        digest = hashlib.sha256(self.model_dump_json().encode())
        source = self.source(base)
        paths = [] if source is None else [source, *_external(source)]
        for module in (*((self.python,) if self.python else ()), *self.imports):
            paths += _code(module.partition(":")[0], base)
        if self.weights:
            paths.append(base / self.weights)
        for path in dict.fromkeys(paths):
            if path.is_file():
                with path.open("rb") as file:
                    digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def run(self, context: Context) -> Artifact:
        """Make the original artifact in `context.out`.

        Raises:
            UsageError: the model cannot be read, built or captured.
        """
        source = self.source(context.base)
        if source is None:
            return _capture(self, context)
        return _import_onnx(source, context) if source.suffix == ".onnx" else _load(source, context)


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it.

    Raises:
        UsageError: it is not installed.
    """
    try:
        spec = util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"The package {name!r} is not installed.", f"pip install {name.replace('_', '-')}"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _external(source: Path) -> list[Path]:
    """The files that hold an ONNX model's weights, where they lie outside the model file."""
    from edgekit.graph.onnx_model import external_data

    if source.suffix != ".onnx":
        return []
    return [source.parent / name for name in external_data(source)]


def _code(module: str, base: Path) -> list[Path]:
    """The source files that importing a module of the user's can run, as far as they are known.

    These are all modules and packages in its folder, and an installed package's own files. What
    else the code reads (a checkpoint, a third package) is not known.
    """
    top = module.split(".")[0]
    if module.endswith(".py"):
        folder = (base / module).parent
    elif (base / top).is_dir() or (base / f"{top}.py").is_file():
        folder = base
    elif top in LIBRARIES or (spec := util.find_spec(top)) is None:
        return []  # the libraries' versions are part of every key
    elif spec.submodule_search_locations:
        return [p for f in spec.submodule_search_locations for p in sorted(Path(f).rglob("*.py"))]
    else:
        return [Path(spec.origin)] if spec.origin else []
    packages = {p.parent for p in folder.glob("*/__init__.py")} | {folder / top}
    inside = [p for package in sorted(packages) for p in sorted(package.rglob("*.py"))]
    return [*sorted(folder.glob("*.py")), *inside]


def _import_onnx(source: Path, context: Context) -> Artifact:
    from edgekit.graph.onnx_model import read_onnx, specs, write_onnx

    model = read_onnx(source)
    inputs, outputs = specs(model)
    path = context.out / "model.onnx"
    write_onnx(model, path)
    return onnx_artifact(path, inputs, outputs, made_by="capture")


def onnx_artifact(
    path: Path,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    *,
    made_by: str,
    parents: tuple[Artifact, ...] = (),
) -> Artifact:
    """Describe an ONNX file, its external data included, that lies in a folder of its own.

    Snippets that run it are written beside it.
    """
    from edgekit.lower.snippet import write_beside

    write_beside(path, "onnxruntime", inputs, outputs)
    side = tuple(sorted(p.name for p in path.parent.iterdir() if p != path))
    return Artifact.create(
        path.parent,
        model=path.name,
        format="onnx",
        inputs=inputs,
        outputs=outputs,
        made_by=made_by,
        parents=parents,
        extra_files=side,
    )


def save_program(
    program: "Program", context: Context, *, made_by: str, parents: tuple[Artifact, ...] = ()
) -> Artifact:
    """Write a program and its name map into `context.out` and describe them."""
    import json

    from edgekit.graph.store import save

    save(program, context.out / "model.pt2")
    write_text_atomically(
        context.out / NAME_MAP, json.dumps(program.name_map(), indent=1, sort_keys=True) + "\n"
    )
    for warning in program.warnings:
        context.warn(warning)
    if program.dropped and not parents:
        context.notes["train_time_behaviour_dropped"] = list(program.dropped)
        context.warn(f"Training goes on without {'; '.join(program.dropped)}".rstrip(".") + ".")
    return Artifact.create(
        context.out,
        model="model.pt2",
        format="pt2",
        inputs=program.inputs,
        outputs=program.outputs,
        made_by=made_by,
        parents=parents,
        extra_files=(NAME_MAP,),
    )


def _load(source: Path, context: Context) -> Artifact:
    return save_program(context.load(source), context, made_by="capture")


def _capture(config: ModelConfig, context: Context) -> Artifact:
    from torch import nn

    from edgekit.graph.capture import capture, load_factory, load_weights

    if config.python is None:  # the validator rules it out
        raise UsageError("`model:` names no code.", "Give `python: module:factory`.")
    factory = load_factory(config.python, context.base)
    module = factory()
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"The factory {config.python} gave a {type(module).__name__}, not a torch.nn.Module.",
            "Return the network itself.",
        )
    if config.weights:
        load_weights(module, context.base / config.weights)
    else:
        context.warn("No weights were given: the network is as its factory initialised it.")
    asked, shapes = _example(config, context)
    example, dynamic = _renamed(module, asked, shapes)
    try:
        program = capture(module, example, dynamic=dynamic, imports=config.imports)
    except PassError as e:
        raise _misfit(module, example, list(asked), config) or e from e
    if config.inputs is not None:
        program = _named(program, dict(zip(example, asked, strict=True)))
    return save_program(program, context, made_by="capture")


def _misfit(
    module: "nn.Module", example: dict[str, "Tensor"], names: list[str], config: ModelConfig
) -> UsageError | None:
    """The error of a network that does not run on its example at all; None where it does."""
    import torch

    training = module.training
    try:
        with torch.no_grad():
            module.eval()(**example)
    except (RuntimeError, TypeError, ValueError, IndexError) as e:
        tensors = zip(names, example.values(), strict=True)
        shapes = ", ".join(f"{name}: {list(t.shape)}" for name, t in tensors)
        said = (str(e).strip().splitlines() or [type(e).__name__])[0]
        given = "the sizes in --input, or `model: inputs:` of a recipe"
        return UsageError(
            f"The network does not run on the inputs that it is given ({shapes}): {said}",
            f"Mend {given if config.inputs is not None else 'the data set, or name inputs'}.",
        )
    finally:
        module.train(training)
    return None


def _named(program: "Program", names: dict[str, str]) -> "Program":
    """The program with its inputs called as they were asked for.

    Args:
        program: captured.
        names: of the parameters of `forward`, to what they are to be called.

    Raises:
        UsageError: an output has that name.
    """
    from edgekit.graph.flatten import identifier

    called = {old: identifier(new) for old, new in names.items() if old != new}
    taken = {spec.name for spec in program.outputs}
    for new in called.values():
        if new in taken:
            raise UsageError(
                f"An input cannot be called {new!r}: an output of the network is.",
                "Call it otherwise.",
            )
    inputs = tuple(
        spec.model_copy(update={"name": called.get(spec.name, spec.name)})
        for spec in program.inputs
    )
    ranges = {called.get(name, name): ends for name, ends in program.ranges.items()}
    return replace(program, inputs=inputs, ranges=ranges)


def _example(
    config: ModelConfig, context: Context
) -> tuple[dict[str, "Tensor"], dict[str, tuple[int | str, ...]]]:
    """Example inputs and dynamic dimensions, from the recipe's specs or from the data."""
    import torch

    if config.inputs is None and context.data is None:
        raise UsageError(
            "Nothing says what goes into the network.",
            "Give `model: inputs:` with shapes, or a `data:` section; on the command line,"
            " `--input` or `--data`.",
        )
    if config.inputs is not None:
        shapes = {name: spec.shape for name, spec in config.inputs.items()}
        dtypes = {name: spec.dtype for name, spec in config.inputs.items()}
    elif context.data is not None:
        shapes = {s.name: s.shape for s in context.data.inputs}
        dtypes = {s.name: s.dtype for s in context.data.inputs}
    generator = torch.Generator().manual_seed(context.seed)
    rows = (
        {}
        if context.data is None
        else context.data.rows(np.arange(min(2, len(context.data)))).inputs
    )
    example = {}
    for name, shape in shapes.items():
        dtype = getattr(torch, dtypes[name], None)
        if not isinstance(dtype, torch.dtype):
            raise UsageError(
                f"Input {name!r} has the unknown dtype {dtypes[name]!r}.", "Use float32, int64, …"
            )
        sizes = [d if isinstance(d, int) else _example_size(d) for d in shape]
        if name in rows and _fits(rows[name].shape, shape):
            # Real samples: indices stay in range, and a padding mask masks what it should.
            example[name] = torch.from_numpy(rows[name]).to(dtype)
        elif dtype.is_floating_point:
            example[name] = torch.randn(sizes, generator=generator).to(dtype)
        else:
            example[name] = torch.zeros(sizes, dtype=dtype)
    return example, shapes


def _fits(have: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    """Whether two samples can stand for an input: its rank, its fixed sizes, its multiples."""
    if len(have) != len(wanted):
        return False
    for size, dim in zip(have, wanted, strict=True):
        factor, star, _ = str(dim).partition("*")
        unit = int(factor) if star and factor.strip().isdigit() else 1
        if (
            (isinstance(dim, int) and size != dim)
            or size % unit
            or (unit == 1 and size < 2 and not isinstance(dim, int))
        ):
            return False
    return True


def _renamed(
    module: "nn.Module",
    example: dict[str, "Tensor"],
    dynamic: dict[str, tuple[int | str, ...]],
) -> tuple[dict[str, "Tensor"], dict[str, tuple[int | str, ...]]]:
    """A single input feeds a single parameter of `forward`, whatever their names."""
    import inspect

    wanted = [
        p.name
        for p in inspect.signature(module.forward).parameters.values()
        if p.default is p.empty and p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}
    ]
    (name,) = example if len(example) == 1 else ("",)
    if not name or len(wanted) != 1 or name in inspect.signature(module.forward).parameters:
        return example, dynamic
    return {wanted[0]: example[name]}, {wanted[0]: dynamic[name]}


def _example_size(dim: str) -> int:
    """An example size for a dynamic dimension: 2 for `batch`, a few units of the multiple else."""
    factor, star, _ = dim.partition("*")
    if star and factor.strip().isdigit():
        return int(factor) * 3
    return 2 if dim == "batch" else 16
