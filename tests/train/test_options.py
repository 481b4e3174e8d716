"""Schedules, penalties, dropout, freezing, mixing and precision do what they say."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from edgekit.errors import UnavailableError, UsageError
from edgekit.metrics import Task
from edgekit.train.augment import mixed
from edgekit.train.batches import Batches, Minibatch
from edgekit.train.config import TrainConfig
from edgekit.train.losses import task_loss
from edgekit.train.optimize import learning_rate
from edgekit.train.place import Sharded
from edgekit.train.trainer import train

CLASSES = Task(kind="classification")


def run(program, data, task=CLASSES, *, seed=0, **config):
    config = TrainConfig(**{"epochs": 1, "batch_size": 16, **config})
    return train(program, data, task, config, seed=seed, threads=1)


def states(program):
    return {k: v.detach().clone() for k, v in program.exported.state_dict.items()}


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return {"logits": self.head(self.drop(self.body(x)))}


@pytest.fixture
def net(program):
    return program(Deep(), 2)


@pytest.mark.parametrize(("steps", "rise"), [(50, None), (50, 0.1), (7, 0.5)])
def test_one_cycle_is_torchs(steps, rise) -> None:
    config = TrainConfig(schedule="one-cycle", learning_rate=0.3, warmup_fraction=rise)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, total_steps=steps, pct_start=rise or 0.3, cycle_momentum=False
    )
    for step in range(steps):
        assert learning_rate(config, step, steps) == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-6
        )
        optimizer.step()
        scheduler.step()


def test_accumulated_batches_are_one_large_one(program, mlp, dataset) -> None:
    rng = np.random.default_rng(0)
    data = dataset(rng.normal(size=(53, 2)).astype(np.float32), np.arange(53) % 2)
    net = program(
        nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)),
        example={"input": torch.randn(4, 2)},
    )
    plain = {"optimizer": "sgd", "learning_rate": 0.5, "gradient_clip": None, "epochs": 2}
    whole, one = run(net, data, batch_size=16, **plain)
    parts, many = run(net, data, batch_size=4, accumulate=4, **plain)
    assert (one.batches, many.batches) == (4, 13)
    for key, value in states(whole).items():
        torch.testing.assert_close(states(parts)[key], value, rtol=1e-4, atol=1e-6)


def test_l1_and_l2_are_the_gradients_of_their_sums(program, dataset) -> None:
    """One step of SGD on a loss that is flat moves the weights by the penalties alone."""
    net = program(nn.Linear(3, 2), example={"input": torch.randn(4, 3)})
    data = dataset(np.zeros((4, 3), np.float32), np.zeros((4, 2), np.float32))
    before = states(net)
    assert net.outputs[0].shape == ("batch", 2)
    options = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    after, _ = run(
        net,
        data,
        Task(kind="regression"),
        learning_rate=0.1,
        warmup_fraction=0.0,
        gradient_clip=None,
        l1=0.5,
        l2=0.25,
        **options,
    )
    (name,) = [key for key, value in before.items() if value.dim() > 1]
    weight = before[name].double().requires_grad_()
    (0.5 * weight.abs().sum() + 0.125 * weight.square().sum()).backward()
    torch.testing.assert_close(states(after)[name].double(), weight - 0.1 * weight.grad)


def test_dropout_is_set_for_training_and_its_own_afterwards(net, two_moons, program, mlp) -> None:
    own, _ = run(net, two_moons)
    none, _ = run(net, two_moons, dropout=0.0)
    again, _ = run(net, two_moons, dropout=0.5)
    assert not torch.equal(states(own)["head.weight"], states(none)["head.weight"])
    torch.testing.assert_close(states(own), states(again), rtol=0, atol=0)
    (node,) = [n for n in none.exported.graph.nodes if "dropout" in str(n.target)]
    assert node.args[1] == 0.5
    with pytest.raises(UsageError, match="no dropout to set"):
        run(program(mlp(), 2), two_moons, dropout=0.1)


def test_frozen_layers_stay_to_the_bit_until_they_thaw(net, two_moons) -> None:
    start = states(net)
    after, _ = run(net, two_moons, epochs=2, freeze={"body": None})
    for key, value in states(after).items():
        assert torch.equal(value, start[key]) == key.startswith("body"), key
    thawed, _ = run(net, two_moons, epochs=2, freeze={"body.*": 1})
    assert not torch.equal(states(thawed)["body.0.weight"], start["body.0.weight"])
    assert not torch.equal(states(thawed)["body.1.running_mean"], start["body.1.running_mean"])
    assert all(p.requires_grad for p in after.module().parameters())


def test_frozen_batch_norm_keeps_statistics_and_trains_scales(net, two_moons) -> None:
    start = states(net)
    after = states(run(net, two_moons, batch_norm="frozen")[0])
    assert torch.equal(after["body.1.running_mean"], start["body.1.running_mean"])
    assert not torch.equal(after["body.1.weight"], start["body.1.weight"])


@pytest.mark.parametrize(
    ("freeze", "message"),
    [({"bdoy": None}, "'bdoy' matches no layer"), ({"*": None}, "leaves nothing to train")],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(net, two_moons, freeze, message) -> None:
    with pytest.raises(UsageError, match=message):
        run(net, two_moons, freeze=freeze)


def test_patience_stops_and_keeps_the_best_epoch(net, two_moons) -> None:
    options = {"validation": 0.25, "epochs": 30, "learning_rate": 0.05, "schedule": "constant"}
    best, history = run(net, two_moons, patience=2, **options)
    assert history.stopped
    assert len(history.epochs) == history.best_epoch + 2
    told = [epoch.validation for epoch in history.epochs]
    assert told[history.best_epoch - 1] == max(told)
    kept = history.epochs[history.best_epoch - 1]
    assert history.gap == pytest.approx(kept.fit - kept.validation)
    assert (history.held_out, history.samples, history.metric) == (50, 150, "accuracy")
    # The weights that came back are those that were judged: judge them again.
    config = TrainConfig(validation=0.25)
    batches = Batches(net, two_moons, CLASSES, config, seed=0)
    assert not set(batches.rows) & set(batches.held_out)
    x, y = (
        torch.cat(list(parts))
        for parts in zip(
            *((b.inputs[0], b.targets) for b in batches.others(batches.held_out)), strict=True
        )
    )
    right = (best.module()(x)[0].argmax(1) == y).double().mean()
    assert float(right) == pytest.approx(kept.validation)


def test_what_is_held_out_is_not_trained_on(net, two_moons) -> None:
    seen = set()
    own = task_loss(CLASSES, net)

    def loss(outputs, batch):
        seen.update(batch.ids)
        return own(outputs, batch)

    config = TrainConfig(epochs=2, validation=0.1)
    train(net, two_moons, CLASSES, config, seed=0, threads=1, loss=loss)
    assert len(seen) == 180


def test_validation_needs_samples_and_a_metric(net, two_moons, dataset) -> None:
    with pytest.raises(ValidationError, match="`patience` needs `validation`"):
        TrainConfig(patience=2)
    with pytest.raises(UsageError, match="needs a metric"):
        run(net, two_moons, Task(kind="anomaly"), validation=0.1)
    one = dataset(np.zeros((1, 2), np.float32), np.zeros(1, np.int64))
    with pytest.raises(UsageError, match="none can be held out"):
        run(net, one, validation=0.1)


def test_mixup_blends_inputs_and_losses_by_the_same_share(program) -> None:
    draw = np.random.default_rng(3)
    x, y = torch.randn(8, 2), torch.arange(8) % 2
    (blended,), (other, share) = mixed((x,), y, "mixup", 1.0, draw)
    batch = Minibatch([f"s{i}" for i in range(8)], (blended,), y, mixed=(other, share))
    again = np.random.default_rng(3)
    places = torch.from_numpy(again.permutation(8))
    assert torch.equal(other, y[places])
    torch.testing.assert_close(blended, share * x + (1 - share) * x[places])
    net = program(nn.Linear(2, 2), example={"input": torch.randn(4, 2)})
    name = net.outputs[0].name
    logits = torch.randn(8, 2)
    soft = share * nn.functional.one_hot(y, 2) + (1 - share) * nn.functional.one_hot(other, 2)
    torch.testing.assert_close(
        task_loss(CLASSES, net)({name: logits}, batch), nn.functional.cross_entropy(logits, soft)
    )


def test_cutmix_pastes_what_its_share_says() -> None:
    shares = []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 10, 10).clone()
        (cut,), (other, share) = mixed((images,), torch.arange(6), "cutmix", 1.0, draw)
        pasted = cut != images
        for row in range(6):
            if other[row] != row:
                assert float(pasted[row].double().mean()) == pytest.approx(1 - share)
                assert set(cut[row][pasted[row]].tolist()) <= {float(other[row])}
        shares.append(share)
    assert min(shares) < 0.3 < 0.7 < max(shares)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_refuses_what_it_cannot_blend(net, program, two_moons, dataset, kind) -> None:
    table = program(
        nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)),
        example={"input": torch.randint(0, 5, (4, 2))},
    )
    words = dataset(np.ones((8, 2), np.int64), np.zeros(8, np.int64))
    with pytest.raises(UsageError, match="blends numbers"):
        run(table, words, augment=kind)
    if kind == "cutmix":
        with pytest.raises(UsageError, match="needs an image input"):
            run(net, two_moons, augment=kind)


def test_mixup_learns(net, two_moons) -> None:
    options = {"dropout": 0.0, "mix_alpha": 0.2, "learning_rate": 0.03, "epochs": 40}
    after, _ = run(net, two_moons, augment="mixup", **options)
    x = torch.from_numpy(two_moons._samples.inputs["x"])
    right = (after.module()(x)[0].argmax(1).numpy() == two_moons.targets).mean()
    assert right > 0.9


def test_bfloat16_trains_float32_weights_near_those_of_float32(net, two_moons) -> None:
    pytest.importorskip("accelerate")
    options = {"optimizer": "sgd", "learning_rate": 0.02, "epochs": 1, "dropout": 0.0}
    fine, _ = run(net, two_moons, **options)
    coarse, _ = run(net, two_moons, precision="bfloat16", **options)
    for key, value in states(coarse).items():
        assert value.dtype == states(net)[key].dtype
        torch.testing.assert_close(value, states(fine)[key], rtol=0.02, atol=0.02)
    assert any(not torch.equal(v, states(fine)[k]) for k, v in states(coarse).items())


def test_float16_without_a_gpu_is_unavailable(net, two_moons) -> None:
    pytest.importorskip("accelerate")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UnavailableError, match="needs a GPU") as e:
        run(net, two_moons, precision="float16")
    assert e.value.exit_code == 3


def test_without_accelerate_the_plain_path_trains_and_the_rest_says_what_to_install(
    net, two_moons, monkeypatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    run(net, two_moons)
    with pytest.raises(UnavailableError, match=r"`precision: bfloat16` need") as e:
        run(net, two_moons, precision="bfloat16")
    assert 'pip install "edgekit[train]"' in e.value.hint


def test_a_single_number_cannot_be_cut() -> None:
    network = torch.nn.Linear(2, 2)
    network.scale = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(UsageError, match="weight scale is a single number") as e:
        Sharded.shard(object.__new__(Sharded), network)
    assert "replicated" in e.value.hint


def test_cut_weights_go_with_what_they_can(two_moons, program, mlp) -> None:
    with pytest.raises(ValidationError, match="`parallel: sharded` does not go with `precision`"):
        TrainConfig(parallel="sharded", precision="bfloat16")
    net = program(mlp(), 2)
    one, _ = run(net, two_moons)
    alone, _ = run(net, two_moons, parallel="sharded")  # nobody to share with
    assert all(
        torch.equal(a, b) for a, b in zip(states(one).values(), states(alone).values(), strict=True)
    )
