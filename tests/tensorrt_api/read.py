"""What TensorRT's Python module offers: names and numbers of arguments, as plain data.

pybind11 writes a signature into each function's docstring.
"""

import enum
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

CLASSES = (
    *("Builder", "IBuilderConfig", "INetworkDefinition", "IOptimizationProfile", "OnnxParser"),
    *("ParserError", "Runtime", "ICudaEngine", "IExecutionContext", "EngineInspector"),
    *("ITimingCache", "Logger", "ILogger", "ILogger.Severity", "BuilderFlag", "DeviceType"),
    *("NetworkDefinitionCreationFlag", "ProfilingVerbosity", "MemoryPoolType", "TensorIOMode"),
    *("HardwareCompatibilityLevel", "LayerInformationFormat"),
)
"""The classes whose members edgekit uses; the module's own names stand under the empty name."""

Arity = tuple[int, int] | None
"""Fewest and most arguments; None where it is no function, or says nothing of them."""
Api = dict[str, dict[str, Arity]]


def read(module: ModuleType) -> Api:
    """Members of the module and of its classes that edgekit uses."""
    found: Api = {"": {name: None for name in vars(module) if not name.startswith("_")}}
    found[""]["__version__"] = None
    found[""]["nptype"] = arity(module.nptype, own=0)
    for path in CLASSES:
        cls: Any = module
        for part in path.split("."):
            cls = getattr(cls, part, None)
        if cls is None:
            continue
        found[path] = {
            name: arity(getattr(cls, name), own=1)
            for name in dir(cls)
            if not name.startswith("_") or name == "__init__"
        }
    return found


def arity(member: Any, own: int) -> Arity:
    """How many arguments a function takes beside its own first `own` ones."""
    if not callable(member) or isinstance(member, enum.Enum):
        return None
    texts = list(_signatures(member.__doc__ or ""))
    if texts:
        counts = [_count(text) for text in texts]
        return min(few for few, _ in counts) - own, max(many for _, many in counts) - own
    if not inspect.isfunction(member):
        return None
    values = list(inspect.signature(member).parameters.values())
    return sum(v.default is v.empty for v in values) - own, len(values) - own


def _signatures(doc: str) -> Iterator[str]:
    """The parameters of each overload, such as `self: Builder, flags: int = 0`."""
    for line in doc.splitlines():
        match = re.match(r"(?:\d+\. )?\w+\((.*)\) -> ", line.strip())
        if match and match[1] != "*args, **kwargs":
            yield match[1]


def _count(parameters: str) -> tuple[int, int]:
    depth, parts = 0, [""]
    for character in parameters:
        depth += (character in "[(<{") - (character in "])>}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    given = [part for part in parts if part.strip()]
    return sum(" = " not in part for part in given), len(given)
