"""Dynamic quantization for ONNX Runtime: int8 weights, activations quantized at each run.

It needs no calibration, and is what ONNX Runtime has for recurrent layers: its LSTM computes with
int8 weights (`DynamicQuantizeLSTM`), its matrix products too (`MatMulInteger`). ONNX Runtime's own
quantizer writes them. What stays in float, with the reason in the report:

- convolutions: `ConvInteger` is 3 to 10 times slower than float32;
- GRU and RNN: ONNX Runtime has no integer kernel for them.

A Gemm is split into a MatMul, which keeps its name, and an Add first.
"""

from collections.abc import Collection, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import PassError, UsageError
from edgekit.progress import Progress, Silent
from edgekit.quantize.config import PtqConfig
from edgekit.quantize.graph import RECURRENT, WEIGHTED, Graph
from edgekit.quantize.prepare import exclusions, prepare
from edgekit.quantize.ptq import QuantReport, noise_db, read_samples
from edgekit.quantize.quiet import quiet

if TYPE_CHECKING:
    import onnx

    from edgekit.target import IntegerScheme

NAME = "ort-dynamic"
RUNTIME = "onnxruntime"
_MOVES = {"Slice", "Concat", "Unsqueeze", "Squeeze", "Transpose", "Reshape", "Identity"}
WHY_NOT = {
    "Conv": "dynamic quantization of a convolution is slower than float32",
    "ConvTranspose": "ONNX Runtime has no int8 kernel for ConvTranspose",
    "GRU": "ONNX Runtime has no int8 GRU: it stays in float32",
    "RNN": "ONNX Runtime has no int8 RNN: it stays in float32",
}


def quantize_dynamic(
    src: Path,
    dst: Path,
    *,
    scheme: "IntegerScheme",
    calibration: Iterable[Mapping[str, NDArray[Any]]],
    config: PtqConfig | None = None,
    progress: Progress | None = None,
) -> QuantReport:
    """Give an ONNX file int8 weights whose activations are quantized at each run.

    Args:
        src: float32 model.
        dst: the file to write; whole or not at all.
        scheme: of the target; says whether weights have 7 bits.
        calibration: batches of inputs by name, on which the noise is measured.
        config: what to leave out.
        progress: where to say how far it is.

    Returns:
        What was done.

    Raises:
        UsageError: the target is no ONNX Runtime target, or the data does not fit.
        PassError: ONNX Runtime's quantizer failed.
    """
    from edgekit.graph.onnx_model import read_onnx, specs, write_onnx

    config = config or PtqConfig()
    shown: Progress = Silent() if progress is None else progress
    check_scheme(scheme)
    model, said = prepare(read_onnx(src))
    fold_weights(Graph(model))
    ignored = exclusions(model, config, scheme, static=False)
    inputs, _ = specs(model)
    with read_samples(inputs, calibration, config, shown, said) as samples:
        with shown.task("quantize", None):
            made = convert(model, scheme, left_out=ignored, per_channel=config.per_channel)
        sqnr = noise_db(model, made, samples)
        count = samples.count
    write_onnx(made, dst)
    return _report(model, scheme, ignored, count, sqnr, (src, dst), said)


def check_scheme(scheme: "IntegerScheme") -> None:
    """Refuse a scheme whose runtime cannot quantize at run time.

    Raises:
        UsageError: it is not ONNX Runtime's.
    """
    if not scheme.name.startswith("ort-"):
        raise UsageError(
            f"Dynamic quantization is ONNX Runtime's; the integer scheme is {scheme.name}.",
            "Take `static`, or a target that runs ONNX Runtime.",
        )


def layers(model: "onnx.ModelProto") -> "list[onnx.NodeProto]":
    """The layers that dynamic quantization takes, in topological order."""
    graph = Graph(model)
    found = []
    for node in graph.nodes:
        recurrent = node.op_type == "LSTM" and all(map(graph.is_constant, node.input[1:3]))
        product = node.op_type in {"MatMul", "Gemm"} and graph.weight(node) is not None
        if recurrent or product:
            found.append(node)
    return found


def convert(
    model: "onnx.ModelProto",
    scheme: "IntegerScheme",
    *,
    left_out: Collection[str] = (),
    only: Collection[str] | None = None,
    per_channel: bool = True,
) -> "onnx.ModelProto":
    """Quantize layers of a model.

    Args:
        model: float32, prepared; not changed.
        scheme: of the target.
        left_out: names of layers to leave in float.
        only: names of the only layers to quantize; None for all.
        per_channel: a scale for each output channel of a weight, or one for all.

    Raises:
        PassError: ONNX Runtime's quantizer failed.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = [n.name for n in layers(copy) if n.name not in left_out]
    chosen = [n for n in names if only is None or n in only]
    if not chosen:
        return copy
    split_gemms(Graph(copy), set(chosen))
    made = _with_onnxruntime(copy, chosen, scheme.weight_bits == 7, per_channel)
    made.producer_name = model.producer_name
    return made


def _with_onnxruntime(
    model: "onnx.ModelProto", chosen: list[str], seven_bits: bool, per_channel: bool
) -> "onnx.ModelProto":
    import onnx

    with TemporaryDirectory(prefix="edgekit-dynamic-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            with quiet(None):  # it advises on the root logger
                from onnxruntime.quantization import QuantType
                from onnxruntime.quantization import quantize_dynamic as run

                run(
                    model,
                    path,
                    op_types_to_quantize=["MatMul", "LSTM"],
                    per_channel=per_channel,
                    reduce_range=seven_bits,
                    weight_type=QuantType.QInt8,
                    nodes_to_quantize=chosen,
                )
        except Exception as e:
            text = str(e).strip().splitlines()
            raise PassError(
                "ONNX Runtime could not quantize the model: "
                f"{type(e).__name__}: {text[0] if text else ''}",
                "Exclude the layer that the message names (`exclude:`).",
            ) from e
        return onnx.load_model(path)


def fold_weights(graph: Graph) -> int:
    """Compute the weights of recurrent layers that are put together from slices, in place.

    torch's exporter reorders the gates inside the graph, where no quantizer sees a weight.

    Returns:
        How many nodes were computed.
    """
    from onnx.reference import ReferenceEvaluator

    wanted = {name for n in graph.nodes if n.op_type == "LSTM" for name in n.input[1:4] if name}
    for node in reversed(graph.nodes):
        if node.op_type in _MOVES and wanted.intersection(node.output):
            wanted.update(node.input)
    drop = []
    for node in graph.nodes:
        values = {name: graph.array(name) for name in node.input if name}
        if not wanted.intersection(node.output) or any(v is None for v in values.values()):
            continue
        if node.op_type not in _MOVES or graph.is_output(node.output[0]):
            continue
        (value,) = ReferenceEvaluator(node).run(None, values)
        drop.append(node)
        graph.set_array(node.output[0], np.asarray(value))
    graph.edit(drop=drop)
    return len(drop)


def split_gemms(graph: Graph, names: Collection[str]) -> int:
    """Make a MatMul, under the same name, and an Add of each Gemm with constant weights, in place.

    Returns:
        How many were split.
    """
    from onnx import helper

    before: dict[int, list[onnx.NodeProto]] = {}
    drop = []
    for node in graph.nodes:
        if node.op_type != "Gemm" or node.name not in names:
            continue
        held = {a.name: a for a in node.attribute}
        weight = graph.array(node.input[1])
        if weight is None or ("transA" in held and held["transA"].i):
            continue
        if "transB" in held and held["transB"].i:
            weight = weight.T
        alpha = held["alpha"].f if "alpha" in held else 1.0
        beta = held["beta"].f if "beta" in held else 1.0
        w = graph.set_array(
            graph.unique(f"{node.name}/weight"), (weight * alpha).astype(np.float32)
        )
        out = node.output[0]
        if len(node.input) < 3 or not node.input[2]:
            made = [helper.make_node("MatMul", [node.input[0], w], [out], name=node.name)]
        else:
            bias, inner = node.input[2], graph.unique(f"{node.name}/product")
            value = graph.array(bias)
            if beta != 1.0:
                if value is None:
                    continue
                bias = graph.set_array(
                    graph.unique(f"{node.name}/bias"), (value * beta).astype(np.float32)
                )
            made = [
                helper.make_node("MatMul", [node.input[0], w], [inner], name=node.name),
                helper.make_node(
                    "Add", [inner, bias], [out], name=graph.unique(f"{node.name}/Add")
                ),
            ]
        before[id(node)] = made
        drop.append(node)
    graph.edit(drop=drop, before=before)
    return len(drop)


def _report(
    model: "onnx.ModelProto",
    scheme: "IntegerScheme",
    ignored: Mapping[str, str],
    samples: int,
    sqnr: dict[str, float | None],
    files: tuple[Path, Path],
    said: list[str],
) -> QuantReport:
    taken = [n.name for n in layers(model) if n.name not in ignored]
    graph, excluded, total = Graph(model), [], 0
    for node in graph.nodes:
        weighted = node.op_type in WEIGHTED and graph.weight(node) is not None
        if not weighted and node.op_type not in RECURRENT:
            continue
        total += 1
        if node.name not in taken:
            why = WHY_NOT.get(node.op_type, "its weights are not constant")
            excluded.append((node.name, ignored.get(node.name, why)))
    if not taken:
        said.append("No layer was quantized.")
    return QuantReport(
        scheme=f"{NAME} ({scheme.name})",
        engine=f"onnxruntime {metadata.version('onnxruntime')}",
        quantized=len(taken),
        total=total,
        layers=tuple(taken),
        excluded=tuple(excluded),
        samples=samples,
        output_sqnr_db=sqnr,
        bias_uncorrected=(),
        post_passes={},
        size_bytes=files[1].stat().st_size,
        float_size_bytes=files[0].stat().st_size,
        warnings=tuple(said),
    )
