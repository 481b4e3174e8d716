"""What each layer costs in float32 and in int8: measured milliseconds, bytes, or estimated joules.

Times come from profiles of the float network and of the network quantized whole. A conversion that
runs as a kernel of its own counts for the layer that reads it, so that a layer which is alone in
int8 looks as dear as it is. A profile slows a network down: its times are scaled to the latency
that was measured without one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgekit.quantize.graph import Graph

if TYPE_CHECKING:
    import onnx

    from edgekit.bench.profile import Layer
    from edgekit.target import EnergyRates

_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_PJ = 1e-12

Costs = dict[str, tuple[float, float]]
"""By layer: in float32, in int8."""


def layer_ms(
    model: Path,
    layers: Sequence[str],
    feeds: Mapping[str, NDArray[Any]],
    *,
    runtime: str,
    threads: int,
    latency_ms: float | None = None,
) -> dict[str, float]:
    """Milliseconds of each layer of one file.

    Args:
        model: the ONNX file.
        layers: names of its nodes.
        feeds: one array for each input.
        runtime: one that tells the times of its layers.
        threads: CPU threads.
        latency_ms: of the whole file; the layers' times are scaled to it.

    Raises:
        UsageError: the runtime does not tell.
    """
    from edgekit.bench.profile import profile
    from edgekit.graph.onnx_model import read_onnx

    kernels = profile(model, feeds, runtime=runtime, threads=threads)
    total = sum(k.ms for k in kernels)
    scale = latency_ms / total if latency_ms and total > 0 else 1.0
    found = attributed(read_onnx(model), kernels, layers)
    return {name: ms * scale for name, ms in found.items()}


def attributed(
    model: "onnx.ModelProto", kernels: "Sequence[Layer]", layers: Sequence[str]
) -> dict[str, float]:
    """Share the kernels' times out among the layers.

    Args:
        model: the file that was profiled.
        kernels: its profile.
        layers: names of its nodes. ONNX Runtime's quantizer calls a node `<layer>_quant`.

    Returns:
        By layer milliseconds; a kernel that stands for several is shared equally, one that stands
        for none counts for nobody.
    """
    graph = Graph(model)
    nodes = {n.name: n for n in graph.nodes}
    names = {name: name for name in layers} | {f"{name}_quant": name for name in layers}
    found = dict.fromkeys(layers, 0.0)
    for kernel in kernels:
        owners = {names[n] for n in kernel.nodes or kernel.after if n in names}
        if not owners and all(
            n in nodes and nodes[n].op_type in _CONVERSIONS for n in kernel.nodes
        ):
            owners = {names[r] for n in kernel.nodes for r in _readers(graph, nodes[n], names)}
        for owner in owners:
            found[owner] += kernel.ms / len(owners)
    return found


def _readers(graph: Graph, node: "onnx.NodeProto", names: Mapping[str, str]) -> set[str]:
    """The layers that read a conversion, through further conversions."""
    found: set[str] = set()
    for output in node.output:
        for reader in graph.readers(output):
            if reader.name in names:
                found.add(reader.name)
            elif reader.op_type in _CONVERSIONS:
                found |= _readers(graph, reader, names)
    return found


def layer_joules(
    model: "onnx.ModelProto",
    layers: Sequence[str],
    sizes: Mapping[str, tuple[int, int]],
    shapes: Mapping[str, tuple[int, ...]],
    rates: "EnergyRates",
) -> Costs:
    """Joules of each layer, estimated: its MACs and the bytes of its weights at published rates.

    Args:
        model: the float network.
        layers: names of its nodes.
        sizes: bytes of each layer's weights in float32 and int8.
        shapes: of the inputs.
        rates: of the target.
    """
    from edgekit.graph.onnx_work import OnnxWork

    work = OnnxWork(model, shapes)
    found: Costs = {}
    for name in layers:
        macs = sum(work.of([name]).macs.values())
        per_mac, per_byte = rates.pj_per_mac, rates.pj_per_byte
        floats, integers = sizes[name]
        found[name] = (
            (macs * per_mac["float32"] + floats * per_byte) * _PJ,
            (macs * per_mac["int8"] + integers * per_byte) * _PJ,
        )
    return found
