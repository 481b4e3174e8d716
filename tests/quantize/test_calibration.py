"""Calibration data is checked before anything is quantized, and read as a stream, once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgekit.artifact import TensorSpec
from edgekit.errors import UsageError
from edgekit.progress import Silent
from edgekit.quantize.calibration import Samples, extremes, signal_to_noise_db
from edgekit.quantize.config import PtqConfig
from edgekit.quantize.ptq import quantize_onnx
from edgekit.target import IntegerScheme

Batches = Callable[..., Iterator[dict[str, np.ndarray]]]


FREE = (TensorSpec(name="x", dtype="float32", shape=("batch", 2)),)
FIXED = (TensorSpec(name="x", dtype="float32", shape=(4, 2)),)


def read(inputs: tuple[TensorSpec, ...], batches: list[object], limit: int = 100) -> Samples:
    samples = Samples(inputs)
    try:
        with Silent().task("", None) as task:
            samples.read(batches, limit, task)  # type: ignore[arg-type]
    except UsageError:
        samples.close()
        raise
    return samples


def rows(count: int) -> np.ndarray:
    return np.arange(2 * count, dtype=np.float32).reshape(count, 2)


def test_samples_are_replayed_one_by_one() -> None:
    with read(FREE, [{"x": rows(3)}, {"x": rows(2)}], limit=4) as samples:
        assert samples.count == len(samples) == 4
        for _ in range(2):
            got = np.concatenate([feed["x"] for feed in samples])
            np.testing.assert_array_equal(got, np.concatenate([rows(3), rows(1)]))
        assert [f["x"].shape for f in samples.first(2)] == [(1, 2)] * 2


def test_a_fixed_batch_is_filled_up() -> None:
    with read(FIXED, [{"x": rows(3)}, {"x": rows(3)}]) as samples:
        feeds = list(samples)
        assert [f["x"].shape for f in feeds] == [(4, 2)] * 2
        np.testing.assert_array_equal(feeds[1]["x"][1:], np.repeat(rows(3)[2:], 3, axis=0))


def test_a_single_input_may_have_another_name() -> None:
    with read(FREE, [{"anything": rows(1)}]) as samples:
        assert next(iter(samples))["x"].shape == (1, 2)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": np.array([[1, np.nan]], np.float32)}, "sample 0 .*'x' holds NaN"),
        ({"x": np.array([[1, np.inf]], np.float32)}, "NaN or infinity"),
        ({"x": np.zeros((1, 3), np.float32)}, r"shape \[1, 3\]"),
        ({"x": np.zeros((1, 2))}, "float64; the model takes float32"),
        ({"y": rows(1), "z": rows(1)}, "no 'x'; it has y, z"),
    ],
)
def test_data_that_does_not_fit(batch: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(FREE, [batch])


def test_inputs_must_have_one_batch_size() -> None:
    two = (*FREE, TensorSpec(name="y", dtype="float32", shape=("batch", 2)))
    with pytest.raises(UsageError, match="different batch sizes"):
        read(two, [{"x": rows(2), "y": rows(3)}])


@pytest.mark.parametrize("nothing", [[], [{"x": rows(0)}]])
def test_no_data(nothing: list[object]) -> None:
    with pytest.raises(UsageError, match="no calibration sample"):
        read(FREE, nothing)


def test_fewer_samples_than_asked_for(
    residual: Path, batches: Batches, schemes: dict[str, IntegerScheme], tmp_path: Path
) -> None:
    report = quantize_onnx(
        residual,
        tmp_path / "model.onnx",
        scheme=schemes["tensorrt"],
        calibration=batches(1, 5),
        config=PtqConfig(samples=24, bias_correction=False),
    )
    assert report.samples == 5
    assert report.warnings == ("5 calibration samples were used; 24 were asked for.",)


def test_extremes_and_noise_against_numpy() -> None:
    feeds = [{"x": rows(2) - 1}, {"x": rows(3)}]
    assert extremes(lambda feed: {"y": feed["x"] * 2}, feeds) == {"y": (-2.0, 10.0)}
    found = signal_to_noise_db(
        lambda feed: {"y": feed["x"]}, lambda feed: {"y": feed["x"] + 0.1}, feeds
    )
    values = np.concatenate([f["x"].ravel() for f in feeds]).astype(np.float64)
    expected = 10 * np.log10((values**2).sum() / (0.01 * values.size))
    assert found["y"] == pytest.approx(expected, rel=1e-4)
    assert signal_to_noise_db(lambda f: f, lambda f: f, feeds)["x"] == float("inf")


def test_constant_inputs_and_a_single_sample_are_told(residual: Path, schemes, tmp_path) -> None:
    from edgekit.quantize.ptq import quantize_onnx

    def warned(count: int) -> list[str]:
        images = [{"image": np.ones((1, 1, 12, 12), np.float32)}] * count
        report = quantize_onnx(
            residual, tmp_path / "q.onnx", scheme=schemes["tensorrt"], calibration=images,
            config=PtqConfig(bias_correction=False),
        )  # fmt: skip
        return list(report.warnings)

    assert any("Input 'image' is constant" in w for w in warned(2))
    assert any("one calibration sample" in w for w in warned(1))


@pytest.mark.parametrize(
    ("dims", "shape", "message"),
    [
        (("batch", "32*h", "32*w"), (1, 33, 64), r"size 33 at axis 1.*'32\*h'; 32 would fit"),
        (("batch", "n", "n"), (1, 4, 5), "size 5 at axis 2.*'n'; 4 would fit"),
    ],
)
def test_sizes_that_the_dynamic_shape_does_not_allow_are_refused(
    dims: tuple[str, ...], shape: tuple[int, ...], message: str
) -> None:
    samples = Samples((TensorSpec(name="x", dtype="float32", shape=dims),))
    with samples, pytest.raises(UsageError, match=message):
        samples.read([{"x": np.zeros(shape, np.float32)}], 4, _Task())


class _Task:
    def advance(self, amount: float = 1.0, *, detail: str = "") -> None:
        pass
