"""TensorRT's timing cache, and what else a build on a GPU leaves: its name, its driver, its layers.

A cache holds how long kernels took on one GPU with one version of TensorRT. Another version refuses
it, another GPU would believe it: so the file is named after both, and neither meets the other's.
TensorRT-RTX has the calls and they do nothing (deprecated since 1.2; seen with 1.7.1).
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from edgekit.errors import UsageError


def cache_file(folder: Path, version: str, gpu: str) -> Path:
    """The file of one TensorRT version and one GPU.

    Args:
        folder: where caches lie.
        version: of TensorRT.
        gpu: its name and compute capability, such as `NVIDIA Orin (8.7)`.

    Raises:
        UsageError: the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is no folder.", "Give --timing-cache a folder.")
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", f"tensorrt-{version}-{gpu}").strip("-").lower()
    return folder / f"{plain}.cache"


def use_cache(config: Any, path: Path) -> bool:
    """Give a builder the cache of a file, or an empty one; whether there was one."""
    held = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(held)
    # False: TensorRT itself refuses a cache of another device.
    if held and not config.set_timing_cache(cache, False):
        held, cache = b"", config.create_timing_cache(b"")
    if not held:
        config.set_timing_cache(cache, False)
    return bool(held)


def keep_cache(config: Any, path: Path) -> None:
    """Write the builder's cache, with what it learnt, to a file; whole or not at all."""
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
