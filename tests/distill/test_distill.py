"""A student learns its teacher's answers, with and without labels."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from edgekit.distill.config import DistillConfig
from edgekit.distill.distill import distill
from edgekit.errors import UsageError
from edgekit.metrics import Task
from edgekit.train.config import TrainConfig
from edgekit.train.trainer import train

CLASSES = Task(kind="classification")
LONG = {"epochs": 80, "batch_size": 50, "learning_rate": 0.03}


def run(student, teacher, data, task=CLASSES, *, config=None, **options):
    config = DistillConfig(**{"epochs": 1, "batch_size": 16, **(config or {}), **options})
    return distill(student, teacher, data, task, config, seed=0, threads=1)[:2]


def states(program):
    return program.exported.state_dict


def same(a, b) -> bool:
    return all(torch.equal(states(a)[k], states(b)[k]) for k in states(a))


@pytest.fixture
def teacher(program, mlp, two_moons):
    config = TrainConfig(**LONG)
    return train(program(mlp(hidden=32), 2), two_moons, CLASSES, config, seed=1)[0]


def agreement(a, b, data) -> float:
    x = torch.from_numpy(next(data.batches("train", len(data))).inputs["x"])
    with torch.no_grad():
        return float((a.module()(x)[0].argmax(1) == b.module()(x)[0].argmax(1)).float().mean())


def test_learns_from_the_teacher_alone(program, mlp, two_moons, teacher, dataset) -> None:
    x = next(two_moons.batches("train", 200)).inputs["x"]
    unlabelled = dataset(x)
    student = program(mlp(hidden=24), 2)
    before = {k: v.clone() for k, v in states(teacher).items()}
    after, history = run(student, teacher, unlabelled, label_weight=0, config=LONG)
    assert agreement(student, teacher, two_moons) < 0.9
    assert agreement(after, teacher, two_moons) > 0.97
    assert history.epochs[-1].accuracy is None
    assert all(torch.equal(before[k], v) for k, v in states(teacher).items())


def test_labels_are_needed_where_they_weigh(program, mlp, teacher, dataset) -> None:
    data = dataset(np.ones((8, 2), np.float32))
    for task, said in ((CLASSES, "no targets"), (Task(kind="none"), "has no labels")):
        with pytest.raises(UsageError, match=f"{said}, and .* weight of 0.1") as caught:
            run(program(mlp(), 2), teacher, data, task=task, label_weight=0.1)
        assert "label_weight: 0" in caught.value.hint


def test_label_weight_one_is_plain_training(program, mlp, two_moons, teacher) -> None:
    student = program(mlp(), 2)
    distilled, _ = run(student, teacher, two_moons, label_weight=1)
    config = TrainConfig(epochs=1, batch_size=16)
    trained, _ = train(student, two_moons, CLASSES, config, seed=0, threads=1)
    assert same(distilled, trained)


def test_losses_are_mixed_by_their_weights(program, mlp, two_moons, teacher) -> None:
    student = program(mlp(), 2)
    config = {"batch_size": 200}  # one step: the loss of the untrained student
    first = {
        weight: run(student, teacher, two_moons, label_weight=weight, config=config)[1]
        .epochs[0]
        .loss
        for weight in (0.0, 0.25, 1.0)
    }
    expected = 0.75 * first[0.0] + 0.25 * first[1.0]
    assert first[0.25] == pytest.approx(expected, rel=1e-5)
    assert first[0.0] != pytest.approx(first[1.0], rel=1e-2)


@pytest.mark.parametrize(
    "options", [{"label_weight": -0.1}, {"label_weight": 1.5}, {"temperature": 0}]
)
def test_options_out_of_range(program, mlp, two_moons, teacher, options) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        run(program(mlp(), 2), teacher, two_moons, **options)


def test_reproducible_and_the_same_with_kept_answers(
    program, mlp, two_moons, teacher, monkeypatch
) -> None:
    student = program(mlp(), 2)
    first, one = run(student, teacher, two_moons, config={"epochs": 2})
    second, _ = run(student, teacher, two_moons, config={"epochs": 2})
    assert same(first, second)
    monkeypatch.setattr("edgekit.train.teacher.Teacher.remember", lambda *_, **__: None)
    asked, two = run(student, teacher, two_moons, config={"epochs": 2})
    assert one.epochs[-1].loss == pytest.approx(two.epochs[-1].loss, rel=1e-4)
    for key, value in states(first).items():
        torch.testing.assert_close(states(asked)[key], value, rtol=1e-3, atol=1e-4)


class Image(nn.Module):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, outputs, 3)

    def forward(self, x):
        return {"logits": self.conv(x).mean((2, 3))}


def test_a_shifted_image_is_shown_to_the_teacher_too(program, dataset, monkeypatch) -> None:
    seen = []
    from edgekit.train.teacher import Teacher

    answer = Teacher.answer

    def spy(self, places, batch):
        found = answer(self, places, batch)
        seen.append((batch.inputs[0], found["logits"]))
        return found

    monkeypatch.setattr(Teacher, "answer", spy)
    x = np.random.default_rng(0).normal(size=(32, 1, 8, 8)).astype(np.float32)
    teacher = program(Image(), 1, 8, 8)
    config = {"epochs": 2, "augment": "shift"}
    run(program(Image(), 1, 8, 8), teacher, dataset(x), label_weight=0, config=config)
    module = teacher.module()
    assert len(seen) == 4
    for inputs, answers in seen:
        torch.testing.assert_close(answers, module(inputs)[0], rtol=1e-4, atol=1e-5)


def test_a_teacher_with_a_fixed_batch(program, dataset) -> None:
    x = np.random.default_rng(0).normal(size=(21, 1, 8, 8)).astype(np.float32)
    torch.manual_seed(3)
    net = Image()
    student = program(Image(), 1, 8, 8)
    results = []
    for batch in ("batch", 4):
        for augment in ("none", "shift"):
            config = {"epochs": 2, "augment": augment}
            teacher = program(net, 1, 8, 8, batch=batch)
            _, h = run(student, teacher, dataset(x), label_weight=0, config=config)
            results.append(h.epochs[-1].loss)
    assert results[:2] == pytest.approx(results[2:], rel=1e-4)


class Regressor(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, hidden), nn.Linear(hidden, 2)
        self.side = nn.Linear(hidden, 4)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return {"y": self.last(h), "side": self.side(h)}


@pytest.mark.parametrize("kind", ["regression", "reconstruction", "none"])
def test_numbers_are_distilled_and_other_outputs_follow(program, dataset, kind) -> None:
    x = np.random.default_rng(0).normal(size=(128, 3)).astype(np.float32)
    student, teacher = program(Regressor(32), 3), program(Regressor(8), 3)
    config = {"epochs": 60, "learning_rate": 0.02}
    after, _ = run(student, teacher, dataset(x), Task(kind=kind), label_weight=0, config=config)
    with torch.no_grad():
        ours, theirs = (net.module()(torch.from_numpy(x)) for net in (after, teacher))
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).square().mean() / b.square().mean()) < 0.05


def test_teachers_that_answer_something_else(program, mlp, two_moons, teacher) -> None:
    class Named(mlp):
        def forward(self, x):
            return {"other": super().forward(x)["logits"]}

    with pytest.raises(UsageError, match=r"logits: .* the teacher's other: "):
        run(program(mlp(), 2), program(Named(), 2), two_moons)
    with pytest.raises(
        UsageError, match=r"\[batch, 3\], the teacher.s logits: float32\[batch, 2\]"
    ):
        run(program(mlp(outputs=3), 2), teacher, two_moons)


def test_teachers_that_take_something_else(program, two_moons) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(2, 2)

        def forward(self, x, z):
            return {"logits": self.last(x + z)}

    class One(Two):
        def forward(self, x):
            return {"logits": self.last(x)}

    both = program(Two(), example={"x": torch.randn(4, 2), "z": torch.randn(4, 2)})
    with pytest.raises(UsageError, match=r"teacher takes z, the student x"):
        run(program(One(), 2), both, two_moons)
