"""Which way to write int8 is fast on this processor: forms of one layer side by side.

    python benchmarks/int8_forms.py [--cpu N] [--table]

Four equal layers in a row (convolutions, matrix products) or one LSTM, random weights, on ONNX
Runtime with one thread: float32, and int8 with unsigned or signed activations and weights, one
weight scale for each tensor or for each channel, static or dynamic ranges. All forms of a layer are
timed in one interleaved benchmark. Results are kept by kind of processor; `--table` writes the
tables of `README.md`.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from quantization import target, written

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent
RESULTS = {"x86-avx2": "int8_forms", "x86-vnni": "int8_forms-vnni"}
DEPTH = 4
UNSIGNED, SIGNED = "uint8", "int8"


@dataclass(frozen=True)
class Layer:
    """A layer that is measured.

    Attributes:
        op: `Conv`, `Gemm`, `MatMul` or `LSTM`.
        weight: shape of its weight, as ONNX has it.
        shape: of its input.
        attributes: of the node.
    """

    op: str
    weight: tuple[int, ...]
    shape: tuple[int, ...]
    attributes: dict[str, Any]


def conv(channels: int, size: int, pixels: int, group: int = 1) -> Layer:
    """A convolution that keeps its channels and pixels."""
    attributes = {"pads": [size // 2] * 4, "group": group}
    shape = (1, channels, pixels, pixels)
    return Layer("Conv", (channels, channels // group, size, size), shape, attributes)


LAYERS = {
    "Conv 3×3, 64 channels, 28×28": conv(64, 3, 28),
    "Conv 1×1, 128 channels, 28×28": conv(128, 1, 28),
    "Conv 3×3, 16 channels, 28×28": conv(16, 3, 28),
    "depthwise 3×3, 128 channels, 28×28": conv(128, 3, 28, 128),
    "Gemm 512×512, 1 row": Layer("Gemm", (512, 512), (1, 512), {"transB": 1}),
    "Gemm 512×512, 64 rows": Layer("Gemm", (512, 512), (64, 512), {"transB": 1}),
    "MatMul 512×512, 64 rows": Layer("MatMul", (512, 512), (1, 64, 512), {}),
    "LSTM 256, 40 steps": Layer("LSTM", (1, 1024, 256), (40, 1, 256), {"hidden_size": 256}),
}
STATIC = {
    "u8·s8, per channel": (UNSIGNED, SIGNED, True),
    "u8·s8, per tensor": (UNSIGNED, SIGNED, False),
    "u8·u8, per tensor": (UNSIGNED, UNSIGNED, False),
    "s8·s8, per channel": (SIGNED, SIGNED, True),
}


def floats(layer: Layer) -> onnx.ModelProto:
    """The layers in float32."""
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {}
    nodes, tensor = [], "x"
    for i in range(1 if layer.op == "LSTM" else DEPTH):
        fan = layer.weight[-1] if layer.op != "Conv" else int(np.prod(layer.weight[1:]))
        arrays[f"w{i}"] = (rng.normal(size=layer.weight) * fan**-0.5).astype(np.float32)
        inputs = [tensor, f"w{i}"]
        if layer.op == "LSTM":
            arrays["r"] = (rng.normal(size=layer.weight) * fan**-0.5).astype(np.float32)
            inputs.append("r")
        elif layer.op != "MatMul":
            count = layer.weight[0]
            arrays[f"b{i}"] = rng.normal(size=count).astype(np.float32)
            inputs.append(f"b{i}")
        tensor = "y" if i == DEPTH - 1 or layer.op == "LSTM" else f"h{i}"
        nodes.append(helper.make_node(layer.op, inputs, [tensor], f"layer{i}", **layer.attributes))
    shape = (40, 1, 1, 256) if layer.op == "LSTM" else layer.shape
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, layer.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(v, k) for k, v in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def static(layer: Layer, activation: str, weight: str, per_channel: bool) -> onnx.ModelProto:
    """The layers with Q/DQ around: integers from the first to the last."""
    model = floats(layer)
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    held: dict[str, NDArray[Any]] = {
        "s": np.array(0.05, np.float32), "z": np.array(128 if activation == UNSIGNED else 0,
        activation),
    }  # fmt: skip

    def pair(tensor: str, to: str) -> None:
        nodes.append(helper.make_node("QuantizeLinear", [tensor, "s", "z"], [f"{to}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{to}.q", "s", "z"], [to]))

    pair("x", "x.d")
    tensor = "x.d"
    for i, node in enumerate(model.graph.node):
        w = arrays[f"w{i}"]
        axis = 1 if layer.op == "MatMul" else 0
        others = tuple(a for a in range(w.ndim) if a != axis) if per_channel else None
        scale = (np.abs(w).max(others) / 127).astype(np.float32)
        shape = [1] * w.ndim
        shape[axis] = -1
        wide = scale.reshape(shape) if per_channel else scale
        zero = 128 if weight == UNSIGNED else 0
        held[f"w{i}"] = (np.clip(np.rint(w / wide), -127, 127) + zero).astype(weight)
        held[f"w{i}.s"], held[f"w{i}.z"] = scale, np.full(scale.shape, zero, weight)
        named = {"axis": axis} if per_channel else {}
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"w{i}", f"w{i}.s", f"w{i}.z"], [f"w{i}.d"], **named
            )
        )
        inputs = [tensor, f"w{i}.d"]
        if f"b{i}" in arrays:
            step = np.float32(0.05) * scale
            held[f"b{i}"] = np.rint(arrays[f"b{i}"] / step).astype(np.int32)
            held[f"b{i}.s"] = np.asarray(step, np.float32)
            named = {"axis": 0} if per_channel else {}
            nodes.append(
                helper.make_node("DequantizeLinear", [f"b{i}", f"b{i}.s"], [f"b{i}.d"], **named)
            )
            inputs.append(f"b{i}.d")
        nodes.append(helper.make_node(layer.op, inputs, [f"a{i}"], node.name, **layer.attributes))
        last = i == DEPTH - 1
        tensor = "y" if last else f"a{i}.d"
        pair(f"a{i}", tensor)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in held.items())
    return model


def dynamic(layer: Layer, path: Path, per_channel: bool, weight: str) -> None:
    """The layers with ranges found at each run, by ONNX Runtime's own quantizer."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kind = QuantType.QInt8 if weight == SIGNED else QuantType.QUInt8
    quantize_dynamic(floats(layer), path, per_channel=per_channel, weight_type=kind)


def kernels(path: Path) -> str:
    """What ONNX Runtime makes of a file: its operators after fusion, but for the conversions."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    made = onnx.load(options.optimized_model_filepath, load_external_data=False)
    skipped = {"QuantizeLinear", "DequantizeLinear", "Reshape", "ReorderInput", "ReorderOutput"}
    return ", ".join(sorted({n.op_type for n in made.graph.node} - skipped))


def measured(layer: Layer, folder: Path, cpu: int | None) -> dict[str, Any]:
    """Milliseconds of float32, and each form's latency by float32's."""
    from edgekit.bench import Protocol, Subject, bench

    files = {"float32": folder / "float32.onnx"}
    onnx.save(floats(layer), files["float32"])
    if layer.op != "LSTM":
        for name, form in STATIC.items():
            files[name] = folder / f"{len(files)}.onnx"
            onnx.save(static(layer, *form), files[name])
    for name, per_channel, weight in (
        ("dynamic, s8 per channel", True, SIGNED),
        ("dynamic, s8 per tensor", False, SIGNED),
        ("dynamic, u8 per tensor", False, UNSIGNED),
    ):
        if layer.op != "Conv" or (not per_channel and weight == UNSIGNED):  # the only one that runs
            files[name] = folder / f"{len(files)}.onnx"
            dynamic(layer, files[name], per_channel, weight)
    rng = np.random.default_rng(1)
    feeds = {"x": rng.uniform(-3, 3, layer.shape).astype(np.float32)}
    subjects = [Subject(n, "onnxruntime", p, feeds, {"threads": 1}) for n, p in files.items()]
    protocol = replace(
        Protocol.quick(0), min_rounds=40, min_s=3.0, max_s=8.0,
        affinity=None if cpu is None else (cpu,),
    )  # fmt: skip
    found = bench(subjects, protocol, baseline="float32")
    row: dict[str, Any] = {
        "float32_ms": next(s.p50_ms.value for s in found.subjects if s.name == "float32")
    }
    for name, each in found.comparisons.items():
        times = (each.speedup.value, each.speedup.high, each.speedup.low)
        row[name] = {
            "ratio": [None if t is None else round(1 / t, 4) for t in times],
            "kernels": kernels(files[name]),
        }
    return row


def table(rows: dict[str, Any]) -> str:
    """Layers as lines, forms as columns."""
    forms = list(dict.fromkeys(f for row in rows.values() for f in row if f != "float32_ms"))
    lines = [f"| layer | float32 | {' | '.join(forms)} |", f"|{'---|' * (len(forms) + 2)}"]
    for name, row in rows.items():
        ratios = (f"{row[f]['ratio'][0]:.2f}" if f in row else "–" for f in forms)
        lines.append(f"| {name} | {row['float32_ms']:.3g} ms | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all layers, or write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cpu", type=int, help="the processor to time on")
    parser.add_argument("--table", action="store_true", help="write the tables, measure nothing")
    options = parser.parse_args()
    if options.table:
        path = HERE / "README.md"
        for name in RESULTS.values():
            file = HERE / f"results/{name}.json"
            if file.exists():
                body = table(json.loads(file.read_text())["rows"])
                path.write_text(written(path.read_text(), name, body))
        return
    from edgekit.bench.fingerprint import fingerprint

    rows: dict[str, Any] = {}
    for name, layer in LAYERS.items():
        with TemporaryDirectory() as folder:
            rows[name] = measured(layer, Path(folder), options.cpu)
        print(name, {k: v if k == "float32_ms" else v["ratio"] for k, v in rows[name].items()})
    path = HERE / f"results/{RESULTS[target()]}.json"
    path.write_text(json.dumps({"device": fingerprint(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
