"""Which methods of quantization suit a network."""

from typing import TYPE_CHECKING

from edgekit.quantize import dynamic, sensitivity
from edgekit.quantize.attempts import Kind
from edgekit.quantize.graph import WEIGHTED, Graph

if TYPE_CHECKING:
    import onnx

    from edgekit.target import IntegerScheme


def suited(model: "onnx.ModelProto", scheme: "IntegerScheme") -> tuple[Kind, ...]:
    """The methods that suit a network: static, and dynamic where it has most of the weights.

    Args:
        model: float32.
        scheme: of the target; dynamic quantization is ONNX Runtime's.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    dynamic.fold_weights(graph)
    sizes = {n.name: (n.op_type, 0) for n in graph.nodes}
    layers = [n.name for n in dynamic.layers(copy)]
    weights = sensitivity.weight_bytes(copy, layers)
    convolutions = [n.name for n in graph.nodes if n.op_type in WEIGHTED and n.name not in layers]
    others = sum(f for f, _ in sensitivity.weight_bytes(copy, convolutions).values())
    recurrent = sum(f for n, (f, _) in weights.items() if sizes[n][0] == "LSTM")
    products = sum(f for f, _ in weights.values()) - recurrent
    if not scheme.name.startswith("ort-") or not weights:
        return ("static",)
    if recurrent > products + others:
        return ("dynamic", "static") if products + others else ("dynamic",)
    return ("static", "dynamic") if recurrent + products > others else ("static",)
