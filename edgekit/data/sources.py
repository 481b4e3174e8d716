"""Read samples: a NumPy archive, class folders, a table, or the user's own code."""

import csv
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgekit.data.config import DataConfig, Preprocess
from edgekit.entry import load_entry
from edgekit.errors import UnavailableError, UsageError

Array = NDArray[Any]
TARGET_NAMES = ("target", "targets", "y", "label", "labels")
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
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

    inputs: dict[str, Array]
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
        return _folder(config.preprocess, base / config.folder)
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
        with np.load(path, allow_pickle=False) as archive:
            total = sum(info.file_size for info in archive.zip.infolist())
            if total > _MAX_BYTES:
                raise UsageError(f"{path} unpacks to {total} bytes.", "Give 16 GiB at most.")
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError) as e:
        raise UsageError(
            f"{path} is not a NumPy archive of plain arrays: {e}", "Write it with numpy.savez."
        ) from e
    ids = arrays.pop("ids", None)
    target = _target_name(config, arrays)
    targets = arrays.pop(target) if target else None
    wanted = config.inputs or {name: name for name in arrays}
    inputs = {}
    for name, source in wanted.items():
        key = source if isinstance(source, str) else source[0]
        if key not in arrays:
            raise UsageError(f"{path} has no array {key!r}.", _nearest(key, arrays))
        inputs[name] = arrays[key]
    count = len(next(iter(inputs.values()), []))
    return Samples(inputs, targets, _row_ids(count) if ids is None else [str(i) for i in ids])


def _target_name(config: DataConfig, names: Iterable[str]) -> str | None:
    known = list(names)
    if config.target is not None:
        if config.target not in known:
            raise UsageError(
                f"There is no target {config.target!r} in the data.", _nearest(config.target, known)
            )
        return config.target
    return next((n for n in TARGET_NAMES if n in known), None)


def _folder(preprocess: Preprocess, root: Path) -> Samples:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as e:
        raise UnavailableError("Reading images needs Pillow.", "pip install pillow") from e
    if not root.is_dir():
        raise UsageError(f"The data folder {root} does not exist.", "Check `data: folder:`.")
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [
        (label, path)
        for label, name in enumerate(classes)
        for path in sorted((root / name).iterdir())
        if path.suffix.lower() in IMAGES
    ]
    if not files:
        raise UsageError(
            f"{root} is empty: it holds no folders of images.", "Make one folder for each class."
        )
    images = []
    for _, path in files:
        try:
            with Image.open(path) as image:
                images.append(_pixels(image, preprocess))
        except (UnidentifiedImageError, OSError) as e:
            raise UsageError(f"{path} is not a readable image.", "Remove or mend it.") from e
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise UsageError(
            f"Images in {root} differ in size: {sorted(shapes)[:3]}.",
            "Give `preprocess: size: [height, width]`.",
        )
    return Samples(
        {"image": np.stack(images)},
        np.array([label for label, _ in files], dtype=np.int64),
        [str(path.relative_to(root)) for _, path in files],
        tuple(classes),
    )


def _pixels(image: Any, preprocess: Preprocess) -> Array:
    image = image.convert("L" if preprocess.channels == 1 else "RGB")
    if preprocess.size is not None:
        height, width = preprocess.size
        image = image.resize((width, height), resample=2)
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels.transpose(2, 0, 1) if preprocess.layout == "nchw" else pixels


def _csv(config: DataConfig, path: Path) -> Samples:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError as e:
        raise UsageError(f"The data file {path} does not exist.", "Check `data: csv:`.") from e
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UsageError(f"{path} is not a readable table: {e}", "Write UTF-8 with commas.") from e
    rows = [row for row in rows if row]
    if len(rows) < 2:
        raise UsageError(f"{path} is empty: it has no rows.", "Give a header and rows.")
    header = [name.strip() for name in rows[0]]
    for i, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise UsageError(
                f"{path}, row {i} has {len(row)} fields; the header has {len(header)}.", "Mend it."
            )
    columns = {name: [row[i] for row in rows[1:]] for i, name in enumerate(header)}
    ids = columns.pop("id", None)
    target = _target_name(config, columns)
    texts = columns.pop(target) if target else None
    wanted = config.inputs or {"input": tuple(columns)}
    inputs = {name: _columns(path, columns, source) for name, source in wanted.items()}
    targets, classes = _csv_targets(texts) if texts is not None else (None, None)
    return Samples(inputs, targets, ids or _row_ids(len(rows) - 1), classes)


def _columns(path: Path, columns: Mapping[str, list[str]], wanted: str | Sequence[str]) -> Array:
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    table = []
    for name in names:
        if name not in columns:
            raise UsageError(f"{path} has no column {name!r}.", _nearest(name, columns))
        try:
            table.append([float(text) if text.strip() else np.nan for text in columns[name]])
        except ValueError as e:
            raise UsageError(
                f"{path}, column {name!r} is not numeric: {e}",
                "Encode it first, or leave it out with `data: inputs:`.",
            ) from e
    return np.array(table, dtype=np.float32).T.copy()


def _csv_targets(texts: list[str]) -> tuple[Array, tuple[str, ...] | None]:
    try:
        values = np.array([float(t) for t in texts])
    except ValueError:
        classes = sorted(set(texts))
        index = {name: i for i, name in enumerate(classes)}
        return np.array([index[t] for t in texts], dtype=np.int64), tuple(classes)
    whole = bool((values == np.round(values)).all())
    return values.astype(np.int64 if whole else np.float32), None


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
    count = len(next(iter(arrays.values())))
    return Samples(
        arrays,
        None if targets is None else _array(targets, f"targets of {spec}"),
        _row_ids(count) if ids is None else [str(i) for i in ids],
    )


def _array(value: Any, what: str) -> Array:
    value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise UsageError(
            f"{what} is not an array of numbers but {array.dtype} of shape {array.shape}.",
            "Return NumPy arrays or tensors with one row a sample.",
        )
    return array
