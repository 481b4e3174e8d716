"""What the commands share: their options, and how results and progress are shown."""

import ctypes
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from edgekit.data import DataConfig
    from edgekit.progress import Progress
    from edgekit.progress import Task as ProgressTask

M = TypeVar("M", bound="BaseModel")
_LINE_EVERY_S = 30.0
_SHAPE = re.compile(r"[1-9]\d*(x[1-9]\d*)*")

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An artifact's folder, a .pt2 or an .onnx file.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="A .npz or .csv file, a folder of class folders, a YAML file with a recipe's `data:`"
        " keys, or python:module:factory (runs that code).",
    ),
]
Target = Annotated[str | None, typer.Option("--target", help="A name from `edgekit targets`.")]
Seed = Annotated[int, typer.Option("--seed", help="Every random choice comes from it.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads to use.")]
Imports = Annotated[
    list[str] | None,
    typer.Option("--import", help="A module with custom operators (runs it); may be repeated."),
]
Dim = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=SIZE", help="Size of a dynamic dimension, not the batch."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other field of the pass, as YAML."),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shapes",
        metavar="NAME=MIN/OPT/MAX",
        help="Smallest, usual and largest shape of a dynamic input, such as"
        " image=1x3x224x224/4x3x224x224/8x3x224x224; one shape stands for all three.",
    ),
]
Task = Annotated[
    str,
    typer.Option(
        "--task",
        help="classification, regression, reconstruction, segmentation, anomaly or none;"
        " with a metric after a colon, such as regression:mae.",
    ),
]


def settings(pairs: list[str] | None) -> dict[str, Any]:
    """Read `--set key=value` options.

    Raises:
        UsageError: one has no `=`, or its value is not YAML.
    """
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair!r} has no value.", "Write --set key=value.")
        try:
            found[key.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as e:
            raise UsageError(f"--set {pair!r} is not YAML: {e}", "Quote the value.") from e
    return found


def data_config(text: str | None) -> "DataConfig | None":
    """Read a `--data` option.

    Raises:
        UsageError: it names nothing that data can come from.
    """
    if text is None:
        return None
    import yaml

    from edgekit.data import DataConfig

    source: Any
    path = Path(text)
    if text.startswith("python:") or re.fullmatch(r".+\.py:\w+", text):
        source = {"python": text.removeprefix("python:")}
    elif path.is_dir():
        source = {"folder": str(path.resolve())}
    elif path.suffix in {".npz", ".csv"}:
        source = {path.suffix[1:]: str(path.resolve())}
    elif path.suffix in {".yaml", ".yml"} and path.is_file():
        try:
            source = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, OSError, UnicodeDecodeError) as e:
            raise UsageError(f"--data {text!r} cannot be read: {e}", "Give a YAML file.") from e
        source = source.get("data", source) if isinstance(source, dict) else source
        source = _anchored(source, path.parent) if isinstance(source, dict) else source
    else:
        raise UsageError(
            f"--data {text!r} is not a .npz, .csv or .yaml file, nor a folder.",
            "Give one of these, or python:module:factory.",
        )
    return build(DataConfig, source, "--data")


def _anchored(source: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The keys of `data:` with the paths that start at the YAML file's folder made absolute."""
    found = dict(source)
    for key in ("npz", "folder", "csv"):
        if isinstance(found.get(key), str):
            found[key] = str((folder / found[key]).resolve())
    module, colon, factory = str(found.get("python") or "").partition(":")
    file = folder / (module if module.endswith(".py") else f"{module}.py")
    if colon and file.is_file():
        found["python"] = f"{file.resolve()}:{factory}"
    split = found.get("split")
    if isinstance(split, dict) and isinstance(split.get("files"), dict):
        files = {name: str((folder / str(f)).resolve()) for name, f in split["files"].items()}
        found["split"] = {**split, "files": files}
    return found


def build(model: type[M], fields: Any, what: str) -> M:
    """Make a model from options, with the errors of a recipe.

    Raises:
        UsageError: a field is unknown or has a wrong value.
    """
    from pydantic import ValidationError

    from edgekit.recipe import keys_at, nearest_hint

    try:
        return model.model_validate(fields)
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(map(str, first["loc"]))
        place = f"{what}: {key}" if key else what
        raise UsageError(
            f"{place}: {first['msg'].removeprefix('Value error, ').rstrip('.')}.",
            nearest_hint(str(first["loc"][-1]), keys_at(model, first["loc"][:-1]))
            if first["type"] == "extra_forbidden"
            else "See the command's --help.",
        ) from e


def task_config(text: str) -> Any:
    """Read a `--task` option such as `classification` or `regression:mae`."""
    from edgekit.metrics import Task as TaskModel

    kind, _, metric = text.partition(":")
    return build(TaskModel, {"kind": kind, **({"metric": metric} if metric else {})}, "--task")


def print_json(result: Any) -> None:
    """Print a pydantic model, or plain data, as JSON on stdout."""
    import json

    from pydantic import BaseModel

    if isinstance(result, BaseModel):
        typer.echo(result.model_dump_json(indent=2))
    else:
        typer.echo(json.dumps(result, indent=2, default=str))


def out_console() -> "Console":
    """The console for results: stdout."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


class _Bar:
    """One bar of a rich progress display."""

    def __init__(self, bars: "RichProgress", task: "TaskID") -> None:
        self._bars, self._task = bars, task

    def advance(self, amount: float = 1.0, *, detail: str = "") -> None:
        """Move on."""
        self._bars.update(self._task, advance=amount)
        if detail:
            self._bars.update(self._task, detail=detail)


class _Bars:
    """A progress display on a terminal: bars with an ETA."""

    def __init__(self, bars: "RichProgress") -> None:
        self._bars = bars

    @contextmanager
    def task(self, description: str, total: float | None) -> Iterator["ProgressTask"]:
        """Show a bar while the task runs."""
        task = self._bars.add_task(description, total=total, detail="")
        try:
            yield _Bar(self._bars, task)
        finally:
            self._bars.remove_task(task)

    def say(self, message: str) -> None:
        """Show one line above the bars."""
        self._bars.console.print(message, markup=False, highlight=False)


class _Line:
    """A task shown as a line of text now and then."""

    def __init__(self, description: str, total: float | None) -> None:
        self._description, self._total, self._done = description, total, 0.0
        self._started = self._shown = time.monotonic()

    def advance(self, amount: float = 1.0, *, detail: str = "") -> None:
        """Move on, and say so where the last line is a while ago."""
        self._done += amount
        now = time.monotonic()
        if now - self._shown < _LINE_EVERY_S:
            return
        self._shown = now
        parts = [detail] if detail else []
        if self._total and self._done > 0:
            left = (now - self._started) * max(0.0, self._total / self._done - 1)
            parts = [f"{100 * self._done / self._total:.0f} %", f"ETA {left:.0f} s", *parts]
        sys.stderr.write(f"  {self._description}: {', '.join(parts) or 'at work'}\n")
        sys.stderr.flush()


class _Lines:
    """A progress display where no terminal is: a log gets few lines, and no control codes."""

    @contextmanager
    def task(self, description: str, total: float | None) -> Iterator["ProgressTask"]:
        """Say every half minute how far the task is."""
        yield _Line(description, total)

    def say(self, message: str) -> None:
        """Show one line."""
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()


@contextmanager
def progress() -> Iterator["Progress"]:
    """A progress display on stderr for as long as the block runs, and stdout kept for the result.

    Whatever a library or the user's own code prints meanwhile goes to stderr.
    """
    from rich.console import Console

    with _stdout_kept():
        console = Console(stderr=True, soft_wrap=True)
        if not console.is_terminal:
            yield _Lines()
            return
        with _bars(console) as bars:
            yield _Bars(bars)


def _bars(console: "Console") -> "RichProgress":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("  {task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    return Progress(*columns, console=console, transient=True)


@contextmanager
def _stdout_kept() -> Iterator[None]:
    """Send what is printed to stderr, below Python too: compiled libraries print as well."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C libraries still hold back
        os.dup2(kept, 1)
        os.close(kept)


def input_specs(texts: list[str] | None) -> dict[str, dict[str, Any]] | None:
    """Read `--input name=batch,3,32*h:float32` options.

    Raises:
        UsageError: one is not of that form.
    """
    if not texts:
        return None
    specs = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        shape, _, dtype = rest.partition(":")
        if not equals or not shape:
            raise UsageError(f"--input {text!r} has no shape.", "Write name=batch,3,224,224.")
        dims = [d.strip() for d in shape.split(",")]
        specs[name.strip()] = {
            "shape": [int(d) if d.isdigit() else d for d in dims],
            "dtype": dtype.strip() or "float32",
        }
    return specs


def shape_triples(
    texts: list[str] | None,
) -> "dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] | None":
    """Read `--shapes name=1x3x8x8/2x3x8x8/4x3x8x8` options.

    Raises:
        UsageError: one is not of that form.
    """
    if not texts:
        return None
    found = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        parts = rest.split("/")
        if not equals or len(parts) not in {1, 3} or not all(map(_SHAPE.fullmatch, parts)):
            raise UsageError(
                f"--shapes {text!r} cannot be read.",
                "Write image=1x3x224x224/4x3x224x224/8x3x224x224, or one shape for all three.",
            )
        triple = [tuple(int(size) for size in part.split("x")) for part in parts]
        found[name.strip()] = (triple[0], triple[len(triple) // 2], triple[-1])
    return found


def sizes(pairs: list[str] | None) -> dict[str, int]:
    """Read `--dim name=size` options.

    Raises:
        UsageError: one is not of that form.
    """
    found = {}
    for pair in pairs or []:
        name, _, size = pair.partition("=")
        if not size.isdigit() or int(size) < 1:
            raise UsageError(f"--dim {pair!r} has no size.", "Write --dim height=224.")
        found[name.strip()] = int(size)
    return found
