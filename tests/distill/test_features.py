"""Layers learn from layers; what is learned to compare them is thrown away."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.distill import feature_losses
from edgekit.distill.config import DistillConfig, FeatureConfig
from edgekit.distill.distill import distill
from edgekit.distill.features import Features, same_positions, tap
from edgekit.errors import UsageError
from edgekit.graph.taps import add_outputs, features
from edgekit.metrics import Task

NONE = Task(kind="none")
KINDS = ["hint", "attention", "relation-distance", "relation-angle", "contrast", "matching"]


class Net(nn.Module):
    def __init__(self, width: int, stride: int = 1, batch_norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, stride, 1)
        self.norm = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.last = nn.Linear(width, 3)

    def forward(self, x):
        return {"logits": self.last(torch.relu(self.norm(self.conv(x))).mean((2, 3)))}


X = np.random.default_rng(0).normal(size=(24, 1, 8, 8)).astype(np.float32)


@pytest.fixture
def net(program):
    return lambda *args, **options: program(Net(*args, **options), 1, 8, 8)


def inside(program, name: str, x=X) -> torch.Tensor:
    module = program.module()
    add_outputs(module, [features(program)[name].node])
    with torch.no_grad():
        return module(torch.from_numpy(x))[-1]


def run(student, teacher, data, **options):
    config = {"epochs": 1, "batch_size": 24, "loss": "none", "label_weight": 0, **options}
    return distill(student, teacher, data, NONE, DistillConfig(**config), seed=0, threads=1)


def test_the_first_loss_is_that_of_the_untrained_features(net, dataset) -> None:
    student, teacher = net(4, batch_norm=False), net(4, batch_norm=False)
    s, t = inside(student, "conv"), inside(teacher, "conv")
    for kind, expected in {
        "hint": feature_losses.hint(s, t),  # of equal widths, its regressor is the identity
        "matching": feature_losses.feature_matching(s, t),
        "attention": feature_losses.attention_transfer(s, t),
        "relation-distance": feature_losses.relation_distance(s, t),
        "relation-angle": feature_losses.relation_angle(s, t),
    }.items():
        features = [{"loss": kind, "layers": ["conv"], "weight": 2.5}]
        _, history, pairs = run(student, teacher, dataset(X), features=features)
        assert history.epochs[0].loss == pytest.approx(2.5 * float(expected), rel=1e-4)
        assert pairs == [{"loss": kind, "student": "conv (4, 8, 8)", "teacher": "conv (4, 8, 8)"}]


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_other_widths_come_near(net, dataset, kind) -> None:
    student, teacher = net(4), net(6)
    features = [{"loss": kind, "layers": ["norm"]}]
    options = {"epochs": 12, "batch_size": 12, "learning_rate": 0.02, "features": features}
    after, history, _ = run(student, teacher, dataset(X), **options)
    assert history.epochs[-1].loss < 0.9 * history.epochs[0].loss
    assert after.outputs == student.outputs
    before = student.exported.state_dict
    assert {k: v.shape for k, v in after.exported.state_dict.items()} == {
        k: v.shape for k, v in before.items()
    }
    assert not torch.equal(after.exported.state_dict["conv.weight"], before["conv.weight"])


def test_features_answers_and_labels_are_summed(net, dataset) -> None:
    student, teacher = net(4), net(6)
    labels = np.arange(24) % 3
    features = [{"loss": "relation-distance", "layers": ["conv"], "weight": 3.0}]
    task = Task(kind="classification")

    def first(**options):
        config = DistillConfig(**{"epochs": 1, "batch_size": 24, **options})
        found = distill(student, teacher, dataset(X, labels), task, config, seed=0, threads=1)
        return found[1].epochs[0].loss

    apart = first(label_weight=0.3) + first(loss="none", label_weight=0, features=features)
    assert first(label_weight=0.3, features=features) == pytest.approx(apart, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"loss": "relation-distance"}, [1, 1, 1, 1]),
        ({"loss": "relation-distance", "fade": 1}, [1, 0.75, 0.5, 0.25]),
        ({"loss": "hint"}, [1, 0.5, 0, 0]),
        ({"loss": "hint", "fade": 0}, [1, 1, 1, 1]),
    ],
)
def test_a_weight_fades_in_a_straight_line(net, dataset, options, shares) -> None:
    still = {"epochs": 4, "optimizer": "sgd", "learning_rate": 1e-9}
    _, history, _ = run(
        net(4), net(6), dataset(X), **still, features=[{"layers": ["conv"], **options}]
    )
    losses = [epoch.loss for epoch in history.epochs]
    assert losses[0] > 0
    assert losses == pytest.approx([losses[0] * share for share in shares], rel=1e-3)


def test_the_same_seed_gives_the_same_student(net, dataset) -> None:
    student, teacher = net(4), net(6)
    options = {"features": [{"loss": "contrast"}, {"loss": "hint"}]}
    first, *_ = run(student, teacher, dataset(X), **options)
    second, *_ = run(student, teacher, dataset(X), **options)
    for name, value in first.exported.state_dict.items():
        assert torch.equal(value, second.exported.state_dict[name])


def test_the_finer_feature_is_averaged_to_the_coarser(net) -> None:
    a, b = torch.arange(16.0).reshape(1, 1, 4, 4), torch.zeros(1, 2, 2, 4)
    pooled, same = same_positions(a, b)
    assert torch.equal(pooled[0, 0], (a[0, 0, ::2] + a[0, 0, 1::2]) / 2)
    assert same is b
    student, teacher = net(4, 2), net(4)
    term = Features([FeatureConfig(loss="attention", layers=("conv",))], student, teacher, 0)
    s, t = inside(student, "conv"), inside(teacher, "conv")
    found = term({tap("conv2d"): s}, {tap("conv2d"): t})
    expected = feature_losses.attention_transfer(s, nn.functional.avg_pool2d(t, 2))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "least"), [("relation-angle", 3), ("contrast", 2)])
def test_too_few_samples_in_a_batch(net, dataset, kind, least) -> None:
    features = [{"loss": kind, "layers": ["conv"]}]
    student = net(4, batch_norm=False)
    with pytest.raises(UsageError, match=f"needs {least}, and a batch has {least - 1}"):
        run(student, net(6), dataset(X), batch_size=least - 1, features=features)
    _, history, _ = run(student, net(6), dataset(X[:7]), batch_size=least, features=features)
    assert history.batches == 7 // least  # the last batch would have been too small


def test_layers_that_a_loss_cannot_compare(net, program, dataset) -> None:
    class Pooled(Net):
        def forward(self, x):
            return {"logits": self.last(self.conv(x.mean((2, 3), keepdim=True)).flatten(1))}

    pair = [{"student": "mean", "teacher": "mean"}]
    with pytest.raises(UsageError, match=r"`attention` compares positions, and mean \(4\)"):
        run(net(4), net(6), dataset(X), features=[{"loss": "attention", "layers": pair}])
    pair = [{"student": "mean", "teacher": "conv"}]
    with pytest.raises(UsageError, match=r"`hint` cannot compare mean \(4\) with conv \(6, 8, 8\)"):
        run(net(4), net(6), dataset(X), features=[{"loss": "hint", "layers": pair}])
