"""Ctrl-C in a build: TensorRT would swallow it."""

import os
import signal
import threading
from pathlib import Path

import pytest
from onnx import TensorProto, helper, numpy_helper, save

from edgekit.bench.engine import interrupt, library
from edgekit.bench.engine.build import Plan, build

needs_builder = pytest.mark.skipif(
    not library.available("tensorrt-rtx")[0], reason="tensorrt-rtx is not installed"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    import numpy as np

    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x" if i == 0 else f"t{i}", "w"], [f"t{i + 1}"])
        for i in range(8)
    ]
    shape = [4, 16]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("t8", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@needs_builder
@pytest.mark.parametrize("where", ["log", "step_complete"])
def test_ctrl_c_in_a_callback_ends_the_build(
    model: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    trt = library.load("tensorrt-rtx")
    stopped = []
    if where == "log":
        log = library.logger(trt)
        usual = type(log).log
        monkeypatch.setattr(type(log), "log", lambda *a: (press(), usual(*a))[1])
    else:
        made = interrupt._monitor

        def monitor(library_: object, pressed: threading.Event) -> object:
            found = made(library_, pressed)
            ask = type(found).step_complete

            def step(self: object, name: str, number: int) -> bool:
                press()
                stopped.append(ask(self, name, number))
                return bool(stopped[-1])

            monkeypatch.setattr(type(found), "step_complete", step)
            return found

        monkeypatch.setattr(interrupt, "_monitor", monitor)
    with pytest.raises(KeyboardInterrupt):
        build(model, Plan("tensorrt-rtx", compute_capabilities=("8.6",)))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if where == "step_complete":
        assert stopped == [False], "the builder went on after it was asked to stop"


@needs_builder
def test_a_build_in_another_thread_is_left_alone(model: Path) -> None:
    found = []
    plan = Plan("tensorrt-rtx", compute_capabilities=("8.6",))
    thread = threading.Thread(target=lambda: found.append(build(model, plan)))
    thread.start()
    thread.join()
    assert len(found[0].data) > 0


def test_what_the_block_raises_gives_way_to_ctrl_c() -> None:
    def fail() -> None:
        press()
        raise ValueError

    with pytest.raises(KeyboardInterrupt), interrupt.held(None):
        fail()
    with pytest.raises(ValueError, match="as it is"), interrupt.held(None):
        raise ValueError("as it is")
