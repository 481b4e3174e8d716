"""Read samples: a NumPy archive, class folders, a table, or the user's own code."""

import csv
import difflib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgekit.data.config import DataConfig
from edgekit.data.images import ImageFiles, find_images
from edgekit.entry import load_entry
from edgekit.errors import RecipeError, UsageError

Array = NDArray[Any]
TARGET_NAMES = ("target", "targets", "y", "label", "labels")
_MAX_BYTES = 16 << 30


@dataclass
class Samples:
    """All samples, before they are split.

    Attributes:
        inputs: by input name; the first axis is the sample.
        targets: one row a sample, None without targets.
        ids: a stable name for each sample.
        classes: names of the classes, where the targets are indices into them.
    """

    inputs: Mapping[str, Array | ImageFiles]
    targets: Array | None
    ids: list[str]
    classes: tuple[str, ...] | None = None


def read(config: DataConfig, base: Path) -> Samples:
    """Read all samples of a source.

    Args:
        config: the source.
        base: the folder that relative paths start from.

    Raises:
        UsageError: it is missing, empty, or not what the config says.
    """
    if config.npz:
        return _npz(config, base / config.npz)
    if config.folder:
        return _folder(config, base / config.folder)
    if config.csv:
        return _csv(config, base / config.csv)
    return _python(config, base)


def _row_ids(count: int) -> list[str]:
    return [f"row-{i:06d}" for i in range(count)]


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(names)}."


def _npz(config: DataConfig, path: Path) -> Samples:
    if not path.is_file():
        raise UsageError(f"The data file {path} does not exist.", "Check `data: npz:`.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            total = sum(info.file_size for info in archive.zip.infolist())
            if total > _MAX_BYTES:
                raise UsageError(f"{path} unpacks to {total} bytes.", "Give 16 GiB at most.")
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as e:
        raise UsageError(
            f"{path} is not a NumPy archive of plain arrays: {e}", "Write it with numpy.savez."
        ) from e
    ids = arrays.pop("ids", None)
    target = _target_name(config, arrays)
    targets = arrays.pop(target) if target else None
    inputs = _mapped(config, arrays, str(path))
    targets, classes = class_numbers(targets, config.classes)
    count = len(next(iter(inputs.values()), []))
    names = _row_ids(count) if ids is None else [str(i) for i in ids]
    return Samples(inputs, targets, names, classes)


def _mapped(config: DataConfig, arrays: Mapping[str, Array], where: str) -> dict[str, Array]:
    """Arrays under the network's names."""
    found = {}
    for name, source in (config.inputs or {name: name for name in arrays}).items():
        keys = (source,) if isinstance(source, str) else source
        if len(keys) != 1:
            raise RecipeError(
                f"`data: inputs: {name}:` names {len(keys)} arrays; give one.",
                "Only the columns of a CSV file are joined.",
            )
        if keys[0] not in arrays:
            raise UsageError(f"{where} has no array {keys[0]!r}.", _nearest(keys[0], arrays))
        found[name] = _array(arrays[keys[0]], f"The array {keys[0]!r} of {where}")
    return found


def class_numbers(
    targets: Array | None, classes: tuple[str, ...] | None = None
) -> tuple[Array | None, tuple[str, ...] | None]:
    """Targets as int64 (classes) or float32.

    Args:
        targets: numbers or texts.
        classes: names of all classes; texts are numbered by them, and in sorted order without.

    Returns:
        The targets in the shape that they came in, and the names of the classes where they have.

    Raises:
        UsageError: they are no numbers and no texts, or not of the classes.
    """
    if targets is None:
        return None, None
    kind = targets.dtype.kind
    if kind in "US":
        names, numbers = np.unique(targets.astype(str), return_inverse=True)
        if classes is not None:
            places = {name: place for place, name in enumerate(classes)}
            for name in map(str, names):
                if name not in places:
                    raise UsageError(
                        f"The data has a class {name!r}, which is not among `data: classes:`.",
                        _nearest(name, classes),
                    )
            numbers = np.array([places[str(name)] for name in names])[numbers]
        named = tuple(map(str, names)) if classes is None else classes
        return numbers.reshape(targets.shape).astype(np.int64), named
    if kind not in "biuf":
        raise UsageError(f"The targets hold {targets.dtype}, not numbers.", "Encode them.")
    if classes is not None and kind == "f":
        raise UsageError(
            "`data: classes:` names classes, and the targets are fractions.", "Leave it out."
        )
    return targets.astype(np.float32 if kind == "f" else np.int64), classes


def _target_name(config: DataConfig, names: Iterable[str]) -> str | None:
    known = list(names)
    if config.target is not None:
        if config.target not in known:
            raise UsageError(
                f"There is no target {config.target!r} in the data.", _nearest(config.target, known)
            )
        return config.target
    return next((n for n in TARGET_NAMES if n in known), None)


def _folder(config: DataConfig, root: Path) -> Samples:
    files, ids, labels = find_images(root, config.preprocess)
    targets, classes = class_numbers(None if labels is None else np.array(labels), config.classes)
    names = list(config.inputs or {"image": "image"})
    if len(names) != 1:
        raise RecipeError(
            f"`data: inputs:` names {len(names)} inputs, and a folder of images is one.",
            "Name the one that takes the image.",
        )
    return Samples({names[0]: files}, targets, ids, classes)


def _csv(config: DataConfig, path: Path) -> Samples:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError as e:
        raise UsageError(f"The data file {path} does not exist.", "Check `data: csv:`.") from e
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UsageError(f"{path} is not a readable table: {e}", "Write UTF-8 with commas.") from e
    columns = _table(path, lines)
    count = len(lines) - 1
    ids = columns.pop("id", None)
    target = _target_name(config, columns)
    texts = columns.pop(target) if target else None
    wanted = config.inputs or {"input": tuple(columns)}
    inputs = {name: _columns(path, columns, source) for name, source in wanted.items()}
    targets, classes = _csv_targets(path, texts, config) if texts is not None else (None, None)
    return Samples(inputs, targets, ids or _row_ids(count), classes)


def _table(path: Path, lines: Sequence[tuple[int, list[str]]]) -> dict[str, list[str]]:
    """Columns by name."""
    if len(lines) < 2:
        raise UsageError(f"{path} is empty: it has no rows.", "Give a header and rows.")
    header = [name.strip() for name in lines[0][1]]
    if "" in header or len(set(header)) < len(header):
        raise UsageError(f"{path} has a header with empty or equal names.", "Name each column.")
    for number, row in lines[1:]:
        if len(row) != len(header):
            separator = next((c for c in ";\t|" if c in lines[0][1][0]), None)
            raise UsageError(
                f"{path}, line {number} has {len(row)} fields; the header has {len(header)}.",
                "Mend the line."
                if separator is None or len(header) > 1
                else f"Fields seem to be separated by {separator!r}: write commas between them, and"
                " points in numbers.",
            )
    return {name: [row[i].strip() for _, row in lines[1:]] for i, name in enumerate(header)}


def _columns(path: Path, columns: Mapping[str, list[str]], wanted: str | Sequence[str]) -> Array:
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    table = []
    for name in names:
        if name not in columns:
            raise UsageError(f"{path} has no column {name!r}.", _nearest(name, columns))
        table.append([_number(path, name, row, text) for row, text in enumerate(columns[name])])
    return np.array(table, dtype=np.float32).T.copy()


def _number(path: Path, column: str, row: int, text: str) -> float:
    try:
        return float(text) if text.strip() else float("nan")
    except ValueError as e:
        raise UsageError(
            f"{path}, column {column!r} is not numeric: row {row + 1} holds {text!r}.",
            f"If it is what is to be predicted, name it: `data: {{csv: {path.name}, target:"
            f" {column}}}` in a recipe or a YAML file for --data, which may be text; otherwise"
            " encode it, or leave it out with `data: inputs:`.",
        ) from e


def _csv_targets(
    path: Path, texts: list[str], config: DataConfig
) -> tuple[Array | None, tuple[str, ...] | None]:
    if "" in texts:
        raise UsageError(
            f"{path}: the target of row {texts.index('') + 1} is blank.", "Fill or remove the row."
        )
    try:
        values = np.array([float(t) for t in texts])
    except ValueError:
        return class_numbers(np.array(texts), config.classes)
    if config.classes is not None and set(texts) <= set(config.classes):
        return class_numbers(np.array(texts), config.classes)  # they are called by numbers
    whole = np.isfinite(values).all() and (values == np.round(values)).all()
    return class_numbers(values.astype(np.int64 if whole else np.float32), config.classes)


def _python(config: DataConfig, base: Path) -> Samples:
    spec = cast("str", config.python)
    found = load_entry(spec, base)()
    parts = found if isinstance(found, tuple) else (found,)
    if not 1 <= len(parts) <= 3:
        raise UsageError(
            f"{spec} gave {len(parts)} values.", "Return inputs, (inputs, targets) or with ids."
        )
    inputs, targets, ids = (*parts, None, None)[:3]
    named = inputs if isinstance(inputs, Mapping) else {"input": inputs}
    arrays = {
        str(name): _array(value, f"input {name!r} of {spec}") for name, value in named.items()
    }
    if not arrays:
        raise UsageError(f"{spec} gave no inputs: the data is empty.", "Return at least one array.")
    if config.inputs is not None and not isinstance(inputs, Mapping) and len(config.inputs) == 1:
        arrays = dict(zip(config.inputs, arrays.values(), strict=True))  # it has no other name
    else:
        arrays = _mapped(config, arrays, spec)
    numbers, classes = class_numbers(None if targets is None else _plain(targets), config.classes)
    count = len(next(iter(arrays.values())))
    names = _row_ids(count) if ids is None else [str(i) for i in ids]
    return Samples(arrays, numbers, names, classes)


def _plain(value: Any) -> Array:
    """A NumPy array of an array, a torch tensor or a list."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)


def _array(value: Any, what: str) -> Array:
    array = _plain(value)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise UsageError(
            f"{what} is not an array of numbers but {array.dtype} of shape {array.shape}.",
            "Return NumPy arrays or tensors with one row a sample.",
        )
    return array
