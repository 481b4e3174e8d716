"""ONNX files and ensembles teach as captured programs do."""

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from edgekit.distill.config import DistillConfig
from edgekit.distill.distill import distill
from edgekit.distill.teachers import OnnxAnswers, mean_of_classes
from edgekit.errors import UsageError
from edgekit.evaluate import open_artifact
from edgekit.metrics import Task
from edgekit.passes.distill import Distill

CLASSES = Task(kind="classification")
X = np.random.default_rng(0).normal(size=(21, 2)).astype(np.float32)


class Flat(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(2, 4), nn.Linear(4, classes)

    def forward(self, x):
        return {"logits": self.last(torch.relu(self.hidden(x)))}


@pytest.fixture
def net(program):
    return lambda *args: program(Flat(*args), 2)


def as_onnx(program, path, *, batch="batch", name="out"):
    """The same network as an ONNX file of another hand, under other names."""
    weights = {k: v.detach().numpy() for k, v in program.exported.state_dict.items()}
    make = onnx.helper
    shape = [batch, weights["last.bias"].size]
    graph = make.make_graph(
        [
            make.make_node("Gemm", ["in", "a", "b"], ["h"], transB=1),
            make.make_node("Relu", ["h"], ["r"]),
            make.make_node("Gemm", ["r", "c", "d"], [name], transB=1),
        ],
        "g",
        [make.make_tensor_value_info("in", onnx.TensorProto.FLOAT, [batch, 2])],
        [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)],
        [
            onnx.numpy_helper.from_array(weights[key], short)
            for key, short in zip(
                ("hidden.weight", "hidden.bias", "last.weight", "last.bias"), "abcd", strict=True
            )
        ],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, path)
    return open_artifact(path)


def first_loss(student, teacher, data, **options) -> float:
    config = DistillConfig(**{"epochs": 1, "batch_size": 64, "label_weight": 0, **options})
    return distill(student, teacher, data, CLASSES, config, seed=0, threads=1)[1].epochs[0].loss


@pytest.mark.parametrize("batch", ["batch", 4])
def test_an_onnx_file_answers_as_its_program(net, dataset, tmp_path, batch) -> None:
    student, teacher = net(), net()
    artifact = as_onnx(teacher, tmp_path / "t.onnx", batch=batch)
    x = torch.from_numpy(X)
    (found,) = OnnxAnswers(artifact, ["x"])([x]).values()
    torch.testing.assert_close(found, teacher.module()(x)[0], rtol=1e-5, atol=1e-6)
    expected = first_loss(student, teacher, dataset(X))
    assert first_loss(student, artifact, dataset(X)) == pytest.approx(expected, rel=1e-5)


def test_an_onnx_file_of_other_classes_is_refused(net, dataset, tmp_path) -> None:
    artifact = as_onnx(net(5), tmp_path / "t.onnx")
    with pytest.raises(UsageError, match="3 classes and 5"):
        first_loss(net(), artifact, dataset(X))


def test_a_teacher_of_other_inputs_is_refused_with_both_shapes(program, dataset) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3)

        def forward(self, x):
            return self.conv(x).mean((2, 3))

    small, large = program(Pooled(), 1, 8, 8), program(Pooled(), 1, 16, 16)
    data = dataset(np.zeros((8, 1, 8, 8), np.float32))
    with pytest.raises(UsageError, match=r"input is .*8, 8\], the teacher's .*16, 16\]"):
        first_loss(small, large, data)


@pytest.mark.parametrize("axis", [1, -1])
def test_the_mean_of_probabilities(axis) -> None:
    logits = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    found = mean_of_classes(list(logits), axis).softmax(axis)
    torch.testing.assert_close(found, logits.softmax(axis if axis < 0 else 2).mean(0))
    found = mean_of_classes(list(logits), None).sigmoid()
    torch.testing.assert_close(found, logits.sigmoid().mean(0))
    sure = torch.tensor([[200.0, -200.0]], dtype=torch.float64)
    assert bool(torch.isfinite(mean_of_classes([sure, -sure, sure], None)).all())


def test_an_ensemble_of_a_program_and_a_file(net, dataset, tmp_path) -> None:
    student, one, other = net(), net(), net()
    found = first_loss(student, [one, as_onnx(other, tmp_path / "t.onnx")], dataset(X))
    x = torch.from_numpy(X)
    with torch.no_grad():
        s, a, b = (n.module()(x)[0] for n in (student, one, other))
    p, q = ((a.softmax(1) + b.softmax(1)) / 2), s.softmax(1)
    expected = (p * (p / q).log()).sum(1).mean()
    assert found == pytest.approx(float(expected), rel=1e-4)
    alone = first_loss(student, one, dataset(X))
    assert first_loss(student, [one, one], dataset(X)) == pytest.approx(alone, rel=1e-4)


def test_features_need_one_program(net, dataset, tmp_path) -> None:
    student, teacher = net(), net()
    features = [{"loss": "hint", "layers": ["hidden"]}]
    for given, what in (
        ([teacher, teacher], "it is 2 teachers"),
        (as_onnx(teacher, tmp_path / "t.onnx"), "it is an ONNX file"),
    ):
        with pytest.raises(UsageError, match=what):
            first_loss(student, given, dataset(X), features=features)


def test_a_list_without_a_teacher() -> None:
    with pytest.raises(ValidationError, match="no teacher in the list"):
        Distill(teacher=[])
