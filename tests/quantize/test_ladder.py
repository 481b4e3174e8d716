"""The guard and its ladder, on networks with planted faults. Latency is injected, never timed."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekit.artifact import Artifact
from edgekit.data import DataConfig, open_data
from edgekit.errors import GateError
from edgekit.graph.onnx_model import read_onnx, specs
from edgekit.lower import check
from edgekit.metrics import Task
from edgekit.progress import Silent
from edgekit.quantize import mixed, repair, reuse
from edgekit.quantize.attempts import excluding
from edgekit.quantize.config import Budget, GuardGate, Place, PtqConfig
from edgekit.quantize.deadline import Deadline, OutOfTimeError
from edgekit.quantize.graph import Graph
from edgekit.quantize.guard import Judge
from edgekit.quantize.ladder import Ladder
from edgekit.quantize.verdict import CHILD, PARENT, Latency, held

WIDTH = 16
LOOSE = GuardGate(accuracy_drop=0.1)  # 16 channels and 7-bit weights: a few answers in a hundred
FASTER = Latency("measured", passed=True, said="faster: 2.00x", speedup=2.0)
SLOWER = Latency(
    "measured",
    passed=False,
    said="slower: 0.50x",
    speedup=0.5,
    p50_ms=2.0,
    parent_p50_ms=1.0,
)


def chain(path: Path, activations: list[str], outlier: dict[int, float], mattering: bool) -> Path:
    """Matrix products with activations between; in some layers one input channel is far out.

    Args:
        path: the file.
        activations: operator after each layer but the last.
        outlier: layer to the factor of channel 0 of what it reads.
        mattering: the layer reads that channel at the inverse factor, so that it counts as much as
            the others; else it hardly reads it.
    """
    rng = np.random.default_rng(0)
    count = len(activations) + 1
    weights = [rng.normal(size=(WIDTH, WIDTH)) * (1.5 / WIDTH**0.5) for _ in range(count)]
    weights[-1] = rng.normal(size=(WIDTH, 4)) / WIDTH**0.5
    for layer, factor in outlier.items():
        weights[layer - 1][:, 0] *= factor
        weights[layer][0] *= 1 / factor if mattering else 1e-6 / factor
    nodes, arrays, tensor = [], [], "x"
    for i, w in enumerate(weights):
        arrays.append(numpy_helper.from_array(w.astype(np.float32), f"fc{i}.weight"))
        arrays.append(numpy_helper.from_array(np.zeros(w.shape[1], np.float32), f"fc{i}.bias"))
        out = "y" if i == count - 1 else f"h{i}"
        inputs = [tensor, f"fc{i}.weight", f"fc{i}.bias"]
        nodes.append(helper.make_node("Gemm", inputs, [out], name=f"fc{i}/Gemm"))
        if i < count - 1:
            nodes.append(helper.make_node(activations[i], [out], [f"a{i}"], name=f"act{i}"))
            tensor = f"a{i}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", 1, ["batch", 4])],
        arrays,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name="edgekit"
    )
    # The answers are spread over the classes: outputs have the mean 0.
    x = np.random.default_rng(2).normal(size=(500, WIDTH)).astype(np.float32)
    mean = check.onnx_runner(model.SerializeToString())({"x": x})["y"].mean(0)
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(-mean, f"fc{count - 1}.bias"))
    onnx.save(model, path)
    return path


def weights_of(path: Path) -> list[onnx.TensorProto]:
    return list(read_onnx(path).graph.initializer)


def data_for(path: Path, folder: Path, *, labels: bool):
    x = np.random.default_rng(1).normal(size=(600, WIDTH)).astype(np.float32)
    arrays = {"x": x}
    if labels:
        arrays["y"] = check.onnx_runner(path)({"x": x})["y"].argmax(1)
    np.savez(folder / "d.npz", **arrays)
    config = {"npz": str(folder / "d.npz"), "split": {"calibration": 64, "evaluation": 500}}
    return open_data(DataConfig.model_validate(config), folder)


Make = Callable[..., Ladder]


@pytest.fixture
def make(tmp_path: Path, schemes, monkeypatch: pytest.MonkeyPatch) -> Make:
    def build(
        path: Path,
        *,
        labels: bool = True,
        latency: Callable[[Path], Latency] = lambda _: FASTER,
        task: str = "classification",
        gate: GuardGate | None = None,
        deadline: Deadline | None = None,
        **config: object,
    ) -> Ladder:
        monkeypatch.setattr(Judge, "_measured", lambda _, file: latency(file))
        data = data_for(path, tmp_path, labels=labels)
        inputs, outputs = specs(read_onnx(path))
        parent = Artifact.create(
            path.parent,
            model=path.name,
            format="onnx",
            inputs=inputs,
            outputs=outputs,
            made_by="file",
        )
        place = Place(runtime="onnxruntime")
        judge = Judge(parent, data, Task(kind=task), gate or GuardGate(), place)
        (tmp_path / "work").mkdir()
        return Ladder(
            source=path,
            scheme=schemes["ort-x86-avx2"],
            calibration=lambda: (b.inputs for b in data.batches("calibration", 1)),
            judge=judge,
            config=PtqConfig(**config),
            folder=tmp_path / "work",
            deadline=deadline or Deadline(),
        )

    return build


class Clock:
    """Tells the seconds that it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_holds_at_once_is_kept(make: Make, tmp_path: Path) -> None:
    ladder = make(chain(tmp_path / "m.onnx", ["Relu"] * 2, {}, mattering=True), gate=LOOSE)
    kept = ladder.climb("static")
    assert [a.rung for a in ladder.tried] == ["as configured"]
    assert kept.passed
    assert kept.accuracy is not None
    assert kept.accuracy.by == "metric"
    assert ladder.reverted == []


def test_a_planted_outlier_costs_less_than_a_third_of_what_min_max_loses(
    make: Make, tmp_path: Path
) -> None:
    path = chain(tmp_path / "m.onnx", ["Relu"] * 2, {1: 3000.0}, mattering=False)
    ladder = make(path, gate=GuardGate(accuracy_drop=0.02))
    kept = ladder.climb("static")
    first = ladder.tried[0]
    assert first.accuracy is not None
    assert kept.accuracy is not None
    assert first.rung == "as configured"
    assert first.accuracy.drop > 0.01
    assert kept.accuracy.drop < first.accuracy.drop / 3
    assert kept.report.quantized == 3  # mended without giving a layer back


def test_one_bad_layer_is_the_one_that_goes_back(make: Make, tmp_path: Path) -> None:
    """Neither clipping nor scaling mends it: the far channel counts, and LeakyRelu is no ReLU."""
    path = chain(tmp_path / "m.onnx", ["LeakyRelu"] * 3, {2: 3000.0}, mattering=True)
    ladder = make(path, gate=LOOSE)
    start = ladder.attempt("as configured", "static", ladder.config)
    mended = ladder.attempt("ranges mse", "static", PtqConfig(ranges="mse"))
    assert not start.passed
    assert not mended.passed
    kept = repair.without_the_worst(ladder, start)
    assert kept is not None
    ladder.reverted = ladder.priced(kept)
    assert [r.node for r in ladder.reverted] == ["fc2/Gemm"]
    (price,) = ladder.reverted
    assert price.layer == "fc2"
    assert price.why == "accuracy"
    assert price.bytes == 3 * WIDTH * WIDTH - 4 * WIDTH
    assert price.sqnr_without_db > ladder.tried[0].accuracy.sqnr_db + 10
    assert kept.report.quantized == 3
    assert "fc2/Gemm" in dict(kept.report.excluded)
    assert kept.passed


def test_a_slower_model_gives_back_what_does_not_pay(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = {"fc0/Gemm": -1.0, "fc1/Gemm": 3.0, "fc2/Gemm": 0.5}

    def layer_ms(
        self: Judge, path: Path, layers: tuple[str, ...], whole: float
    ) -> dict[str, float]:
        return {n: 4.0 - (0.0 if path.name == "float32.onnx" else saved[n]) for n in layers}

    def latency(path: Path) -> Latency:
        integers = sum(i.data_type == 3 and len(i.dims) == 2 for i in weights_of(path))
        return FASTER if integers == 2 else SLOWER

    monkeypatch.setattr(Judge, "layer_ms", layer_ms)
    path = chain(tmp_path / "m.onnx", ["Relu"] * 2, {}, mattering=True)
    ladder = make(path, latency=latency, gate=LOOSE)
    kept = ladder.climb("static")
    assert kept.report.layers == ("fc1/Gemm", "fc2/Gemm")
    assert [(r.node, r.why, r.ms) for r in ladder.reverted] == [("fc0/Gemm", "latency", -1.0)]


@pytest.mark.parametrize("faster", [True, False])
def test_a_model_that_holds_gives_back_what_int8_slows_down_if_that_is_faster(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: bool
) -> None:
    saved = {"fc0/Gemm": -0.2, "fc1/Gemm": 3.0, "fc2/Gemm": -0.01}  # of 2 ms: 10 %, and 0.5 %

    def layer_ms(
        self: Judge, path: Path, layers: tuple[str, ...], whole: float
    ) -> dict[str, float]:
        return {n: 4.0 - (0.0 if path.name == "float32.onnx" else saved[n]) for n in layers}

    def latency(path: Path) -> Latency:
        integers = sum(i.data_type == 3 and len(i.dims) == 2 for i in weights_of(path))
        speedup = {3: 2.0, 2: 2.5 if faster else 1.5}[integers]
        return Latency("measured", passed=True, said="", speedup=speedup, p50_ms=2.0)

    monkeypatch.setattr(Judge, "layer_ms", layer_ms)
    path = chain(tmp_path / "m.onnx", ["Relu"] * 2, {}, mattering=True)
    ladder = make(path, latency=latency, gate=LOOSE)
    kept = ladder.climb("static")
    assert len(ladder.tried) == 2
    assert "1 layer that int8 slows down" in ladder.tried[1].rung
    assert (kept is ladder.tried[1]) is faster
    expected = [("fc0/Gemm", "latency", -0.2)] if faster else []
    assert [(r.node, r.why, pytest.approx(r.ms)) for r in ladder.reverted] == expected


def test_where_nothing_holds_the_table_says_what_was_tried(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "layer_ms", lambda *_: dict.fromkeys(("fc0/Gemm", "fc1/Gemm"), 1.0))
    path = chain(tmp_path / "m.onnx", ["Relu"], {}, mattering=True)
    ladder = make(path, latency=lambda _: SLOWER)
    with pytest.raises(GateError, match="No int8 form") as caught:
        ladder.climb("auto")
    assert caught.value.exit_code == 5
    assert {a.kind for a in ladder.tried} == {"static", "dynamic"}
    for attempt in ladder.tried:
        assert f"{attempt.kind}: {attempt.rung}" in caught.value.message
    assert "0.50x" in caught.value.message
    assert "--no-guard" in caught.value.hint


def test_a_deadline_ends_when_its_seconds_are_over() -> None:
    clock = Clock()
    clock.now = 100.0
    deadline, endless = Deadline(10.0, clock), Deadline(None, clock)
    clock.now = 109.5
    deadline.check()
    assert deadline.spent_s == 9.5
    clock.now = 110.0
    with pytest.raises(OutOfTimeError):
        deadline.check()
    endless.check()


def test_out_of_time_without_a_model_that_holds_the_refusal_says_so(
    make: Make, tmp_path: Path
) -> None:
    """The second attempt takes the search beyond its limit: it is finished, and is the last."""
    clock = Clock()

    def latency(_: Path) -> Latency:
        clock.now += 40.0
        return FASTER

    path = chain(tmp_path / "m.onnx", ["LeakyRelu"] * 3, {2: 3000.0}, mattering=True)
    ladder = make(path, latency=latency, gate=LOOSE, deadline=Deadline(60.0, clock))
    real = ladder.attempt

    def attempt(*args: object, **more: object):
        found = real(*args, **more)
        clock.now += 20.0
        return found

    ladder.attempt = attempt
    with pytest.raises(GateError, match="stopped after 60 s") as caught:
        ladder.climb("static")
    assert caught.value.exit_code == 5
    assert "--search" in caught.value.hint
    assert len(ladder.tried) == 1
    assert ladder.stopped
    assert "as configured" in caught.value.message


def test_out_of_time_the_fastest_that_holds_is_kept(make: Make, tmp_path: Path) -> None:
    clock = Clock()
    held = chain(tmp_path / "m.onnx", ["Relu"] * 2, {}, mattering=True)
    ladder = make(held, gate=LOOSE, deadline=Deadline(60.0, clock))
    real = ladder.attempt

    def attempt(*args: object, **more: object):
        found = real(*args, **more)
        clock.now += 50.0
        return found

    def stop(*_: object) -> None:
        raise OutOfTimeError

    ladder.attempt = attempt
    ladder.gains = stop  # what comes after the starts
    kept = ladder.climb("auto")
    assert kept.passed
    assert ladder.stopped
    assert [a.kind for a in ladder.tried] == ["static", "dynamic"]


def test_the_progress_says_what_is_tried_and_for_how_long(make: Make, tmp_path: Path) -> None:
    clock, said = Clock(), []
    path = chain(tmp_path / "m.onnx", ["Relu"] * 2, {}, mattering=True)
    ladder = make(path, gate=LOOSE, deadline=Deadline(90.0, clock))
    ladder.progress = SimpleNamespace(say=said.append, task=Silent().task)
    clock.now = 12.0
    ladder.attempt("as configured", "static", ladder.config)
    assert "static, as configured (after 12 of 90 s)" in said[0]
    assert "holds; " in said[1]
    assert said[1].endswith("(0.0 s)")


def test_layers_go_back_without_calibrating_the_others_again(make: Make, tmp_path: Path) -> None:
    """The other layers keep their levels; the same from scratch gives the same levels."""
    path = chain(tmp_path / "m.onnx", ["Relu"] * 3, {}, mattering=True)
    ladder = make(path, gate=LOOSE, ranges="percentile", percentile=99.0)
    start = ladder.attempt("as configured", "static", ladder.config)
    quick = ladder.give_back(start, ["fc1/Gemm"], "quick")
    slow = ladder.attempt("slow", "static", excluding(ladder.config, ["fc1/Gemm"]))
    assert quick.report.layers == slow.report.layers == ("fc0/Gemm", "fc2/Gemm", "fc3/Gemm")
    before, one, other = (reuse.levels(Graph(read_onnx(a.path))) for a in (start, quick, slow))
    assert set(one) == set(other)
    shared = set(one) & set(before)
    assert shared
    for tensor in shared:
        np.testing.assert_array_equal(one[tensor][0], before[tensor][0])
    x = {"x": np.random.default_rng(5).normal(size=(50, WIDTH)).astype(np.float32)}
    outputs = [check.onnx_runner(a.path)(x)["y"] for a in (quick, slow)]
    noise = np.square(outputs[0] - outputs[1]).mean() / np.square(outputs[1]).mean()
    assert noise < 1e-3


def test_the_best_ranges_are_found_on_a_few_samples(make: Make, tmp_path: Path) -> None:
    """One calibration sample is far out, and none of those that the ranges are compared on."""
    path = chain(tmp_path / "m.onnx", ["Relu"] * 2, {}, mattering=True)
    ladder = make(path, bias_correction=False)  # the sample is in its means too
    plain = ladder.calibration

    def calibration():
        for i, batch in enumerate(plain()):
            yield {name: value * (100 if i == 20 else 1) for name, value in batch.items()}

    ladder.calibration = calibration
    start = ladder.attempt("as configured", "static", ladder.config)
    chosen = repair.best_ranges(ladder, start)
    assert chosen is not None
    found = {
        name: ladder.attempt(
            name, "static", PtqConfig(ranges=name, bias_correction=False)
        ).accuracy.sqnr_db
        for name in ("min-max", "mse", "percentile", "kl")
    }
    assert found[chosen] > found["min-max"] + 3
    assert found[chosen] >= max(found.values()) - 1


def test_no_ranges_are_better_than_the_right_ones(make: Make, tmp_path: Path) -> None:
    """What is far out is a whole channel: no range of the tensor mends that."""
    path = chain(tmp_path / "m.onnx", ["Relu"] * 2, {1: 3000.0}, mattering=False)
    ladder = make(path)
    start = ladder.attempt("as configured", "static", ladder.config)
    assert repair.best_ranges(ladder, start) is None


def test_giving_back_ends_where_nothing_would_be_left_to_gain(make: Make, tmp_path: Path) -> None:
    """No int8 layer is allowed to change an answer: the search ends before the last of them."""
    path = chain(tmp_path / "m.onnx", ["LeakyRelu"] * 7, {}, mattering=True)
    ladder = make(path, gate=GuardGate(accuracy_drop=0.0, sqnr_db=300.0), task="none", labels=False)
    start = ladder.attempt("as configured", "static", ladder.config)
    assert repair.without_the_worst(ladder, start) is None
    least = min(a.report.quantized for a in ladder.tried)
    assert least >= 2


def test_without_labels_agreement_is_held(make: Make, tmp_path: Path) -> None:
    ladder = make(chain(tmp_path / "m.onnx", ["Relu"], {}, mattering=True), labels=False)
    found = ladder.attempt("as configured", "static", ladder.config).accuracy
    assert found is not None
    assert (found.by, found.drop) == ("agreement", None)
    assert found.passed == (found.value >= 0.99)
    assert found.agreement == pytest.approx(1 - found.loss)


def test_without_classes_the_noise_is_held(make: Make, tmp_path: Path) -> None:
    path = chain(tmp_path / "m.onnx", ["Relu"], {}, mattering=True)
    ladder = make(path, labels=False, task="none", gate=GuardGate(sqnr_db=99.0))
    found = ladder.attempt("as configured", "static", ladder.config).accuracy
    assert found is not None
    assert found.by == "sqnr"
    assert not found.passed
    assert 20 < found.value < 99


def test_methods_that_both_hold_are_decided_by_speed(make: Make, tmp_path: Path) -> None:
    def latency(path: Path) -> Latency:
        dynamic = any(n.op_type == "MatMulInteger" for n in read_onnx(path).graph.node)
        return Latency("measured", passed=True, said="", speedup=3.0 if dynamic else 2.0)

    path = chain(tmp_path / "m.onnx", ["Relu"], {}, mattering=True)
    ladder = make(path, latency=latency, gate=LOOSE)
    assert ladder.climb("auto").kind == "dynamic"


@pytest.mark.parametrize("repaired", [2.2, 1.5])
def test_a_faster_method_that_is_inaccurate_is_repaired_where_that_pays(
    make: Make, tmp_path: Path, repaired: float
) -> None:
    """Dynamic loses what the far channel hides, and is twice as fast as static."""

    def integers(path: Path) -> int:
        return sum(n.op_type == "MatMulInteger" for n in read_onnx(path).graph.node)

    def latency(path: Path) -> Latency:
        speedup = {0: 2.0, 4: 4.0}.get(integers(path), repaired)
        return Latency("measured", passed=True, said="", speedup=speedup)

    path = chain(tmp_path / "m.onnx", ["LeakyRelu"] * 3, {2: 3000.0}, mattering=True)
    ladder = make(path, latency=latency, gate=LOOSE, exclude=("fc2/*",))
    real = ladder.attempt

    def attempt(rung: str, kind: str, config: PtqConfig, **more: bool):
        whole = kind == "dynamic" and rung == "as configured"
        free = config.model_copy(update={"exclude": ()}) if whole else config
        return real(rung, kind, free, **more)

    ladder.attempt = attempt
    kept = ladder.climb("auto")
    starts = {a.kind: a for a in ladder.tried if a.rung == "as configured"}
    assert starts["static"].passed
    assert not starts["dynamic"].passed
    if repaired > 2.0:
        assert kept.kind == "dynamic"
        assert kept.passed
        assert [r.node for r in ladder.reverted] == ["fc2/Gemm"]
    else:
        assert kept is starts["static"]
        assert ladder.reverted == []


@pytest.mark.parametrize(
    ("verdict", "interval", "allowed", "found"),
    [
        ("faster", (1.5, 1.4, 1.6), 0.0, "faster"),
        ("slower", (0.9, 0.88, 0.92), 0.0, "slower"),
        ("slower", (0.9, 0.88, 0.92), 0.2, "within"),
        ("inconclusive", (1.0, 0.98, 1.02), 0.0, "not slower"),
        ("inconclusive", (0.98, 0.97, 0.985), 0.0, "slower"),  # by less than a benchmark's verdict
        ("inconclusive", (0.98, 0.97, 0.985), 0.03, "within"),
        ("inconclusive", (1.2, 1.05, 1.4), 0.0, "not slower"),  # noisy, and yet not slower
        ("inconclusive", (0.99, 0.94, 1.05), 0.0, "undecided"),  # it was 8 % slower
        ("inconclusive", (0.99, 0.94, 1.05), 0.1, "not slower"),
        ("inconclusive", (0.98, None, None), 0.0, "undecided"),
        ("inconclusive", (None, None, None), 0.0, "undecided"),
    ],
)
def test_what_is_not_shown_to_be_as_fast_does_not_pass(
    verdict: str, interval: tuple[float | None, ...], allowed: float, found: str
) -> None:
    figure = SimpleNamespace(**dict(zip(("value", "low", "high"), interval, strict=True)))
    got = held(figure, verdict, allowed, {PARENT: 1.0, CHILD: 1.1})
    assert got.verdict == found
    assert got.passed is (found not in {"slower", "undecided"})
    if interval[0] is not None:
        assert f"{interval[0]:.2f}x" in got.said


def test_one_structure_is_measured_once(make: Make, tmp_path: Path) -> None:
    seen: list[Path] = []

    def latency(path: Path) -> Latency:
        seen.append(path)
        return FASTER

    path = chain(tmp_path / "m.onnx", ["Relu"], {}, mattering=True)
    ladder = make(path, latency=latency, gate=LOOSE)
    for name in ("min-max", "mse"):
        ladder.attempt(name, "static", PtqConfig(ranges=name))
    assert len(ladder.tried) == 2
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (None, "no target"),
        (Place(runtime="tensorrt"), "after the build"),
        (Place(runtime="onnxruntime", machine="vax"), "the target is vax"),
    ],
)
def test_latency_that_cannot_be_measured_is_unavailable_and_no_failure(
    make: Make, tmp_path: Path, place: Place | None, reason: str
) -> None:
    ladder = make(chain(tmp_path / "m.onnx", ["Relu"], {}, mattering=True))
    ladder.judge.place = place
    found = ladder.judge.latency(ladder.source)
    assert (found.label, found.passed, found.speedup) == ("unavailable", True, None)
    assert reason in found.said


def test_a_budget_in_bytes_keeps_the_sensitive_layer_in_float(make: Make, tmp_path: Path) -> None:
    """Of four layers one may stay in float32: the planted one, which no other makes up for."""
    path = chain(tmp_path / "m.onnx", ["LeakyRelu"] * 3, {2: 3000.0}, mattering=True)
    ladder = make(path, gate=LOOSE)
    whole = ladder.attempt("whole", "static", ladder.config)
    rows = mixed.analyse(ladder, whole)
    assert max(rows, key=lambda r: r.noise).layer == "fc2"
    ladder.tried.clear()
    (ladder.folder / "00").rename(ladder.folder / "whole")
    budget = Budget(size_bytes=whole.report.size_bytes + 3 * WIDTH * WIDTH)
    kept = mixed.within(ladder, "static", budget, guarded=True)
    assert "fc2/Gemm" not in kept.report.layers
    assert kept.report.size_bytes <= budget.size_bytes
    assert kept.passed


def test_a_budget_that_int8_cannot_keep_is_refused(make: Make, tmp_path: Path) -> None:
    ladder = make(chain(tmp_path / "m.onnx", ["Relu"], {}, mattering=True), gate=LOOSE)
    with pytest.raises(GateError, match="keeps size_bytes 100 and the gate"):
        mixed.within(ladder, "static", Budget(size_bytes=100), guarded=True)


def test_a_budget_in_milliseconds_is_held_against_the_measurement(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer takes 2 ms in float32 and 1 ms in int8; 4.5 ms leave room for two in float32."""

    def integers(path: Path) -> int:
        return sum(i.data_type == 3 and len(i.dims) == 2 for i in weights_of(path))

    def latency(path: Path) -> Latency:
        ms = 6.0 - integers(path)
        return Latency("measured", passed=True, said="", p50_ms=ms, parent_p50_ms=6.0)

    def layer_ms(_self: Judge, path: Path, layers: tuple[str, ...], _: float) -> dict[str, float]:
        return dict.fromkeys(layers, 2.0 if path.name == "float32.onnx" else 1.0)

    monkeypatch.setattr(Judge, "layer_ms", layer_ms)
    path = chain(tmp_path / "m.onnx", ["Relu"] * 2, {}, mattering=True)
    ladder = make(path, latency=latency, gate=LOOSE)
    kept = mixed.within(ladder, "static", Budget(latency_ms=4.5), guarded=True)
    assert kept.latency.p50_ms <= 4.5
    assert kept.report.quantized == 2


def test_the_figure_has_a_bar_for_each_layer_in_order() -> None:
    from xml.etree import ElementTree as ET

    from edgekit.report.sensitivity import figure

    figures = {"a<b": 10.0, "c": 40.0, "d": None}
    rows = [{"layer": name, "sqnr_db": db} for name, db in figures.items()]
    root = ET.fromstring(figure(rows))  # noqa: S314 - it was made just now
    widths = [float(r.get("width")) for r in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] > widths[1] > widths[2] == 0
    assert "a<b" in [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
