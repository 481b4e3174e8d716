"""A training that is interrupted goes on where it was, and ends in the same bits."""

import pytest
import torch

from edgekit.errors import PassError, UsageError
from edgekit.metrics import Task
from edgekit.train.checkpoint import Keep
from edgekit.train.config import TrainConfig
from edgekit.train.losses import task_loss
from edgekit.train.trainer import train


@pytest.fixture
def net(everything):
    return everything()


class KilledError(Exception):
    pass


def run(net, data, keep=None, *, dies_after=None, seed=0, **config):
    config = {"epochs": 3, "batch_size": 8, "accumulate": 2, **config}
    own = task_loss(Task(), net)
    calls = 0

    def loss(outputs, batch):
        nonlocal calls
        calls += 1
        if calls == dies_after:
            raise KilledError
        return own(outputs, batch)

    return train(
        net, data, Task(), TrainConfig(**config), seed=seed, threads=1, loss=loss, keep=keep
    )


def same(a, b) -> bool:
    a, b = a.exported.state_dict, b.exported.state_dict
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


OPTIONS = [
    {"optimizer": "sgd", "ema": 0.9, "augment": "shift"},
    {"augment": "mixup", "validation": 0.2, "patience": 2, "schedule": "one-cycle"},
    {"precision": "bfloat16", "l1": 1e-4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["ema", "patience", "bfloat16"])
@pytest.mark.parametrize("dies_after", [6, 10])  # within an epoch, and within another one
def test_resumed_in_mid_epoch_is_the_same_bits(net, images, tmp_path, options, dies_after) -> None:
    if options.get("precision"):
        pytest.importorskip("accelerate")
    whole, history = run(net, images, **options)
    keep = Keep(state=tmp_path / "cache" / "state", every_s=0)
    with pytest.raises(KilledError):
        run(net, images, keep, dies_after=dies_after, **options)
    assert keep.state.exists()
    resumed, after = run(net, images, keep, **options)
    assert 0 < after.resumed_at < dies_after
    assert same(whole, resumed)
    assert [e.loss for e in after.epochs] == [e.loss for e in history.epochs]
    assert [e.validation for e in after.epochs] == [e.validation for e in history.epochs]
    assert not keep.state.exists()  # what is done needs no state


@pytest.fixture
def interrupted(net, images, tmp_path) -> Keep:
    keep = Keep(state=tmp_path / "state", every_s=0)
    with pytest.raises(KilledError):
        run(net, images, keep, dies_after=6)
    return keep


def test_data_that_has_changed_is_refused_by_name(net, images, dataset, interrupted) -> None:
    samples = images._samples
    x = samples.inputs["x"].copy()
    x[0] += 1
    changed = dataset(x, samples.targets)
    with pytest.raises(UsageError, match=r"npz: unused.npz has changed .*\(content hash\)") as e:
        run(net, changed, interrupted)
    assert e.value.exit_code == 2
    assert str(interrupted.state) in e.value.hint
    fewer = dataset(samples.inputs["x"], samples.targets, calibration=5)
    with pytest.raises(UsageError, match=r"has changed .*splits"):
        run(net, fewer, interrupted)


def test_other_settings_begin_anew(net, images, interrupted) -> None:
    _, history = run(net, images, interrupted, learning_rate=0.5)
    assert history.resumed_at == 0


def test_another_teacher_or_network_begins_anew(net, images, interrupted, everything) -> None:
    from dataclasses import replace

    _, history = run(net, images, replace(interrupted, identity="another teacher"))
    assert history.resumed_at == 0
    torch.manual_seed(5)
    run(net, images, interrupted)  # leaves no state
    with pytest.raises(KilledError):
        run(net, images, interrupted, dies_after=6)
    _, history = run(everything(), images, interrupted)
    assert history.resumed_at == 0


def test_a_broken_state_is_named(net, images, interrupted) -> None:
    interrupted.state.write_bytes(interrupted.state.read_bytes()[:1000])
    with pytest.raises(UsageError, match="is broken") as e:
        run(net, images, interrupted)
    assert "Delete it" in e.value.hint


def test_a_full_disk_ends_with_an_error_that_says_so(net, images, tmp_path, monkeypatch) -> None:
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgekit.train.checkpoint.write_atomically", full)
    with pytest.raises(PassError, match="No space left on device"):
        run(net, images, Keep(state=tmp_path / "state", every_s=0))


def test_time_decides_how_often_a_state_is_written(net, images, tmp_path) -> None:
    keep = Keep(state=tmp_path / "state", every_s=1e9)
    with pytest.raises(KilledError):
        run(net, images, keep, dies_after=10)
    assert not keep.state.exists()
