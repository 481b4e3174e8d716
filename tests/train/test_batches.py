"""Batches, augmentation, the learning rate and the average of weights."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.errors import UsageError
from edgekit.metrics import Task
from edgekit.train.augment import shifted
from edgekit.train.batches import Batches
from edgekit.train.config import TrainConfig
from edgekit.train.optimize import Average, learning_rate, make_optimizer


@pytest.mark.parametrize("shape", [(5, 1, 6, 7), (5, 6, 7), (5, 2, 3, 6, 7)])
def test_shift_moves_each_image_and_repeats_its_edge(shape) -> None:
    images = torch.randn(shape)
    offsets = torch.tensor([[0, 0], [1, 2], [-2, 1], [2, -2], [-1, -1]])
    moved = shifted(images, offsets)
    for before, after, (down, right) in zip(images, moved, offsets.tolist(), strict=True):
        for line in range(6):
            for column in range(7):
                source = min(max(line - down, 0), 5), min(max(column - right, 0), 6)
                assert torch.equal(after[..., line, column], before[..., *source])


def test_augmentation_shifts_by_two_pixels_at_most_each_way(program, dataset) -> None:
    x = np.zeros((200, 1, 9, 9), np.float32)
    x[:, 0, 4, 4] = 1
    net = program(nn.Conv2d(1, 2, 3), example={"input": torch.randn(4, 1, 9, 9)})
    config = TrainConfig(augment="shift", batch_size=50)
    batches = Batches(net, dataset(x), Task(kind="none"), config, seed=0)
    assert not batches.fixed
    found = set()
    for _, batch in batches.epoch(1):
        assert float(batch.inputs[0].sum()) == 50
        found |= {(int(i[2]) - 4, int(i[3]) - 4) for i in batch.inputs[0].nonzero()}
    assert found == {(a, b) for a in range(-2, 3) for b in range(-2, 3)}


def test_masks_move_with_their_images(program, dataset) -> None:
    x = np.random.default_rng(0).integers(0, 2, (40, 1, 8, 8)).astype(np.float32)
    net = program(nn.Conv2d(1, 2, 1), example={"input": torch.randn(4, 1, 8, 8)})
    data = dataset(x, x[:, 0].astype(np.int64))
    config = TrainConfig(augment="shift")
    batches = Batches(net, data, Task(kind="segmentation"), config, seed=0)
    ((_, batch),) = batches.epoch(1)
    assert torch.equal(batch.inputs[0][:, 0].long(), batch.targets)
    assert not np.array_equal(batch.targets.numpy(), x[[int(i[1:]) for i in batch.ids], 0])


def test_shift_needs_images(program, mlp, two_moons, dataset) -> None:
    config = TrainConfig(augment="shift")
    with pytest.raises(UsageError, match="needs an image input"):
        Batches(program(mlp(), 2), two_moons, Task(), config, seed=0)
    net = program(nn.Linear(3, 2), example={"input": torch.randn(4, 8, 8, 3)})
    with pytest.raises(UsageError, match=r"images as \(n, c, h, w\)"):
        Batches(net, dataset(np.ones((4, 8, 8, 3), np.float32)), Task(), config, seed=0)


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_an_epoch_gives_each_sample_once_and_another_order_each_time(
    program, mlp, dataset, memory
) -> None:
    x = np.arange(66, dtype=np.float32).reshape(33, 2)
    data = dataset(x, np.arange(33))
    batches = Batches(
        program(mlp(), 2), data, Task(), TrainConfig(batch_size=16), seed=0, memory_bytes=memory
    )
    assert batches.in_memory == bool(memory)
    orders = []
    for number in (1, 2):
        sizes, ids = [], []
        for places, batch in batches.epoch(number):
            sizes.append(len(batch.ids))
            ids += batch.ids
            rows = [int(i[1:]) for i in batch.ids]
            assert [data.ids[batches.rows[p]] for p in places] == batch.ids
            assert np.array_equal(batch.inputs[0].numpy(), x[rows])
            assert batch.targets.tolist() == rows
        assert sizes == [16, 17]  # a batch of one joins the one before it
        assert sorted(ids) == sorted(data.ids)
        orders.append(ids)
    assert orders[0] != orders[1]
    assert [i for b in batches for i in b.ids] == data.ids


def test_learning_rate_rises_then_falls() -> None:
    config = TrainConfig(learning_rate=2.0, warmup_fraction=0.2)
    rates = [learning_rate(config, i, 100) for i in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[19] == rates[20] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(2 * 0.5 * (1 + np.cos(np.pi * 79 / 80)))
    assert rates[20:] == sorted(rates[20:], reverse=True)
    constant = config.model_copy(update={"schedule": "constant"})
    assert {learning_rate(constant, i, 100) for i in range(20, 100)} == {2.0}
    assert learning_rate(TrainConfig(), 0, 1) == TrainConfig().learning_rate


def test_biases_and_norms_do_not_decay(mlp) -> None:
    module = mlp()
    optimizer = make_optimizer(module, TrainConfig(weight_decay=0.5))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {n: decay[id(p)] for n, p in module.named_parameters()} == {
        "first.weight": 0.5, "first.bias": 0.0, "norm.weight": 0.0, "norm.bias": 0.0,
        "last.weight": 0.5, "last.bias": 0.0,
    }  # fmt: skip


def test_average_by_hand() -> None:
    module = nn.Linear(1, 1, bias=False).double()
    module.weight.data.fill_(0.0)
    average = Average(module, 0.5)
    expected = 0.0
    for step, value in enumerate((1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)):
        module.weight.data.fill_(value)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    average.apply()
    assert float(module.weight.detach()) == pytest.approx(expected, rel=1e-12)


def test_config_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, edgekit.train.config, edgekit.distill; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
