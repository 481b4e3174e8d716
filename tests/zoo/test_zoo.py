"""Networks of the kinds that people have, whole, through the installed command."""

from pathlib import Path

import pytest

from tests.zoo import networks as n
from tests.zoo.projects import DISTIL, PRUNE, Project, Run, run

pytestmark = pytest.mark.zoo

PRUNE_LESS = "{kind: prune, macs: 0.7, multiple: 8}"


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


ZOO = {
    "mobilenet": Project(n.MOBILENET, n.IMAGES_8, bench="quick"),
    "resnet": Project(n.RESNET, n.IMAGES_16),
    "audio-gru": Project(n.AUDIO, n.SOUND, epochs=6, passes=(PRUNE_LESS, DISTIL)),
    "audio-lstm": Project(
        n.AUDIO, n.SOUND, factory="build_lstm", epochs=6, passes=(PRUNE_LESS, DISTIL)
    ),
    "transformer": Project(n.TRANSFORMER, n.WORDS, epochs=6, quantize="transformer: true"),
    "autoencoder": Project(
        n.AUTOENCODER,
        n.IMAGES_ALONE,
        task="{kind: reconstruction}",
        loss="input",
    ),
    "generator": Project(
        n.GENERATOR,
        n.LATENTS,
        task="{kind: none}",
        loss=None,
        passes=(PRUNE, "{kind: distill, epochs: 4, label_weight: 0}"),
        gates="{}",
    ),
    "unet": Project(n.UNET, n.SCENES, task="{kind: segmentation}", epochs=12),
    "anomaly": Project(
        n.ANOMALY,
        n.READINGS,
        task="{kind: anomaly, output: score}",
        loss="input",
        epochs=10,
        passes=(PRUNE, "{kind: distill, epochs: 5, label_weight: 0, learning_rate: 2.0e-3}"),
        gates="{accuracy_drop: {budget: 0.05, on: value}}",
    ),
    "table": Project(
        n.TABLE_MLP,
        section="{csv: wine.csv, target: cultivar, split: {calibration: 32, evaluation: 0.3}}",
        epochs=20,
        inputs="{input: {shape: [batch, 13]}}",
        files={"wine.csv": wine()},
    ),
    "two-inputs": Project(
        n.TWO_INPUTS, n.TWO_INPUTS_DATA, task="{kind: classification, output: logits}"
    ),
    "detector": Project(
        n.DETECTOR,
        n.IMAGES_16,
        task="{kind: none}",
        loss=None,
        passes=(PRUNE, "{kind: distill, epochs: 2, label_weight: 0}"),
        gates="{}",
    ),
    "dynamic-size": Project(
        n.DYNAMIC,
        n.IMAGES_16,
        inputs='{image: {shape: [batch, 1, "8*h", "8*w"]}}',
        shapes="{image: [[1, 1, 16, 16], [1, 1, 16, 16], [4, 1, 64, 64]]}",
        bench="quick",
    ),
    "tied": Project(n.TIED, n.NEXT_TOKEN, epochs=12),
}
