"""Runtimes that the harness can measure. A new one is one file here and one line in `RUNTIMES`."""

import difflib
from importlib import import_module
from typing import cast

from edgekit.bench.runtimes.base import Availability, Feeds, IoSpec, Runtime, check_feeds
from edgekit.errors import UsageError

__all__ = [
    "RUNTIMES",
    "Availability",
    "Feeds",
    "IoSpec",
    "Runtime",
    "check_feeds",
    "probe_runtimes",
    "runtime_class",
]

RUNTIMES = {
    "onnxruntime": "edgekit.bench.runtimes.onnxruntime:OnnxRuntime",
    "openvino": "edgekit.bench.runtimes.openvino:OpenVino",
    "tensorrt": "edgekit.bench.runtimes.tensorrt:TensorRt",
    "tensorrt-rtx": "edgekit.bench.runtimes.tensorrt:TensorRtRtx",
}


def runtime_class(name: str) -> type[Runtime]:
    """Find a runtime by name; its own library is not imported yet.

    Raises:
        UsageError: no such runtime; the hint names the nearest one.
    """
    if name not in RUNTIMES:
        near = difflib.get_close_matches(name, RUNTIMES, n=1, cutoff=0.4)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise UsageError(
            f"There is no runtime {name!r}.", f"{guess}Runtimes: {', '.join(RUNTIMES)}."
        )
    module, attribute = RUNTIMES[name].split(":")
    return cast("type[Runtime]", getattr(import_module(module), attribute))


def probe_runtimes() -> dict[str, Availability]:
    """What each runtime says about this machine."""
    return {name: runtime_class(name).probe() for name in RUNTIMES}
