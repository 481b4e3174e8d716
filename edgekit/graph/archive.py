"""Opening a `.pt2` archive that may be hostile, before torch sees it.

`torch.export.load` unpickles sample inputs and flagged weights, loads script objects, imports the
modules that a tree specification names, resolves any dotted name under `torch.` as an operator
(`torch.os.system` is one), writes names into Python source that it executes, and evaluates shape
expressions. So the archive is read here with the standard library; what is not plainly a graph of
known operators on plain tensors is refused, and torch gets a clean copy of what was checked.
"""

import io
import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import UsageError
from edgekit.graph.model_json import clean_model

MODEL = "models/model.json"
METADATA = "extra/edgekit.json"
_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
_SAMPLE = "data/sample_inputs/model.pt"
_DTYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2, 28: 2,
           29: 1, 30: 1, 31: 1, 32: 1, 33: 1, 34: 4, 35: 8}  # fmt: skip
_MAX_MEMBERS = 100_000
_MAX_JSON_BYTES = 256 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_STRIDED = 7


@dataclass
class Archive:
    """The parts of a `.pt2` file that were checked.

    Attributes:
        model: the graph, as cleaned by `clean_model`.
        payloads: path in the archive to raw tensor bytes.
        configs: path to the description of the tensors in `data/weights` and `data/constants`.
        metadata: edgekit's own notes, None in files of other tools.
        output_names: names that the outputs had in the program's own structure, as far as known.
    """

    model: dict[str, Any]
    payloads: dict[str, bytes]
    configs: dict[str, dict[str, Any]]
    metadata: dict[str, Any] | None = None
    output_names: list[str] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """A clean archive: nothing pickled, the same bytes for the same content."""
        members = {
            "archive_format": b"pt2",
            "archive_version": b"0",
            ".data/version": b"6\n",
            "byteorder": b"little",
            MODEL: _dumps(self.model),
            _SAMPLE: b"",
            **{path: _dumps(config) for path, config in self.configs.items()},
            **self.payloads,
        }
        if self.metadata is not None:
            members[METADATA] = _dumps(self.metadata)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name, data in members.items():
                archive.writestr(zipfile.ZipInfo(f"edgekit/{name}", _EPOCH), data)
        return buffer.getvalue()


def read_archive(
    source: Path | bytes, name: str, *, trusted: frozenset[str] = frozenset()
) -> Archive:
    """Read and check a `.pt2` file.

    Args:
        source: the file, or its bytes.
        name: what messages call it.
        trusted: operator namespaces beyond torch's own that the caller has imported.

    Raises:
        UsageError: the file is broken, or holds something that could run code or exhaust memory.
    """
    try:
        file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        with zipfile.ZipFile(file) as archive:
            members = _members(archive, size, name)
            return _parse(archive, members, name, trusted)
    except FileNotFoundError as e:
        raise UsageError(f"{name} does not exist.", "Check the path.") from e
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as e:
        raise UsageError(
            f"{name} is not a complete .pt2 archive: {e}.", "Copy it or make it again."
        ) from e


def _members(archive: zipfile.ZipFile, size: int, name: str) -> dict[str, zipfile.ZipInfo]:
    """The members by their path under the archive's top folder, with sizes that cannot lie."""
    infos = archive.infolist()
    if not infos or len(infos) > _MAX_MEMBERS:
        raise _refused(name, f"it has {len(infos)} members")
    top = infos[0].filename.split("/", 1)[0]
    members: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in infos:
        folder, _, inner = info.filename.partition("/")
        if folder != top or not inner or ".." in inner.split("/") or "\\" in inner:
            raise _refused(name, f"member {info.filename!r} lies outside its top folder")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise _refused(name, f"member {inner!r} is compressed or encrypted")
        if inner in members:
            raise _refused(name, f"member {inner!r} is there twice")
        total += info.file_size
        if info.file_size != info.compress_size or total > size:
            raise _refused(name, f"member {inner!r} declares {info.file_size} bytes")
        members[inner] = info
    return members


def _parse(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    name: str,
    trusted: frozenset[str],
) -> Archive:
    def read(path: str) -> bytes:
        if path not in members:
            raise _refused(name, f"it has no {path}")
        return archive.read(members[path])

    if read("archive_format") != b"pt2" or read("archive_version") != b"0":
        raise _refused(name, "it is of another archive version")
    if members.get("byteorder") and read("byteorder") != b"little":
        raise _refused(name, "it was written on a big-endian machine")
    for path in members:
        if (path.startswith("models/") and path != MODEL) or path.startswith("data/aotinductor"):
            raise _refused(name, f"it holds {path}: compiled code or a second model")
    model, output_names = clean_model(_json(read(MODEL), name, MODEL), name, trusted)
    payloads: dict[str, bytes] = {}
    configs: dict[str, dict[str, Any]] = {}
    for path, pattern in ((_WEIGHTS, r"weight_\d{1,9}"), (_CONSTANTS, r"tensor_\d{1,9}")):
        folder = path.rpartition("/")[0]
        entries = _json(read(path), name, path).get("config")
        configs[path] = {"config": _tensors(entries, folder, pattern, read, payloads, name)}
    metadata = _json(read(METADATA), name, METADATA) if METADATA in members else None
    return Archive(model, payloads, configs, metadata, output_names)


def _tensors(
    entries: Any, folder: str, pattern: str, read: Any, payloads: dict[str, bytes], name: str
) -> dict[str, Any]:
    if not isinstance(entries, dict):
        raise _refused(name, f"{folder} is not described")
    found: dict[str, Any] = {}
    dtypes: dict[str, int] = {}
    for tensor, entry in entries.items():
        if not _is_path(tensor) or not isinstance(entry, dict):
            raise _refused(name, f"{tensor!r} is not the name of a tensor")
        file = entry.get("path_name")
        if entry.get("use_pickle") is not False:
            raise _refused(name, f"tensor {tensor!r} is pickled, which can run code")
        if not isinstance(file, str) or re.fullmatch(pattern, file) is None:
            raise _refused(
                name, f"{tensor!r} is {file!r}: a script or pickled object, not a tensor"
            )
        meta = entry.get("tensor_meta")
        path = f"{folder}/{file}"
        payloads.setdefault(path, read(path))
        clean = _tensor_meta(meta, len(payloads[path]), tensor, name)
        if dtypes.setdefault(path, clean["dtype"]) != clean["dtype"]:
            raise _refused(name, f"tensor {tensor!r} shares its bytes with another dtype")
        found[tensor] = {
            "path_name": file,
            "is_param": entry.get("is_param") is True,
            "use_pickle": False,
            "tensor_meta": clean,
        }
    return found


def _tensor_meta(meta: Any, size: int, tensor: str, name: str) -> dict[str, Any]:
    """A tensor's description, once its shape is known to lie within its bytes."""
    try:
        sizes = [_count(s) for s in meta["sizes"]]
        strides = [_count(s) for s in meta["strides"]]
        offset = _count(meta["storage_offset"])
        dtype, layout = meta["dtype"], meta["layout"]
    except (TypeError, KeyError, ValueError) as e:
        raise _refused(name, f"tensor {tensor!r} is not described: {e!r}") from e
    if type(dtype) is not int or dtype not in _DTYPES or layout != _STRIDED:
        raise _refused(name, f"tensor {tensor!r} has a dtype or layout that is not supported")
    if len(sizes) != len(strides) or len(sizes) > 16:
        raise _refused(name, f"tensor {tensor!r} has {len(sizes)} sizes, {len(strides)} strides")
    empty = 0 in sizes
    last = (
        0 if empty else offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) + 1
    )
    if last * _DTYPES[dtype] > size or size % _DTYPES[dtype]:
        raise _refused(
            name, f"tensor {tensor!r} of shape {tuple(sizes)} does not fit its {size} bytes"
        )
    return {
        "dtype": dtype,
        "sizes": [{"as_int": n} for n in sizes],
        "requires_grad": meta.get("requires_grad") is True,
        "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": n} for n in strides],
        "storage_offset": {"as_int": offset},
        "layout": _STRIDED,
    }


def _count(value: Any) -> int:
    found = value["as_int"]
    if type(found) is not int or not 0 <= found < 2**48:
        raise ValueError(found)
    return found


def _is_path(text: str) -> bool:
    return re.fullmatch(r"[\w.\-/ ]{1,1000}", text) is not None


def _json(data: bytes, name: str, path: str) -> dict[str, Any]:
    if len(data) > _MAX_JSON_BYTES:
        raise _refused(name, f"{path} has {len(data)} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise _refused(name, f"{path} is not valid JSON") from e
    if not isinstance(found, dict):
        raise _refused(name, f"{path} is not a JSON object")
    return found


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _refused(name: str, reason: str) -> UsageError:
    return UsageError(
        f"{name} was refused: {reason}.",
        "Capture the model again with edgekit, or export it with torch.export.save.",
    )
