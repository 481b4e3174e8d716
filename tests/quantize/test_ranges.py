"""Range estimators against brute force, and what they do with outliers, streams and NaN."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgekit.errors import UsageError
from edgekit.quantize import ranges, scales
from edgekit.quantize.config import PtqConfig
from edgekit.quantize.graph import Graph


def error_of(histogram: ranges.Histogram, low: float, high: float, steps: int) -> float:
    """Straight from the definition: Σ h_i (x_i - Q(x_i))², zero exact."""
    scale = (high - low) / steps
    zero = round(-low / scale)
    total = 0.0
    for x, h in zip(histogram.centers, histogram.counts, strict=True):
        level = min(max(round(x / scale) + zero, 0), steps)
        total += h * (x - (level - zero) * scale) ** 2
    return total


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), symmetric=st.booleans())
def test_mse_is_the_best_of_all_ranges_on_a_small_histogram(seed: int, symmetric: bool) -> None:
    rng = np.random.default_rng(seed)
    histogram = ranges.Histogram(0.0, float(rng.uniform(1, 50)), 32)
    histogram.counts = np.round(rng.exponential(100, 32) * np.exp(-np.arange(32) / 3)) + 1
    low, high = ranges.mse(histogram, symmetric)
    top = histogram.edges[-1]
    found = error_of(histogram, low, high, 254 if symmetric else 255)
    grid = np.linspace(0.05, 1, 100) * top
    brute = min(
        error_of(histogram, -a if symmetric else 0.0, a, 254 if symmetric else 255) for a in grid
    )
    assert found == pytest.approx(brute, rel=1e-9)


def test_a_two_sided_range_is_no_worse_than_any_on_a_coarse_grid() -> None:
    rng = np.random.default_rng(3)
    histogram = ranges.Histogram(-40.0, 10.0, 64)
    histogram.add(np.concatenate([rng.normal(0, 1, 20_000), [-40.0, 10.0]]))
    low, high = ranges.mse(histogram, symmetric=False)
    found = error_of(histogram, low, high, 255)
    grid = np.linspace(0.05, 1, 12)
    brute = min(error_of(histogram, -40 * a, 10 * b, 255) for a in grid for b in grid)
    assert found <= brute * 1.01


@pytest.mark.parametrize("name", ["percentile", "mse", "kl"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_far_value_does_not_decide_the_range(name: str, symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(0, 1, (128, 128)).astype(np.float32)} for _ in range(16)]
    feeds[3]["x"][0, 0] = 40.0
    config = PtqConfig(ranges=name)
    low, high = ranges.estimate(lambda f: f, feeds, config, symmetric=symmetric)["x"]
    assert 2.5 < high < 32
    assert low == -high if symmetric else low < -1


def test_percentiles_are_those_of_all_values_to_a_bin() -> None:
    values = np.random.default_rng(0).gamma(2, 1, (4, 5000)).astype(np.float32)
    config = PtqConfig(ranges="percentile", percentile=99.0)
    feeds = [{"x": v} for v in values]
    low, high = ranges.estimate(lambda f: f, feeds, config, symmetric=False)["x"]
    assert low == 0.0
    assert high == pytest.approx(
        np.percentile(values, 99.0), abs=float(values.max()) / ranges.BINS * 1.01
    )


def test_means_of_extremes_and_constants() -> None:
    feeds = [{"x": np.float32(x), "c": np.float32([3])} for x in ([0, 2], [-4, 8])]
    mean = ranges.estimate(lambda f: f, feeds, PtqConfig(ranges="mean-min-max"), symmetric=False)
    assert mean == {"x": (-2.0, 5.0), "c": (3.0, 3.0)}
    kl = ranges.estimate(lambda f: f, feeds, PtqConfig(ranges="kl"), symmetric=False)
    assert kl["c"] == (3.0, 3.0)


def test_memory_does_not_grow_with_the_samples() -> None:
    import tracemalloc

    def peak(count: int) -> int:
        def stream():
            rng = np.random.default_rng(0)
            for _ in range(count):
                yield {"x": rng.normal(size=(200, 200)).astype(np.float32)}

        class Again:
            def __iter__(self):
                return stream()

        tracemalloc.start()
        ranges.estimate(lambda f: f, Again(), PtqConfig(ranges="mse"), symmetric=True)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(40) < peak(4) * 1.3


def test_nan_inside_the_network_is_reported_by_name() -> None:
    feeds = [{"x": np.float32([1.0])}, {"x": np.float32([np.nan])}]
    with pytest.raises(UsageError, match=r"'x' holds NaN or infinity for calibration sample 1"):
        ranges.estimate(lambda f: f, feeds, PtqConfig(), symmetric=True)


def test_inputs_of_a_concat_keep_one_scale() -> None:
    def pair(x: str) -> list:
        return [
            helper.make_node("QuantizeLinear", [x, "s", "z"], [f"{x}q"], name=f"{x}q"),
            helper.make_node("DequantizeLinear", [f"{x}q", "s", "z"], [f"{x}d"], name=f"{x}d"),
        ]

    nodes = [*pair("a"), *pair("b"), helper.make_node("Concat", ["ad", "bd"], ["y"], "c", axis=0)]
    value = [helper.make_tensor_value_info(n, 1, [2]) for n in ("a", "b")]
    graph = Graph(
        helper.make_model(
            helper.make_graph(
                nodes,
                "g",
                value,
                [helper.make_tensor_value_info("y", 1, [4])],
                [
                    numpy_helper.from_array(np.float32(1), "s"),
                    numpy_helper.from_array(np.uint8(0), "z"),
                ],
            )
        )
    )
    assert scales.set_ranges(graph, {"a": (0.0, 1.0), "b": (-1.0, 3.0)}, symmetric=False) == 2
    quantizers = graph.activation_quantizers()
    found = {float(graph.array(q.input[1])) for q in quantizers}
    assert found == {np.float32(4 / 255)}
    assert [int(graph.array(q.input[2])) for q in quantizers] == [64, 64]


def test_better_ranges_reach_the_file(residual: Path, batches, schemes, tmp_path: Path) -> None:
    """One wild pixel: min-max widens the input's scale, a percentile does not."""
    from edgekit.graph.onnx_model import read_onnx
    from edgekit.quantize.ptq import quantize_onnx

    def wild():
        for batch in batches(2):
            batch["image"][0, 0, 0, 0] = 60.0
            yield batch

    found = {}
    for name in ("min-max", "percentile"):
        path = tmp_path / f"{name}.onnx"
        config = PtqConfig(ranges=name, percentile=99.9, bias_correction=False)
        quantize_onnx(
            residual, path, scheme=schemes["ort-x86-avx2"], calibration=wild(), config=config
        )
        graph = Graph(read_onnx(path))
        quantize = next(q for q in graph.activation_quantizers() if q.input[0] == "image")
        found[name] = float(graph.array(quantize.input[1]))
    assert found["percentile"] < found["min-max"] / 3
