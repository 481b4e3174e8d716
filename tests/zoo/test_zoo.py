"""Networks of the kinds that people have, whole, through the installed command."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest

from tests.zoo import networks as n
from tests.zoo.projects import DISTIL, PRUNE, Project, run

pytestmark = pytest.mark.zoo

PRUNE_LESS = "{kind: prune, macs: 0.7, multiple: 8}"
DISTIL_OUTPUTS = "{kind: distill, epochs: 5, label_weight: 0, learning_rate: 2.0e-3}"
FEW = "64 calibration samples were used; 256 were asked for."


def wine() -> str:
    """A table as people keep it: measurements and the name of the class."""
    from sklearn.datasets import load_wine

    found = load_wine()
    names = ("barolo", "grignolino", "barbera")
    header = ",".join([*(f.replace("/", " ") for f in found.feature_names), "cultivar"])
    rows = [
        ",".join([*(f"{v:g}" for v in row), names[k]])
        for row, k in zip(found.data, found.target, strict=True)
    ]
    return "\n".join([header, *rows]) + "\n"


WINE = "csv: wine.csv, target: cultivar, split: {calibration: 64, evaluation: 0.3}"
SCALED = (
    "preprocess: {mean: [13, 2.3, 2.4, 19.5, 100, 2.3, 2, .36, 1.6, 5, .96, 2.6, 747],"
    " std: [.8, 1.1, .27, 3.3, 14, .63, 1, .12, .57, 2.3, .23, .71, 315]}"
)


@dataclass(frozen=True)
class Expected:
    """What a run must show.

    Attributes:
        x86: how many layers of how many are int8 on x86.
        rtx: likewise for TensorRT-RTX.
        macs: share of the MACs that pruning may leave.
        frozen: operators without a pruning rule that it must name.
        warnings: beside the one on few calibration samples.
        parser: what TensorRT's parser may say.
    """

    x86: tuple[int, int]
    rtx: tuple[int, int]
    macs: float = 0.5
    frozen: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    parser: tuple[str, ...] = ()


ZOO: Mapping[str, Project] = {
    "mobilenet": Project(n.MOBILENET, n.IMAGES_8, bench="quick"),
    "resnet": Project(n.RESNET, n.IMAGES_16),
    "audio-gru": Project(n.AUDIO, n.SOUND, epochs=6, passes=(PRUNE_LESS, DISTIL)),
    "audio-lstm": Project(
        n.AUDIO, n.SOUND, factory="build_lstm", epochs=6, passes=(PRUNE_LESS, DISTIL)
    ),
    "transformer": Project(n.TRANSFORMER, n.WORDS, epochs=6, quantize="transformer: true"),
    "autoencoder": Project(
        n.AUTOENCODER, n.IMAGES_ALONE, task="{kind: reconstruction}", loss="input"
    ),
    "generator": Project(
        n.GENERATOR,
        n.LATENTS,
        task="{kind: none}",
        loss="statistics",
        passes=(PRUNE, DISTIL_OUTPUTS),
        gates="{}",
    ),
    "unet": Project(
        n.UNET,
        n.SCENES,
        task="{kind: segmentation}",
        epochs=8,
        passes=(PRUNE_LESS, "{kind: distill, epochs: 6, batch_size: 32, learning_rate: 3.0e-3}"),
        gates="{accuracy_drop: {budget: 0.1, on: value}}",
    ),
    "table": Project(
        n.TABLE_MLP,
        section=f"{{{WINE}, {SCALED}}}",
        epochs=20,
        inputs="{input: {shape: [batch, 13]}}",
        files={"wine.csv": wine()},
    ),
    "anomaly": Project(
        n.ANOMALY,
        n.READINGS,
        task="{kind: anomaly, output: score}",
        loss="input",
        epochs=10,
        passes=(PRUNE, DISTIL_OUTPUTS),
        gates="{accuracy_drop: {budget: 0.05, on: value}}",
    ),
    "two-inputs": Project(
        n.TWO_INPUTS, n.TWO_INPUTS_DATA, task="{kind: classification, output: logits}"
    ),
    "detector": Project(
        n.DETECTOR,
        n.IMAGES_16,
        task="{kind: none}",
        loss="statistics",
        passes=(PRUNE, DISTIL_OUTPUTS),
        gates="{}",
    ),
    "dynamic-size": Project(
        n.DYNAMIC,
        n.IMAGES_16,
        inputs='{image: {shape: [batch, 1, "8*h", "8*w"]}}',
        shapes="{image: [[1, 1, 16, 16], [1, 1, 16, 16], [4, 1, 64, 64]]}",
        bench="quick",
    ),
    "tied": Project(n.TIED, n.COUNTING, epochs=12),
}

TRANSPOSED = "No layer was quantized."
INT64 = "ModelImporter.cpp:1071: Make sure input tokens has Int64 binding."
EXPECTED = {
    "mobilenet": Expected((13, 19), (13, 19), frozen=("(output)",)),
    "resnet": Expected((11, 11), (11, 11)),
    "audio-gru": Expected((4, 5), (4, 5), macs=0.7, frozen=("aten.gru",)),
    "audio-lstm": Expected((4, 5), (4, 5), macs=0.7, frozen=("aten.lstm",)),
    "transformer": Expected((9, 9), (9, 9), frozen=("aten.layer_norm",), parser=(INT64,)),
    "autoencoder": Expected((2, 4), (4, 4)),
    "generator": Expected((0, 4), (4, 4), warnings=(TRANSPOSED,)),
    "unet": Expected((11, 12), (12, 12), macs=0.7),
    "table": Expected((3, 3), (3, 3), frozen=("(input)",)),
    "anomaly": Expected(
        (4, 4),
        (4, 4),
        frozen=("(input)", "(output)"),
        warnings=("Too narrow to lose channels in multiples of 8, kept whole: encoder.2.",),
    ),
    "two-inputs": Expected((5, 5), (5, 5), frozen=("(output)",)),
    "detector": Expected((10, 10), (10, 10), frozen=("(output)",)),
    "dynamic-size": Expected((4, 4), (4, 4)),
    "tied": Expected((3, 3), (3, 3), parser=(INT64,)),
}


def feeds_of(path, batch, sizes=None):
    """Random inputs for an ONNX file, integers between 0 and 9."""
    rng = np.random.default_rng(0)
    found = {}
    for value in onnx.load(path, load_external_data=False).graph.input:
        kind = value.type.tensor_type
        named = {**{d.dim_param: 2 for d in kind.shape.dim}, "batch": batch, **(sizes or {})}
        shape = [d.dim_value or named[d.dim_param] for d in kind.shape.dim]
        floats = kind.elem_type == onnx.TensorProto.FLOAT
        drawn = rng.normal(size=shape) if floats else rng.integers(0, 10, shape)
        found[value.name] = drawn.astype(np.float32 if floats else np.int64)
    return found


@pytest.mark.parametrize("name", ZOO)
def test_network(name, tmp_path):
    expected = EXPECTED[name]
    done = run(ZOO[name].write(tmp_path))
    assert done.code == 0, done.stderr
    assert done.report["verdict"] == "passed"
    assert {s["status"] for s in done.steps()} <= {"done", "cached"}

    assert set(done.warnings()) - {FEW} == set(expected.warnings)
    before, pruned = done.report["original"], done.step(None, "prune")
    assert pruned["macs"] <= expected.macs * before["macs"]
    assert pruned["notes"]["zero_mask_max_error"] < 1e-3
    assert set(expected.frozen) <= set(pruned["notes"]["frozen"])
    for branch, (quantized, total) in (("x86", expected.x86), ("rtx", expected.rtx)):
        step = done.step(branch, "quantize")
        assert (step["notes"]["quantized"], step["notes"]["total"]) == (quantized, total)
        assert len(step["notes"]["excluded"]) == total - quantized
        assert all(reason for _, reason in step["notes"]["excluded"])
        assert (step["size_bytes"] < pruned["size_bytes"]) == (quantized > 0)
    engine = done.step("rtx", "build-tensorrt")
    assert set(engine["notes"]["parser_warnings"]) <= set(expected.parser)
    assert (done.out / engine["path"] / "model.engine").stat().st_size == engine["notes"][
        "size_bytes"
    ]

    for batch in (1, 3):
        for branch in ("x86", "rtx"):
            path = done.out / done.step(branch, "quantize")["path"] / "model.onnx"
            feeds = feeds_of(path, batch, {"h": 4, "w": 5} if name == "dynamic-size" else None)
            feeds = {k: v.repeat(1, 0) for k, v in feeds.items()}
            for value in done.answers(branch, "quantize", feeds):
                assert value.shape[0] == batch
                assert np.isfinite(value).all()


def test_a_transformer_that_pads_with_zero(tmp_path):
    done = run(
        replace(
            ZOO["transformer"],
            model=n.TRANSFORMER.replace("PADDING = 49", "PADDING = 0"),
            data=n.WORDS.replace("PADDING = 49", "PADDING = 0"),
            loss=None,
            passes=(PRUNE,),
        ).write(tmp_path),
        "--branch",
        "x86",
    )
    assert "nan" not in done.stderr
    assert done.code == 0, done.stderr


def test_an_autoencoder_is_judged_by_its_reconstruction_error(tmp_path):
    project = replace(ZOO["anomaly"], factory="build_autoencoder", task="{kind: anomaly}")
    done = run(project.write(tmp_path))
    assert "needs one score a sample" not in done.stderr
    assert done.code == 0, done.stderr


def test_a_second_run_makes_nothing_again(tmp_path):
    project = replace(ZOO["table"], bench="off")
    folder = project.write(tmp_path)
    assert run(folder).code == 0
    again = run(folder)
    assert again.code == 0
    assert {s["status"] for s in again.steps()} == {"cached"}


def test_a_table_with_raw_columns_is_stopped_by_the_gate(tmp_path):
    """One scale for thirteen columns drowns the small ones: the report says so, the gate holds."""
    project = replace(
        ZOO["table"], section=f"{{{WINE}}}", gates="{accuracy_drop: {budget: 0, on: value}}"
    )
    done = run(project.write(tmp_path))
    assert done.code == 5, done.stderr
    assert "accuracy_drop of quantize" in done.stderr
    assert any("most of it is noise" in w for w in done.warnings())


def test_recurrent_layers_stop_a_budget_that_they_do_not_leave(tmp_path):
    done = run(replace(ZOO["audio-gru"], loss=None, passes=(PRUNE,)).write(tmp_path))
    assert done.code == 2
    assert "budget of macs=0.5 cannot be met" in done.stderr
    assert "Ask for macs of at least 0.5" in done.stderr


LEGACY = """\
import sys, warnings
import torch
import model

warnings.simplefilter("ignore")
network = model.build().eval()
if sys.argv[1] == "trained":
    from safetensors.torch import load_file
    network.load_state_dict(load_file("weights.safetensors"))
torch.onnx.export(
    network, (torch.randn(2, 1, 16, 16),), "net.onnx", dynamo=False, opset_version=14,
    do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
    input_names=["image"], output_names=["logits"],
    dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
)
"""

PLAIN = """\
name: plain
model: net.onnx
branches:
  - name: x86
    target: x86-avx2
    bench: quick
    passes: [{kind: export-onnx}]
"""

WITH_DATA = """\
name: plain
model: net.onnx
data: {python: "data.py:load", split: {calibration: 64, evaluation: 0.3}}
branches:
  - name: x86
    target: x86-avx2
    bench: off
    passes: [{kind: export-onnx}, {kind: quantize, guard: false}]
    gates: {accuracy_drop: {budget: 0.03, on: value}, size_ratio: 3}
  - name: rtx
    target: rtx
    bench: off
    passes: [{kind: export-onnx}, {kind: quantize, guard: false}, {kind: build-tensorrt}]
"""


def onnx_project(folder, recipe, *, trained):
    import subprocess
    import sys

    project = replace(ZOO["resnet"], loss="classes" if trained else None)
    project.write(folder)
    (folder / "export.py").write_text(LEGACY)
    command = [sys.executable, "export.py", "trained" if trained else "as-built"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "recipe.yaml").write_text(recipe)
    return folder


def test_a_plain_onnx_file_without_data_is_cleaned_and_measured(tmp_path):
    done = run(onnx_project(tmp_path, PLAIN, trained=False))
    assert done.code == 0, done.stderr
    step = done.step("x86", "export-onnx")
    assert step["latency_p50_ms"]["value"] > 0
    assert step["speedup"]["value"] > 0
    cleaned = onnx.load(done.out / step["path"] / "model.onnx")
    assert "BatchNormalization" not in {node.op_type for node in cleaned.graph.node}
    assert [o.name for o in cleaned.graph.output] == ["logits"]


def test_a_plain_onnx_file_is_quantized_with_data(tmp_path):
    done = run(onnx_project(tmp_path, WITH_DATA, trained=True))
    assert done.code == 0, done.stderr
    assert set(done.warnings()) <= {FEW}
    assert done.step("x86", "quantize")["notes"]["quantized"] == 11
    assert done.step("rtx", "build-tensorrt")["notes"]["parser_warnings"] == []
    assert done.step("x86", "quantize")["changes"]["agreement"]["value"] > 0.95
