"""Each loss of the recipe is the loss of that name, and refuses what it cannot compare."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from edgekit.distill import dense_losses, losses
from edgekit.distill.config import DistillConfig
from edgekit.distill.distill import distill
from edgekit.errors import UsageError
from edgekit.metrics import Task

CLASSES, NONE = Task(kind="classification"), Task(kind="none")


class Tokens(nn.Module):
    """Class logits of each token, (n, tokens, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 5)

    def forward(self, x, mask):
        return {"logits": self.last(x) + 0 * mask.unsqueeze(-1)}


class Maps(nn.Module):
    """Class maps, or a detector's heads."""

    def __init__(self, heads: bool = False, classes: int = 4) -> None:
        super().__init__()
        self.scores, self.boxes = nn.Conv2d(1, classes, 1), nn.Conv2d(1, 8, 1)
        self.heads = heads

    def forward(self, x):
        scores = {"scores": self.scores(x)}
        return {**scores, "boxes": self.boxes(x)} if self.heads else scores


class Flat(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.last = nn.Linear(2, classes)

    def forward(self, x):
        return {"logits": self.last(x)}


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def first_loss(student, teacher, data, task, **options) -> float:
    """The loss of the untrained student over all samples."""
    config = DistillConfig(**{"epochs": 1, "batch_size": 64, "label_weight": 0, **options})
    return distill(student, teacher, data, task, config, seed=0, threads=1)[1].epochs[0].loss


def outputs(net, *inputs) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(net.module()(*map(torch.from_numpy, inputs)))


LABELS = np.arange(24) % 3


def dkd_of_the_teachers_classes(s, t):
    return losses.decoupled_kd(s, t, t.argmax(1), 1.0)


def dkd_of_the_labels(s, t):
    return losses.decoupled_kd(s, t, torch.from_numpy(LABELS), 2.0, alpha=0.5, beta=3.0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda s, t: losses.kd(s, t, 1.0)),
        ({"loss": "kd", "temperature": 2.0}, lambda s, t: losses.kd(s, t, 2.0)),
        ({"loss": "dist"}, lambda s, t: losses.dist(s, t, 1.0)),
        ({"loss": "dkd"}, dkd_of_the_teachers_classes),
        ({"loss": "mean-squared-error"}, lambda s, t: (s - t).square().mean()),
    ],
)
def test_losses_of_classes(program, dataset, options, expected) -> None:
    student, teacher, x = program(Flat(), 2), program(Flat(), 2), draw(24, 2)
    (s,), (t,) = outputs(student, x), outputs(teacher, x)
    found = first_loss(student, teacher, dataset(x), CLASSES, **options)
    assert found == pytest.approx(float(expected(s, t)), rel=1e-4)


def test_nothing_to_learn_from_is_refused(program, dataset) -> None:
    student = program(Flat(), 2)
    with pytest.raises(UsageError, match="nothing to learn"):
        first_loss(student, student, dataset(draw(8, 2)), CLASSES, loss="none")


def test_decoupled_kd_takes_the_labels_where_they_weigh(program, dataset) -> None:
    student, teacher, x = program(Flat(), 2), program(Flat(), 2), draw(24, 2)
    (s,), (t,) = outputs(student, x), outputs(teacher, x)
    options = {"loss": "dkd", "temperature": 2.0, "alpha": 0.5, "beta": 3.0, "label_weight": 0.25}
    found = first_loss(student, teacher, dataset(x, LABELS), CLASSES, **options)
    own = nn.functional.cross_entropy(s, torch.from_numpy(LABELS))
    expected = 0.75 * dkd_of_the_labels(s, t) + 0.25 * own
    assert found == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("loss", ["kd", "dist", "dkd"])
def test_one_column_holds_two_classes(program, dataset, loss) -> None:
    student, teacher, x = program(Flat(1), 2), program(Flat(1), 2), draw(24, 2)
    both = [
        torch.cat([torch.zeros(24, 1), net[0]], 1)
        for net in (outputs(student, x), outputs(teacher, x))
    ]
    expected = {
        "kd": lambda: losses.kd(*both, 1.0),
        "dist": lambda: losses.dist(*both, 1.0),
        "dkd": lambda: dkd_of_the_teachers_classes(*both),
    }[loss]()
    found = first_loss(student, teacher, dataset(x), CLASSES, loss=loss)
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_tokens_with_their_mask(program, dataset) -> None:
    x, mask = draw(12, 6, 3), (np.arange(6) < np.arange(12)[:, None] % 6 + 1).astype(np.float32)
    example = {"x": torch.randn(4, 6, 3), "mask": torch.ones(4, 6)}
    student, teacher = (program(Tokens(), example=example) for _ in range(2))
    (s,), (t,) = outputs(student, x, mask), outputs(teacher, x, mask)
    data = dataset({"x": x, "mask": mask})
    found = first_loss(student, teacher, data, NONE, loss="token-kd", mask="mask")
    assert found == pytest.approx(
        float(losses.token_kd(s, t, torch.from_numpy(mask), 1.0)), rel=1e-4
    )
    with pytest.raises(UsageError, match=r"mask: padding.*no such input") as e:
        first_loss(student, teacher, data, NONE, loss="token-kd", mask="padding")
    assert "x, mask" in e.value.hint


def test_class_maps_by_channels(program, dataset) -> None:
    x = draw(6, 1, 5, 5)
    student, teacher = (program(Maps(), 1, 5, 5) for _ in range(2))
    (s,), (t,) = outputs(student, x), outputs(teacher, x)
    task = Task(kind="segmentation")
    found = first_loss(student, teacher, dataset(x), task, loss="channel-kd")
    assert found == pytest.approx(float(dense_losses.channel_kd(s, t, 1.0)), rel=1e-4)


@pytest.mark.parametrize("softmax", [False, True])
def test_raw_heads_of_a_detector(program, dataset, softmax) -> None:
    x = draw(6, 1, 5, 5)
    student, teacher = (program(Maps(heads=True), 1, 5, 5) for _ in range(2))
    s = dense_losses.as_anchors(*outputs(student, x))
    t = dense_losses.as_anchors(*outputs(teacher, x))
    places = dense_losses.objectness(t[0], softmax=softmax)
    expected = dense_losses.scores_kd(s[0], t[0], places, softmax=softmax)
    expected += 0.5 * dense_losses.boxes_kd(s[1], t[1], places)
    heads = {"scores": "scores", "boxes": "boxes", "softmax": softmax, "boxes_weight": 0.5}
    found = first_loss(student, teacher, dataset(x), NONE, loss="detection", heads=heads)
    assert found == pytest.approx(float(expected), rel=1e-4)
    heads["boxes"] = "corners"
    with pytest.raises(UsageError, match=r"heads: boxes: corners.*no such output"):
        first_loss(student, teacher, dataset(x), NONE, loss="detection", heads=heads)


@pytest.mark.parametrize("loss", ["kd", "dist", "dkd", "token-kd", "channel-kd"])
def test_a_loss_of_classes_for_numbers_is_refused(program, dataset, loss) -> None:
    student, x = program(Flat(), 2), draw(8, 2)
    with pytest.raises(UsageError, match=f"loss: {loss}.*task is regression"):
        first_loss(student, student, dataset(x), Task(kind="regression"), loss=loss)


@pytest.mark.parametrize("loss", ["token-kd", "channel-kd"])
def test_outputs_of_another_rank_are_refused(program, dataset, loss) -> None:
    student, x = program(Flat(), 2), draw(8, 2)
    with pytest.raises(UsageError, match=rf"loss: {loss}.*needs an output .*\[batch, 3\]"):
        first_loss(student, student, dataset(x), CLASSES, loss=loss)


def test_class_counts_that_differ_are_named(program, dataset) -> None:
    with pytest.raises(UsageError, match="3 classes and 5"):
        first_loss(program(Flat(3), 2), program(Flat(5), 2), dataset(draw(8, 2)), CLASSES)


def test_one_sample_has_no_correlation_over_samples(program, dataset) -> None:
    student = program(Flat(), 2)
    with pytest.raises(UsageError, match="needs 2, and a batch has 1"):
        first_loss(student, student, dataset(draw(8, 2)), CLASSES, loss="dist", batch_size=1)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "detection"},
        {"heads": {"scores": "a", "boxes": "b"}},
        {"loss": "kd", "mask": "m"},
        {"loss": "hinton"},
    ],
)
def test_fields_that_do_not_go_together(options) -> None:
    with pytest.raises(ValidationError):
        DistillConfig(**options)
