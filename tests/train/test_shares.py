"""Training on shares of the data: what is drawn, for how long it is trained, what is reported."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from edgekit.errors import UsageError
from edgekit.metrics import Task
from edgekit.passes.base import Context
from edgekit.passes.capture import save_program
from edgekit.passes.distill import Distill
from edgekit.passes.fine_tune import FineTune
from edgekit.report.learning import learning


@pytest.fixture
def blobs(dataset):
    """Three classes side by side, a tenth of the samples of the third."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(3), (200, 180, 20)).astype(np.int64)
    x = np.stack([label * 2.0, -label], axis=1) + rng.normal(0, 0.6, (400, 2))
    return dataset(x.astype(np.float32), label, evaluation=0.5)


def test_a_part_is_drawn_by_the_seed_with_the_classes_in_proportion(blobs) -> None:
    small, large = blobs.part(0.1, 3), blobs.part(0.5, 3)
    assert small.count("train") == 20
    assert set(small.splits["train"]) < set(large.splits["train"]) < set(blobs.splits["train"])
    assert np.bincount(blobs.targets[large.splits["train"]]).tolist() == [50, 45, 5]
    np.testing.assert_array_equal(small.splits["evaluation"], blobs.splits["evaluation"])
    np.testing.assert_array_equal(small.splits["train"], blobs.part(0.1, 3).splits["train"])
    assert not np.array_equal(small.splits["train"], blobs.part(0.1, 4).splits["train"])
    assert blobs.count("train") == 200
    with pytest.raises(UsageError, match=r"share of 0.005 of 200 training samples is 1"):
        blobs.part(0.005, 0)


@pytest.fixture
def run(program, mlp, tmp_path):
    folder, out = tmp_path / "start", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    first = Context(out=folder, seed=0, task=Task())
    start = save_program(program(mlp(outputs=3), 2), first, made_by="capture")

    def step(cls, data, task=None, **fields):
        options = {"seed": 0, "task": task or Task(), "data": data}
        context = Context(out=out, original=start, cache=tmp_path / "cache", **options)
        made = cls(batch_size=16, learning_rate=0.01, **fields).run(start, context)
        return context.notes, made.content_hash

    return step


def test_each_share_takes_as_many_steps_and_the_whole_is_the_result(run, blobs) -> None:
    notes, found = run(FineTune, blobs, epochs=2, data_shares=[0.25, 0.02])
    rows = notes["data_shares"]["rows"]
    assert [(r["share"], r["samples"]) for r in rows] == [(0.02, 4), (0.25, 50), (1.0, 200)]
    assert [r["epochs"] for r in rows] == [26, 6, 2]  # of 1, 4 and 13 steps
    assert all(r["metric"] == "accuracy" and r["low"] <= r["value"] <= r["high"] for r in rows)
    assert rows[0]["value"] < rows[2]["value"]
    plain, alone = run(FineTune, blobs, epochs=2)
    assert found == alone
    assert plain["history"]["epochs"][-1]["loss"] == notes["history"]["epochs"][-1]["loss"]
    assert "data_shares" not in plain


def test_a_network_with_a_batch_of_its_own_takes_as_many_steps_with_each_share(
    program, mlp, blobs, tmp_path
) -> None:
    options = {"seed": 0, "task": Task(), "data": blobs}
    start = save_program(
        program(mlp(outputs=3), 2, batch=2), Context(out=tmp_path, **options), made_by="capture"
    )
    (tmp_path / "out").mkdir()
    context = Context(out=tmp_path / "out", original=start, cache=tmp_path / "cache", **options)
    FineTune(batch_size=64, epochs=1, data_shares=(0.1,)).run(start, context)
    rows = context.notes["data_shares"]["rows"]
    assert [r["epochs"] for r in rows] == [10, 1]  # of 10 and 100 steps of two samples


def test_an_interrupted_run_goes_on_with_the_share_it_was_in(
    run, blobs, dataset, monkeypatch, tmp_path
) -> None:
    settings = {"epochs": 2, "data_shares": [0.02, 0.25, 0.5]}
    wanted, network = run(FineTune, blobs, **settings)
    plain, steps, last = torch.optim.AdamW.step, 0, 26 + 10  # the second share's tenth step

    def counted(self, *args, **kwargs):
        nonlocal steps
        if steps == last:
            raise KeyboardInterrupt
        steps += 1
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    monkeypatch.setattr("edgekit.train.checkpoint.EVERY_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(FineTune, blobs, **settings)
    other = dataset(np.zeros((400, 2), np.float32), blobs.targets, evaluation=0.5)
    with pytest.raises(UsageError, match="has changed since training was interrupted"):
        run(FineTune, other, **settings)
    steps, last = 0, None
    found, again = run(FineTune, blobs, **settings)
    assert steps == 26 + 6 * 4 + 4 * 7 + 26 - 36
    assert again == network
    assert found["data_shares"] == wanted["data_shares"]
    assert not list((tmp_path / "cache" / "training").iterdir())
    steps = 0
    run(FineTune, blobs, **settings)
    assert steps == 26 + 6 * 4 + 4 * 7 + 26  # nothing is left of the run before


def test_a_student_is_trained_on_shares_too_and_the_report_says_what_was_enough(run, blobs) -> None:
    notes, _ = run(Distill, blobs, epochs=2, label_weight=1, loss="none", data_shares=[0.5])
    found = notes["data_shares"]
    (half, whole) = found["rows"]
    assert found["enough"] == (0.5 if half["high"] >= whole["value"] else 1.0)
    said = learning(notes).said
    assert said.startswith("Accuracy by share of the training samples, with its 95 % interval: 0.5")
    assert "(100 samples)" in said
    assert said.endswith("was enough.")


def test_what_cannot_be_judged_is_refused_before_training(run, blobs, dataset) -> None:
    x = np.zeros((40, 2), np.float32)
    with pytest.raises(UsageError, match="no samples"):
        run(FineTune, dataset(x, np.zeros(40, np.int64)), data_shares=[0.5])
    with pytest.raises(UsageError, match="no targets"):
        run(Distill, dataset(x, evaluation=0.5), label_weight=0, data_shares=[0.5])
    with pytest.raises(UsageError, match="needs a metric"):
        run(Distill, blobs, Task(kind="none"), label_weight=0, data_shares=[0.5])
    with pytest.raises(UsageError, match="too few"):
        run(FineTune, blobs, data_shares=[0.001, 0.5])
    with pytest.raises(ValidationError):
        FineTune(data_shares=[1.5])
