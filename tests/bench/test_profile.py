import numpy as np
import pytest

from edgekit.bench.profile import layers_from_events, profile
from edgekit.errors import UsageError

FEEDS = {"x": np.ones((2, 16), np.float32)}


def test_every_layer_of_a_real_model_is_timed_by_its_name(mlp, clock):
    layers = profile(mlp, FEEDS, seconds=0.0, clock=clock)
    names = {layer.name for layer in layers}
    assert {"blocks.0/MatMul", "blocks.1/MatMul"} <= names
    assert {layer.provider for layer in layers} == {"CPUExecutionProvider"}
    assert sum(layer.share for layer in layers) == pytest.approx(1.0) or not any(
        layer.ms for layer in layers
    )
    assert {layer.op for layer in layers} >= {"MatMul"}


def test_no_profile_file_stays_behind(mlp, tmp_path, monkeypatch, clock):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = set(tmp_path.iterdir())
    profile(mlp, FEEDS, seconds=0.0, clock=clock)
    assert set(tmp_path.iterdir()) == before


def test_feeds_are_checked(mlp):
    with pytest.raises(UsageError, match="'x'"):
        profile(mlp, {"x": np.ones((2, 15), np.float32)})


def events_of(*runs):
    """Each run is a list of (name, op, dur); runs are 1000 µs apart."""
    for number, nodes in enumerate(runs):
        for place, (name, op, duration) in enumerate(nodes):
            yield {
                "cat": "Node",
                "name": f"{name}_kernel_time",
                "ts": 1000 * number + 10 * place + 1,
                "dur": duration,
                "args": {"op_name": op, "provider": "CPU"},
            }
        yield {"cat": "Session", "name": "model_run", "ts": 1000 * number, "dur": 900}


def test_times_are_summed_within_a_run_and_the_first_runs_left_out():
    run = [("a", "Conv", 30), ("loop", "Add", 5), ("loop", "Add", 5)]
    cold = [("a", "Conv", 900), ("loop", "Add", 50)]
    a, loop = layers_from_events(events_of(cold, run, run, run, run), skip=1)
    assert (a.name, a.op, a.ms, a.runs) == ("a", "Conv", pytest.approx(0.03), 4)
    assert loop.ms == pytest.approx(0.01)
    assert (a.share, loop.share) == pytest.approx((0.75, 0.25))


def test_one_disturbed_run_hardly_counts():
    runs = [[("a", "Conv", 10)]] * 19 + [[("a", "Conv", 5000)]]
    assert layers_from_events(events_of(*runs), skip=0)[0].ms == pytest.approx(0.01)
