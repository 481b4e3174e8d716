"""A small realistic run. Every number in it is made up: a fixture, not a measurement."""

import pytest

from edgekit.report.schema import (
    BranchReport,
    ChangedExample,
    Changes,
    ClassChange,
    Figure,
    GateReport,
    LayerTime,
    RunReport,
    StepReport,
)

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag")
BOUND = "high is the one-sided 95 % bound"
NO_METER = "no energy meter: powercap is not readable here"


def _ms(value, low, high, label="measured", note=""):
    return Figure(value=value, low=low, high=high, unit="ms", label=label, note=note)


def _share(value, low, high):
    return Figure(value=value, low=low, high=high, unit="fraction")


def _energy():
    return Figure.unavailable("j", NO_METER)


def _latency(p50, *, p99_note=""):
    p99 = Figure(high=p50 * 1.31, unit="ms")
    return {
        "latency_p50_ms": _ms(p50, p50 * 0.985, p50 * 1.012),
        "latency_p90_ms": Figure(value=p50 * 1.10, high=p50 * 1.12, unit="ms", note=BOUND),
        "latency_p99_ms": Figure.unavailable("ms", p99_note) if p99_note else p99,
        "energy_j": _energy(),
    }


def _original(**latency):
    return StepReport(
        name="original",
        artifact_hash="11" * 32,
        path="original",
        size_bytes=1_124_332,
        macs=12_501_760,
        parameters=278_324,
        metric=_share(0.9120, 0.9043, 0.9192),
        **({"energy_j": _energy()} | latency),
    )


def _changes(right_to_wrong, wrong_to_right, agreement, drops):
    n = 2000
    return Changes(
        n=n,
        right_to_wrong=right_to_wrong,
        wrong_to_right=wrong_to_right,
        agreement=_share(agreement, agreement - 0.006, agreement + 0.005),
        per_class=tuple(
            ClassChange(
                name=name,
                n=222,
                original=0.91,
                now=round(0.91 - drop, 4),
                drop=_share(drop, drop - 0.014, drop + 0.014),
            )
            for name, drop in zip(CLASSES, drops, strict=True)
        ),
        examples=tuple(
            ChangedExample(id=f"{i * 37:05d}", target="shirt", original="shirt", now="coat")
            for i in range(1, right_to_wrong + 1)
        ),
    )


def _shared():
    prune = StepReport(
        name="prune",
        kind="prune",
        artifact_hash="22" * 32,
        path="prune",
        seconds=6.2,
        size_bytes=402_118,
        macs=4_310_016,
        parameters=98_730,
        metric=_share(0.8410, 0.8312, 0.8504),
        metric_drop=_share(0.0710, 0.0612, 0.0809),
        energy_j=_energy(),
        notes={
            "frozen": {
                "aten.layer_norm.default": {"parameters": 4_608, "layers": ["head.norm"]},
                "aten.argmax.default": {"parameters": 640, "layers": ["pool", "classifier"]},
            },
            "groups": [
                {"layers": ["layers.0.conv"], "before": 64, "after": 32},
                {"layers": ["layers.1.conv1", "layers.1.skip"], "before": 128, "after": 64},
            ],
        },
        warnings=("2 operators have no pruning rule and left 5,248 parameters whole.",),
    )
    distill = prune.model_copy(
        update={
            "name": "distill",
            "kind": "distill",
            "artifact_hash": "33" * 32,
            "path": "distill",
            "seconds": 184.0,
            "metric": _share(0.9095, 0.9017, 0.9169),
            "metric_drop": _share(0.0025, -0.0021, 0.0071),
            "notes": {},
            "warnings": (),
        }
    )
    return (prune, distill)


def _measured_shared():
    """The shared chain as it runs on one branch's target."""
    prune, distill = _shared()
    speedup = Figure(value=2.19, low=2.12, high=2.26, unit="x")
    update = {"speedup": speedup, **_latency(0.279)}
    return prune.model_copy(update=update), distill.model_copy(update=update)


def _avx2():
    quantize = StepReport(
        name="quantize",
        kind="quantize",
        artifact_hash="44" * 32,
        path="x86-avx2/quantize",
        seconds=21.4,
        cost_j=Figure(value=1234.0, unit="j", note="rapl: package-0"),
        size_bytes=121_904,
        macs=4_310_016,
        parameters=98_730,
        metric=_share(0.9080, 0.9001, 0.9155),
        metric_drop=_share(0.0040, -0.0012, 0.0092),
        speedup=Figure(value=3.32, low=3.24, high=3.41, unit="x"),
        changes=_changes(41, 33, 0.958, (0.004, 0, -0.004, 0.009, 0.013, 0, 0.041, 0, -0.009)),
        notes={"excluded": [["layers.0.conv", "fewer than 16 channels"]]},
        **_latency(0.184),
    )
    export = StepReport(
        name="export-onnx",
        kind="export-onnx",
        path="x86-avx2/export-onnx",
        artifact_hash="55" * 32,
        seconds=9.1,
        size_bytes=398_420,
        macs=4_310_016,
        parameters=98_730,
        metric=_share(0.9095, 0.9017, 0.9169),
        metric_drop=_share(0.0025, -0.0021, 0.0071),
        speedup=Figure(value=2.21, low=2.15, high=2.28, unit="x"),
        **_latency(0.276),
    )
    gates = (
        GateReport(
            name="accuracy_drop",
            branch="x86-avx2",
            budget=0.01,
            observed=quantize.metric_drop,
            passed=True,
            message="The drop is at most 0.92 points; the budget is 1 point.",
        ),
        GateReport(
            name="speedup",
            branch="x86-avx2",
            budget=2.0,
            at_most=False,
            observed=quantize.speedup,
            passed=True,
            message="At least 3.24 times as fast; the budget is 2.",
        ),
        GateReport(
            name="p99_ms",
            branch="x86-avx2",
            budget=0.3,
            observed=quantize.latency_p99_ms,
            passed=True,
            message="p99 is at most 0.242 ms; the budget is 0.3 ms.",
        ),
    )
    return BranchReport(
        name="x86-avx2",
        target="x86-avx2",
        original=_original(**_latency(0.611)),
        shared=_measured_shared(),
        steps=(export, quantize),
        gates=gates,
        status="passed",
        profile=(
            LayerTime(layer="layers.2.conv1", op="QLinearConv", ms=0.051),
            LayerTime(layer="layers.0.conv", op="Conv", ms=0.044),
            LayerTime(layer="classifier", op="QGemm", ms=0.006),
        ),
    )


def _pi():
    p99_note = "not estimable: 40 independent runs, 299 are needed"
    quantize = StepReport(
        name="quantize",
        kind="quantize",
        artifact_hash="66" * 32,
        path="pi/quantize",
        cached=True,
        status="cached",
        seconds=19.8,
        size_bytes=122_480,
        macs=4_310_016,
        parameters=98_730,
        metric=_share(0.8905, 0.8821, 0.8987),
        metric_drop=_share(0.0215, 0.0148, 0.0283),
        speedup=Figure(value=2.64, low=2.49, high=2.80, unit="x", label="emulated"),
        changes=_changes(77, 34, 0.9310, (0.01, 0, 0.02, 0.01, 0.03, 0, 0.118, 0, 0)),
        **_latency(0.702, p99_note=p99_note),
    )
    gate = GateReport(
        name="accuracy_drop",
        branch="raspberry-pi-5",
        budget=0.01,
        observed=quantize.metric_drop,
        passed=False,
        message="accuracy_drop is up to 2.83 points; the budget is 1 point.",
    )
    return BranchReport(
        name="raspberry-pi-5",
        target="raspberry-pi-5",
        original=_original(**_latency(1.853)),
        steps=(quantize,),
        gates=(gate,),
        status="failed",
        reason="accuracy_drop is beyond its budget.",
    )


@pytest.fixture(name="report", scope="session")
def report_fixture() -> RunReport:
    return build()


def build() -> RunReport:
    skipped = BranchReport(
        name="jetson-orin",
        target="jetson-orin",
        status="skipped",
        reason="TensorRT is not installed here (pip install edgekit[tensorrt]).",
    )
    return RunReport(
        edgekit="0.1.0",
        recipe="fashion-cnn",
        seed=7,
        started_utc="2026-01-02T03:04:05+00:00",
        seconds=312.4,
        cost_seconds=240.0,
        cost_j=Figure(value=1234.0, unit="j", label="derived", note="the sum of 1 of 4 steps"),
        metric="accuracy",
        versions={"python": "3.11.7", "torch": "2.13.0", "onnxruntime": "1.32.0"},
        device={"cpu": "Fixture CPU @ 2.00 GHz", "flags": "avx2", "governor": "unavailable"},
        data={
            "source": "npz: fashion.npz",
            "content_hash": "ab" * 32,
            "samples": 10_000,
            "split_seed": 0,
            "splits": {
                name: {"count": count, "ids_sha256": digest * 32}
                for name, count, digest in (
                    ("calibration", 256, "c1"),
                    ("train", 7744, "d2"),
                    ("evaluation", 2000, "e3"),
                )
            },
        },
        original=_original(),
        shared=_shared(),
        branches=(_avx2(), _pi(), skipped),
        verdict="failed",
    )
