"""Pruning and distilling in cycles, as one recipe: each starts from what the last one left."""

import json
import textwrap

from edgekit.pipeline import run_recipe
from tests.cli import project

CYCLES = """\
name: cycles
model: {python: "model.py:build"}
data: {python: "data.py:load", split: {calibration: 30, evaluation: 90}}
passes:
  - {kind: prune, name: prune-1, parameters: 0.6, multiple: 1}
  - {kind: distill, name: distill-1, epochs: 4, label_weight: 0, learning_rate: 0.01}
  - {kind: prune, name: prune-2, parameters: 0.6, multiple: 1}
  - {kind: distill, name: distill-2, epochs: 4, label_weight: 0, learning_rate: 0.01}
branches:
  - {name: x86, target: x86-avx2, bench: "off", passes: [{kind: export-onnx}]}
"""


def test_two_cycles_shrink_twice_and_the_second_teacher_asks_nothing_new(tmp_path) -> None:
    folder = project.write(tmp_path / "project", recipe=textwrap.dedent(CYCLES))
    out = tmp_path / "run"
    run_recipe(folder, out, threads=1)
    steps = ["00-original", "01-prune-1", "02-distill-1", "03-prune-2", "04-distill-2"]
    made = [json.loads((out / step / "manifest.json").read_text()) for step in steps]
    parents = [m["artifact"]["parents"] for m in made]
    hashes = [m["artifact"]["content_hash"] for m in made]
    assert all(parent == [before] for parent, before in zip(parents[1:], hashes, strict=False))
    assert [made[i]["notes"]["teacher"] for i in (2, 4)] == [hashes[0]] * 2
    for i in (2, 4):
        losses = [e["loss"] for e in made[i]["notes"]["history"]["epochs"]]
        assert losses[-1] < losses[0]
    # Both cycles learn from the original on the same samples: it answered once.
    assert len(list((out / ".cache" / "teacher").iterdir())) == 1
