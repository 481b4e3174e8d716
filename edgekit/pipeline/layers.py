"""Time of each layer, in the names that the user gave the layers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekit.errors import UsageError

MOST_IN_A_NAME = 3


def layered() -> list[str]:
    """The runtimes that tell how long each layer takes."""
    from edgekit.bench.profile import PROFILERS

    return [*PROFILERS, "torch"]


def check_layered(runtime: str, model: str) -> None:
    """Refuse a runtime that does not tell.

    Raises:
        UsageError: it does not.
    """
    if runtime not in layered():
        raise UsageError(
            f"{runtime} gives no layer times here ({model}).",
            f"Leave --layers out; these give them: {', '.join(layered())}.",
        )


def layer_times(
    model: Path,
    feeds: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    runtime: str = "onnxruntime",
    imports: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Time of each layer of a model, from a separate profiling pass, slowest first.

    Args:
        model: the file.
        feeds: one array for each input.
        options: of the runtime.
        runtime: one of `layered()`.
        imports: modules that register the custom operators of a `.pt2`.
    """
    if runtime == "torch":
        from edgekit.graph.runtime import profile as profile_program

        layers = profile_program(model, feeds, options, imports)
        return layer_rows([asdict(layer) for layer in layers], None)
    from edgekit.bench.profile import profile

    rest = {name: value for name, value in options.items() if name != "threads"}
    threads = options.get("threads", 1)
    layers = profile(model, feeds, runtime=runtime, threads=threads, options=rest)
    return layer_rows([asdict(layer) for layer in layers], model)


def layer_rows(layers: Sequence[Mapping[str, Any]], model: Path | None) -> list[dict[str, Any]]:
    """What JSON says of each layer, slowest first.

    Args:
        layers: `edgekit.bench.profile.Layer`s as plain data.
        model: the ONNX file whose nodes they name; None where they name layers already.

    Returns:
        `layer`: its name in a few words; `layers`: the user's layers that it computes; `nodes`: the
        nodes of the file; `op`, `ms` and `share` (of the sum of all layers, as a fraction).
    """
    names = {} if model is None else _names(model)
    rows = [
        {
            "layer": _called(each, names),
            "op": each["op"],
            "ms": each["ms"],
            "share": each["share"],
            "layers": _layers(each["nodes"], names),
            "nodes": list(each["nodes"]),
        }
        for each in layers
    ]
    return sorted(rows, key=lambda row: -float(row["ms"]))


def _names(model: Path) -> dict[str, str]:
    if model.suffix != ".onnx":
        return {}
    from edgekit.graph.onnx_model import read_onnx
    from edgekit.graph.onnx_names import layer_names

    return layer_names(read_onnx(model))


def _layers(nodes: Sequence[str], names: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(names.get(node, node) for node in nodes))


def _called(layer: Mapping[str, Any], names: Mapping[str, str]) -> str:
    found = _layers(layer["nodes"], names)
    if found:
        return _joined(found)
    after = _layers(layer["after"], names)
    return f"after {_joined(after)}" if after else str(layer["name"])


def _joined(names: Sequence[str]) -> str:
    if len(names) <= MOST_IN_A_NAME:
        return " + ".join(names)
    return f"{names[0]} + … + {names[-1]} ({len(names)} layers)"
