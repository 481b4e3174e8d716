"""TensorRT's timing cache, and what else a build on a GPU leaves: its name, its driver, its layers.

A cache holds how long kernels took on one GPU with one version of TensorRT. Another version refuses
it, another GPU would believe it: so the file is named after both, and neither meets the other's.
TensorRT-RTX has the calls and they do nothing (deprecated since 1.2; seen with 1.7.1).
"""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from edgekit.errors import UsageError

_NAME = re.compile(r"tensorrt-[a-z0-9.-]+\.cache")


def cache_file(folder: Path, version: str, gpu: str) -> Path:
    """The file of one TensorRT version and one GPU.

    Args:
        folder: where caches lie.
        version: of TensorRT.
        gpu: its name and compute capability, such as `NVIDIA Orin (8.7)`.

    """
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", f"tensorrt-{version}-{gpu}").strip("-").lower()
    return folder / f"{plain}.cache"


def is_cache_name(name: str) -> bool:
    """Whether it is a name that `cache_file` gives."""
    return _NAME.fullmatch(name) is not None


def check_folder(folder: Path) -> None:
    """Refuse a folder that caches cannot be written to, before time is spent on a build.

    One that is not there yet is not made: the nearest folder above is looked at.

    Raises:
        UsageError: it is a file, is read-only, or its disk is full.
    """
    try:
        place = folder.absolute()
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise UsageError(f"{place} is no folder.", "Give --timing-cache a folder.")
        with tempfile.NamedTemporaryFile(dir=place, prefix=".timing-cache.") as file:
            file.write(b"\0")
            file.flush()
    except OSError as e:
        raise UsageError(
            f"--timing-cache {folder} cannot be written: {e.strerror or e}.", "Give another folder."
        ) from e


def not_kept(name: str, error: OSError) -> str:
    """What to tell where a build is done and its cache cannot be written."""
    return (
        f"The timing cache {name} could not be kept ({error.strerror or error}): the next build"
        " times its kernels again."
    )


def use_cache(config: Any, path: Path) -> bool:
    """Give a builder the cache of a file, or an empty one; whether there was one.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        held = path.read_bytes() if path.is_file() else b""
    except OSError as e:
        raise UsageError(
            f"{path} cannot be read: {e.strerror or e}.", "Check its permissions, or remove it."
        ) from e
    cache = config.create_timing_cache(held)
    # False: TensorRT itself refuses a cache of another device.
    if held and not config.set_timing_cache(cache, False):
        held, cache = b"", config.create_timing_cache(b"")
    if not held:
        config.set_timing_cache(cache, False)
    return bool(held)


def keep_cache(config: Any, path: Path) -> None:
    """Write the builder's cache, with what it learnt, to a file; whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        part.write_bytes(bytes(config.get_timing_cache().serialize()))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def layers_of(trt: Any, log: Any, engine: bytes) -> list[Any] | None:
    """What the engine inspector says of each layer; None where the engine cannot be opened."""
    opened = trt.Runtime(log).deserialize_cuda_engine(engine)
    if opened is None:
        return None
    text = opened.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    found = json.loads(text).get("Layers")
    return found if isinstance(found, list) else None
