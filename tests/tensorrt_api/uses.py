"""Where edgekit calls TensorRT, read from its source: no GPU is needed for that."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import edgekit

ROOT = Path(edgekit.__file__).parent
# What the expressions of a file are, as classes of TensorRT; the module itself is the empty name.
SOURCES = {
    "bench/engine/library.py": {
        "trt": "",
        "builder": "Builder",
        "parser": "OnnxParser",
        "e": "ParserError",
        "levels": "ILogger.Severity",
    },
    "bench/engine/build.py": {
        "trt": "",
        "builder": "Builder",
        "config": "IBuilderConfig",
        "optimization": "IOptimizationProfile",
    },
    "bench/engine/interrupt.py": {"trt": "", "config": "IBuilderConfig"},
    "bench/engine/options.py": {"trt": "", "builder": "Builder", "config": "IBuilderConfig"},
    "bench/engine/timing.py": {
        "trt": "",
        "config": "IBuilderConfig",
        "config.get_timing_cache()": "ITimingCache",
        "trt.Runtime(log)": "Runtime",
        "opened": "ICudaEngine",
        "opened.create_engine_inspector()": "EngineInspector",
    },
    "bench/runtimes/tensorrt.py": {
        "library": "",
        "runtime": "Runtime",
        "self._engine": "ICudaEngine",
    },
    "bench/runtimes/binding.py": {
        "engine": "ICudaEngine",
        "self._context": "IExecutionContext",
    },
}
RTX_ONLY = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}
"""What edgekit asks of TensorRT-RTX alone."""


@dataclass(frozen=True)
class Use:
    """A member that is read, set or called; `arguments` is None where it is not called."""

    cls: str
    member: str
    arguments: int | None
    where: str


def uses(source: str, receivers: dict[str, str], where: str) -> list[Use]:
    """Every use of TensorRT in a source text."""
    tree = ast.parse(source)
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        cls = _class_of(ast.unparse(node.value), receivers)
        if cls is None or node.attr.startswith("__"):
            continue
        call = called.get(id(node))
        count = None if call is None else len(call.args) + len(call.keywords)
        found.append(Use(cls, node.attr, count, f"{where}:{node.lineno}"))
    if where.endswith("options.py"):  # flags go by name
        flags = re.findall(r'^ +"([A-Z_]+)": ', source, re.MULTILINE)
        found += [Use("BuilderFlag", flag, None, where) for flag in flags]
    return found


def all_uses() -> list[Use]:
    """Every use of TensorRT in edgekit."""
    return [
        use
        for name, receivers in SOURCES.items()
        for use in uses((ROOT / name).read_text(encoding="utf-8"), receivers, name)
    ]


def _class_of(text: str, receivers: dict[str, str]) -> str | None:
    if text in receivers:
        return receivers[text]
    head, dot, rest = text.partition(".")
    if dot and receivers.get(head) == "" and re.fullmatch(r"[A-Za-z.]+", rest):
        return rest
    return None
