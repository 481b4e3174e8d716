"""A teacher's answers on disk: asked once, told apart by teacher and data, whole or not there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.metrics import Task
from edgekit.progress import Silent
from edgekit.train.answer_files import stored, writer
from edgekit.train.batches import Batches
from edgekit.train.checkpoint import Keep
from edgekit.train.config import TrainConfig
from edgekit.train.teacher import Teacher
from edgekit.train.trainer import train


class Counting:
    """A teacher that doubles its input, and counts the samples that it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, inputs):
        self.asked += len(inputs[0])
        return {"logits": inputs[0] * 2, "flag": inputs[0][:, 0] > 0}


@pytest.fixture
def learn(program, mlp, two_moons, tmp_path):
    net = program(mlp(), 2)

    def loss(outputs, batch):
        wanted = batch.teacher["logits"]
        assert torch.equal(wanted, batch.inputs[0] * 2)  # the right rows, in every order
        assert torch.equal(batch.teacher["flag"], batch.inputs[0][:, 0] > 0)
        return (outputs["logits"] - wanted).square().mean()

    def run(data=two_moons, identity="a teacher", epochs=3, **config):
        teacher = Counting()
        train(
            net,
            data,
            Task(),
            TrainConfig(epochs=epochs, **config),
            seed=0,
            threads=1,
            loss=loss,
            teacher=teacher,
            keep=Keep(answers=tmp_path / "answers", identity=identity),
        )
        return teacher.asked

    return run


def folders(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "answers").iterdir())


def test_each_sample_is_asked_once_for_all_epochs_and_later_trainings(
    learn, tmp_path, monkeypatch
) -> None:
    assert learn() == 200
    assert learn(epochs=5) == 0
    # What does not fit into memory, samples and answers alike, is read from disk too.
    monkeypatch.setattr("edgekit.train.batches.MEMORY_BYTES", 0)
    assert learn() == 0
    assert len(folders(tmp_path)) == 1


def test_another_teacher_or_other_data_is_asked_anew(learn, dataset, two_moons, tmp_path) -> None:
    assert learn() == 200
    assert learn(identity="another teacher") == 200
    x = two_moons._samples.inputs["x"].copy()
    x[7] += 1
    assert learn(data=dataset(x, two_moons.targets)) == 200
    assert learn(validation=0.25) == 150  # other samples are trained on
    assert len(folders(tmp_path)) == 4


def test_samples_that_change_are_asked_each_time(learn, tmp_path) -> None:
    assert learn(augment="mixup", epochs=2) == 400
    assert not (tmp_path / "answers").exists()


def test_half_written_answers_are_asked_anew(learn, tmp_path) -> None:
    learn()
    (name,) = folders(tmp_path)
    for file in ("0.bin", "1.bin", "answers.json"):
        path = tmp_path / "answers" / name / file
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert learn() == 200
        assert path.read_bytes() == whole


def test_a_full_disk_is_said_and_training_goes_on(learn, tmp_path, monkeypatch, program) -> None:
    told = []

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgekit.train.answer_files.os.fsync", full)
    monkeypatch.setattr(Silent, "say", lambda _, text: told.append(text))
    assert learn() == 400  # once for the disk, in vain, and once to be held in memory
    assert len(told) == 1
    assert "No space left on device" in told[0]
    assert folders(tmp_path) == []  # nothing half-written is left behind


def test_a_killed_writer_leaves_no_folder_of_that_name(tmp_path) -> None:
    def killed() -> None:
        with writer(tmp_path / "a") as write:
            write({"y": torch.ones(3, 2)})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert stored(tmp_path / "a", 3) is None
    assert list(tmp_path.iterdir()) == []


def test_scalars_and_rows_come_back_as_they_were(tmp_path) -> None:
    with writer(tmp_path / "a") as write:
        write({"y": torch.arange(3.0), "z": torch.arange(6).view(3, 2)})
        write({"y": torch.arange(2.0), "z": torch.arange(4).view(2, 2)})
    found = stored(tmp_path / "a", 5)
    np.testing.assert_array_equal(found["y"], [0, 1, 2, 0, 1])
    assert found["z"].shape == (5, 2)
    assert stored(tmp_path / "a", 4) is None  # other samples


def test_nothing_is_kept_of_a_place_without_a_folder(program, mlp, two_moons) -> None:
    teacher = Counting()
    guide = Teacher(teacher)
    batches = Batches(program(mlp(), 2), two_moons, Task(), TrainConfig(), seed=0)
    guide.remember(batches, Silent())
    assert teacher.asked == 200
