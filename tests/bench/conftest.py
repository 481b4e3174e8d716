"""Fakes for the bench: a clock that moves only when told, and a runtime that takes a known time."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.bench import Subject
from edgekit.bench.runtimes import Availability, IoSpec


class FakeClock:
    """Nanoseconds that pass only by reading (50 each), sleeping and advancing."""

    def __init__(self):
        self.now = 1_000_000_000
        self.listeners = []

    def advance(self, ns):
        self.now += int(ns)
        for listener in self.listeners:
            listener(self.now)

    @property
    def ns(self):
        def read():
            self.advance(50)
            return self.now

        return read

    def sleep(self, seconds):
        self.advance(seconds * 1e9)


class FakeRuntime:
    """Each inference takes what `duration_ns(clock, count)` says."""

    def __init__(self, clock: FakeClock, duration_ns: Callable[[int, int], float]):
        self.clock, self.duration_ns = clock, duration_ns
        self.inputs = (IoSpec("x", "float32", (1,)),)
        self.outputs = (IoSpec("y", "float32", (1,)),)
        self.options: Mapping[str, object] = {"fake": True}
        self.count = 0
        self.entered = self.left = 0

    @classmethod
    def probe(cls):
        return Availability(ok=True, reason="A fake.")

    def __enter__(self):
        self.entered += 1
        self.clock.advance(5e6)
        return self

    def __exit__(self, *exc):
        self.left += 1

    def infer(self, feeds):
        self.bind(feeds)()
        return {"y": feeds["x"]}

    def bind(self, feeds):
        assert set(feeds) == {"x"}

        def run():
            self.clock.advance(self.duration_ns(self.clock.now, self.count))
            self.count += 1

        return run

    def synchronize(self):
        pass


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def fake(clock):
    """Return a function that makes subjects, an opener for them, and the runtimes by name."""

    def make(**durations):
        runtimes = {name: FakeRuntime(clock, each) for name, each in durations.items()}
        subjects = [
            Subject(name, "fake", Path(f"{name}.onnx"), {"x": np.zeros(1, np.float32)})
            for name in durations
        ]
        return subjects, (lambda subject: runtimes[subject.name]), runtimes

    return make


def save_mlp(path: Path, width: int = 16, layers: int = 2, batch: int | str = "batch") -> Path:
    generator = np.random.default_rng(0)
    nodes, weights, before = [], [], "x"
    for place in range(layers):
        weight = generator.standard_normal((width, width)).astype(np.float32) / width
        weights.append(numpy_helper.from_array(weight, f"w{place}"))
        after = "y" if place == layers - 1 else f"r{place}"
        nodes.append(
            helper.make_node(
                "MatMul", [before, f"w{place}"], [f"m{place}"], f"blocks.{place}/MatMul"
            )
        )
        nodes.append(helper.make_node("Relu", [f"m{place}"], [after], f"blocks.{place}/Relu"))
        before = after
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, width])],
        weights,
    )
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


@pytest.fixture
def mlp(tmp_path):
    """Return a small ONNX file: two layers, one input `x` of shape [batch, 16]."""
    return save_mlp(tmp_path / "mlp.onnx")
