"""Inputs from batch-norm statistics: the distance against NumPy, and what noise becomes."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.data import DataConfig, open_data
from edgekit.distill.config import DistillConfig
from edgekit.distill.distill import distill
from edgekit.distill.synthesis import statistics_distance, synthesize
from edgekit.errors import PassError, UsageError
from edgekit.metrics import Task
from edgekit.pipeline.synthesis import synthesize_data
from edgekit.train.config import TrainConfig
from edgekit.train.trainer import train


def reference(values, mean, variance, eps):
    """The same in NumPy, float64, channel by channel."""
    total = 0.0
    for c in range(values.shape[1]):
        x = values[:, c].astype(np.float64).ravel()
        scale = variance[c] + eps
        total += (x.mean() - mean[c]) ** 2 / scale
        total += (np.sqrt((((x - x.mean()) ** 2).mean() + eps) / scale) - 1) ** 2
    return total / values.shape[1]


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2, 6)])
def test_the_distance_is_the_equation_in_float64(shape) -> None:
    rng = np.random.default_rng(0)
    values, mean = rng.normal(2, 3, shape), rng.normal(size=3)
    variance = rng.uniform(0.1, 4, 3)
    found = statistics_distance(*(torch.from_numpy(a) for a in (values, mean, variance)), 1e-3)
    assert float(found) == pytest.approx(reference(values, mean, variance, 1e-3), rel=1e-12)


def test_its_gradient_is_right_and_it_is_zero_where_the_statistics_are_met() -> None:
    values = torch.randn(6, 3, 2, dtype=torch.float64, requires_grad=True)
    mean, variance = torch.randn(3).double(), torch.rand(3).double() + 0.5
    assert torch.autograd.gradcheck(lambda x: statistics_distance(x, mean, variance, 1e-5), values)
    own = values.detach()
    var, mu = torch.var_mean(own, dim=(0, 2), correction=0)
    assert float(statistics_distance(own, mu, var, 1e-5)) < 1e-28


@pytest.fixture
def trained(program, two_moons, mlp):
    network = program(mlp(), 2)
    done, _ = train(network, two_moons, Task(), TrainConfig(epochs=8, learning_rate=0.02), seed=0)
    return done


def test_noise_takes_on_the_statistics_and_the_classes(trained) -> None:
    found = synthesize(trained, 100, Task(), steps=80, batch_size=50, seed=1)
    assert found.inputs["x"].shape == (100, 2)
    assert found.inputs["x"].dtype == np.float32
    assert found.distance[1] < 0.05 * found.distance[0]
    # What went into the batch norm, computed without it:
    state = {name: t.detach().numpy() for name, t in trained.exported.state_dict.items()}
    seen = found.inputs["x"] @ state["first.weight"].T + state["first.bias"]
    deviation = np.sqrt(state["norm.running_var"])
    off = np.abs(seen.mean(0) - state["norm.running_mean"]) / deviation
    assert off.max() < 0.3
    noise = np.random.default_rng(0).normal(size=(100, 2)) @ state["first.weight"].T
    before = np.abs(noise.mean(0) + state["first.bias"] - state["norm.running_mean"]) / deviation
    assert off.mean() < 0.3 * before.mean()
    assert found.targets is not None
    assert np.bincount(found.targets).tolist() == [50, 50]
    said = trained.module()(torch.from_numpy(found.inputs["x"]))[0].argmax(1).numpy()
    assert (said == found.targets).mean() > 0.9


def test_the_distance_after_is_that_of_what_was_made(trained) -> None:
    found = synthesize(trained, 32, Task(), steps=1)
    state = {name: t.detach() for name, t in trained.exported.state_dict.items()}
    seen = torch.from_numpy(found.inputs["x"]) @ state["first.weight"].T + state["first.bias"]
    mean, variance = state["norm.running_mean"], state["norm.running_var"]
    assert found.distance[1] == pytest.approx(
        float(statistics_distance(seen, mean, variance, 1e-5)), rel=1e-4
    )
    assert found.distance[1] < found.distance[0]


class Named(nn.Module):
    """An input is called as targets are."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, target):
        return self.net(target)


def test_an_input_keeps_its_name_and_all_classes_count(program, mlp, tmp_path) -> None:
    from edgekit.graph.store import save

    network = program(Named(mlp(outputs=40)), example={"target": torch.randn(4, 2)})
    save(network, tmp_path / "net.pt2")
    out = tmp_path / "made.npz"
    said = synthesize_data(tmp_path / "net.pt2", out, samples=16, steps=2, batch_size=8)
    assert (said["target"], said["classes"]) == ("target_2", 40)
    with np.load(out) as made:
        assert made["target"].shape == (16, 2)
        assert made["target_2"].tolist() == list(range(16))


def test_the_seed_decides(trained) -> None:
    made = [synthesize(trained, 8, Task(), steps=3, seed=seed).inputs["x"] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_a_student_learns_from_them_as_from_any_data(
    trained, program, two_moons, mlp, tmp_path
) -> None:
    from edgekit.graph.store import save

    save(trained, tmp_path / "teacher.pt2")
    out = tmp_path / "made" / "synthetic.npz"
    out.parent.mkdir()
    said = synthesize_data(tmp_path / "teacher.pt2", out, samples=96, steps=60, batch_size=48)
    assert said["classes"] == 2
    assert said["target"] == "target"
    assert list(out.parent.iterdir()) == [out]
    split = {"evaluation": 0, "calibration": 16}
    data = open_data(DataConfig(npz=str(out), split=split), tmp_path)
    assert data.count("calibration") == 16
    student = program(mlp(hidden=8), 2)
    config = DistillConfig(epochs=40, batch_size=16, learning_rate=0.03, label_weight=0)
    done, _, _ = distill(student, trained, data, Task(), config, seed=0)
    real = next(two_moons.batches("train", 200))
    right = [
        float((p.module()(torch.from_numpy(real.inputs["x"]))[0].argmax(1).numpy()
               == real.targets).mean())
        for p in (trained, done, student)
    ]  # fmt: skip
    assert right[1] > 0.9 * right[0] > right[2]


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(2, 2)

    def forward(self, x):
        return {"logits": self.last(x)}


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(9, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return {"logits": self.norm(self.embedding(x).mean(1))}


def test_a_network_that_says_nothing_of_its_data_is_refused(program, trained, mlp) -> None:
    with pytest.raises(UsageError, match="no batch norm with running statistics") as caught:
        synthesize(program(Plain(), 2), 8, Task())
    assert "--data" in caught.value.hint
    ids = torch.randint(0, 9, (4, 3))
    with pytest.raises(UsageError, match="not floating-point"):
        synthesize(program(Tokens(), example={"x": ids}), 8, Task())
    with pytest.raises(UsageError, match="single sample"):
        synthesize(trained, 1, Task())
    with pytest.raises(UsageError, match="one sample at a time") as caught:
        synthesize(program(mlp(), 2, batch=1), 64, Task())
    assert "dynamic" in caught.value.hint
    broken = mlp()
    broken.norm.running_mean.fill_(float("nan"))
    with pytest.raises(PassError, match="NaN"):
        synthesize(program(broken, 2), 4, Task(), steps=2)


def test_the_file_must_be_an_npz(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"no \.npz"):
        synthesize_data(tmp_path / "x.pt2", tmp_path / "x.csv", samples=4, steps=1, batch_size=4)


def test_a_folder_that_is_not_there_is_refused_before_the_work(tmp_path) -> None:
    with pytest.raises(UsageError, match="gone"):
        synthesize_data(
            tmp_path / "net.pt2", tmp_path / "gone" / "x.npz", samples=4, steps=1, batch_size=4
        )
