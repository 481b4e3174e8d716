"""The estimate of joules: counted work times published figures, labelled, and last."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import target as targets
from edgekit.bench import Protocol, Subject, bench
from edgekit.errors import UsageError
from edgekit.graph.onnx_cost import macs_by_precision, onnx_cost, weight_bytes
from edgekit.pipeline.bench_request import BenchRequest
from edgekit.pipeline.joules import check_estimate, estimate, meters_for, with_estimates

RATES = targets.EnergyRates(
    pj_per_mac={"int8": 0.5, "float32": 2.0}, pj_per_byte=100.0, source="A paper, 2021"
)


def save(path, dtype=np.float32, quantized=False):
    """Two products of 64 by 32 and 32 by 8, the second one quantized where asked for."""
    first = np.ones((64, 32), dtype)
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"], "first")]
    weights = [numpy_helper.from_array(first, "a")]
    if quantized:
        scale = numpy_helper.from_array(np.array(0.1, np.float32), "s")
        zero = numpy_helper.from_array(np.array(0, np.int8), "z")
        weights += [scale, zero, numpy_helper.from_array(np.ones((32, 8), np.int8), "b")]
        nodes += [
            helper.make_node("QuantizeLinear", ["h", "s", "z"], ["hq"], "q"),
            helper.make_node("DequantizeLinear", ["hq", "s", "z"], ["hd"], "dh"),
            helper.make_node("DequantizeLinear", ["b", "s", "z"], ["bd"], "db"),
            helper.make_node("MatMul", ["hd", "bd"], ["y"], "second"),
        ]
    else:
        weights.append(numpy_helper.from_array(np.ones((32, 8), dtype), "b"))
        nodes.append(helper.make_node("MatMul", ["h", "b"], ["y"], "second"))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["batch", 64])],
        [helper.make_tensor_value_info("y", kind, ["batch", 8])],
        weights,
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def subject(path, rows=1, dtype=np.float32, **more):
    return Subject("m", "onnxruntime", path, {"x": np.zeros((rows, 64), dtype)}, **more)


def test_a_float_model_is_its_macs_and_bytes(tmp_path):
    found = estimate(subject(save(tmp_path / "m.onnx"), rows=3), RATES)
    macs, size = 3 * (64 * 32 + 32 * 8), 4 * (64 * 32 + 32 * 8) + 3 * 64 * 4
    assert found.energy_j.value == pytest.approx((macs * 2.0 + size * 100.0) * 1e-12)
    assert found.energy_j.label == "estimated"
    assert found.domains_j["arithmetic"] == pytest.approx(macs * 2e-12)
    assert "A paper, 2021" in found.energy_j.note
    assert "a floor" in found.energy_j.note
    assert found.net_energy_j.value is None
    assert found.power_w.value is None


def test_quantized_products_cost_what_int8_costs(tmp_path):
    path = save(tmp_path / "m.onnx", quantized=True)
    model = onnx.load(path)
    split = macs_by_precision(model, onnx_cost(model))
    assert split == {"float32": 64 * 32, "int8": 32 * 8}
    assert weight_bytes(model) == 4 * 64 * 32 + 32 * 8 + 4 + 1
    found = estimate(subject(path), RATES)
    assert found.domains_j["arithmetic"] == pytest.approx((64 * 32 * 2.0 + 32 * 8 * 0.5) * 1e-12)


def test_half_precision_without_a_figure_is_no_estimate(tmp_path):
    path = save(tmp_path / "m.onnx", np.float16)
    assert macs_by_precision(onnx.load(path), onnx_cost(onnx.load(path))) == {"float16": 2304}
    found = estimate(subject(path, dtype=np.float16), RATES)
    assert found.energy_j.label == "unavailable"
    assert "no energy of float16" in found.energy_j.note


def test_weights_of_four_bits_are_half_a_byte():
    tensor = helper.make_tensor("w", TensorProto.INT4, [3, 3], b"\0" * 5, raw=True)
    graph = helper.make_graph([], "g", [], [], [tensor])
    assert weight_bytes(helper.make_model(graph)) == 5


def test_an_engine_does_not_tell(tmp_path):
    found = estimate(Subject("m", "tensorrt", tmp_path / "m.engine", {}), RATES)
    assert "does not tell its operations" in found.energy_j.note


QUICK = dataclasses.replace(
    Protocol.quick(), warmup_s=0.0, min_s=0.01, min_rounds=8, loads=1, max_s=0.05, resamples=50
)


def test_the_estimate_fills_only_what_nobody_measured(tmp_path):
    path = save(tmp_path / "m.onnx")
    request = BenchRequest((path,), target="x86-vnni", meters=("rapl", "estimate"))
    one, other = subject(path), dataclasses.replace(subject(path), name="n")
    result = bench([one, other], QUICK)
    measured = dataclasses.replace(
        result.subjects[1].energy,
        energy_j=dataclasses.replace(
            result.subjects[1].energy.energy_j, value=1.0, label="measured"
        ),
    )
    subjects = (result.subjects[0], dataclasses.replace(result.subjects[1], energy=measured))
    filled = with_estimates(dataclasses.replace(result, subjects=subjects), [one, other], request)
    assert filled.subject("m").energy.energy_j.label == "estimated"
    assert filled.subject("n").energy is measured
    unasked = dataclasses.replace(request, meters=("rapl",))
    assert with_estimates(result, [one, other], unasked) is result


def test_an_estimate_needs_a_targets_figures(tmp_path):
    with pytest.raises(UsageError, match="no target whose figures"):
        check_estimate(BenchRequest((tmp_path / "m.onnx",), meters=("estimate",)))
    text = (targets.FOLDER / "x86-avx2.yaml").read_text()
    mine = tmp_path / "mine.yaml"
    mine.write_text(text[: text.index("energy:")].replace("x86-avx2", "mine", 1))
    with pytest.raises(UsageError, match="has no energy figures"):
        check_estimate(BenchRequest((), target=str(mine), meters=("estimate",)))
    check_estimate(BenchRequest((), target="x86-avx2", meters=("estimate",)))


@pytest.mark.parametrize("name", targets.names())
def test_every_target_has_figures_with_their_source(name):
    rates = targets.load(name).energy
    assert rates.pj_per_mac["int8"] < rates.pj_per_mac["float16"] < rates.pj_per_mac["float32"]
    assert set(targets.load(name).precisions) <= set(rates.pj_per_mac)
    assert "ISCA 2021" in rates.source


def test_auto_prefers_the_gpus_meter_where_a_model_runs_on_it(tmp_path):
    request = BenchRequest((), meters=("auto",))
    cpu = subject(tmp_path / "m.onnx")
    assert meters_for(request, [cpu]) == ("auto",)
    cuda = subject(tmp_path / "m.onnx", options={"providers": ("CUDAExecutionProvider",)})
    assert meters_for(request, [cpu, cuda]) == ("nvml", "auto")
    engine = Subject("e", "tensorrt", tmp_path / "e.engine", {})
    assert meters_for(request, [engine]) == ("nvml", "auto")
    assert meters_for(BenchRequest((), meters=("nvml", "auto")), [engine]) == ("nvml", "auto")
