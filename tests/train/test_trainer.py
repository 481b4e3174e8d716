"""The trainer learns, is reproducible, and refuses what cannot be trained on."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.errors import PassError, UsageError
from edgekit.metrics import Task
from edgekit.progress import Silent
from edgekit.train.batches import Batches
from edgekit.train.config import TrainConfig
from edgekit.train.optimize import learning_rate
from edgekit.train.trainer import train

CLASSES = Task(kind="classification")


def accuracy(program, data) -> float:
    batch = next(data.batches("train", data.count("train")))
    with torch.no_grad():
        out = program.module()(*(torch.from_numpy(v) for v in batch.inputs.values()))[0]
    return float((out.argmax(1).numpy() == batch.targets).mean())


def run(program, data, task=CLASSES, *, seed=0, options=None, **config):
    config = TrainConfig(**{"epochs": 1, "batch_size": 16, **config})
    return train(program, data, task, config, seed=seed, threads=1, **(options or {}))


def states(program):
    return {k: v.clone() for k, v in program.exported.state_dict.items()}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "sgd", "learning_rate": 0.1}, {"ema": 0.9}, {"schedule": "constant"}],
)
def test_learns_what_is_separable(program, mlp, two_moons, options) -> None:
    before = program(mlp(), 2)
    start = states(before)
    after, history = run(
        before,
        two_moons,
        **{
            "epochs": 80,
            "batch_size": 50,
            "learning_rate": 0.03,
            "warmup_fraction": 0.1,
            **options,
        },
    )
    assert accuracy(before, two_moons) < 0.9
    assert accuracy(after, two_moons) > 0.97
    assert history.epochs[-1].loss < history.epochs[0].loss / 2
    assert history.epochs[-1].accuracy > 0.9
    assert same(states(before), start)  # the given program is not changed
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)


def test_history_is_plain_data(program, mlp, two_moons) -> None:
    _, history = run(program(mlp(), 2), two_moons, epochs=3)
    told = json.loads(json.dumps(history.to_dict()))
    assert [e["epoch"] for e in told["epochs"]] == [1, 2, 3]
    assert told["samples"] == 200
    assert told["batches"] == 13
    assert {"epoch", "loss", "learning_rate", "seconds", "accuracy"} <= set(told["epochs"][0])


def test_same_seed_same_bits_and_torch_as_it_was(everything, images) -> None:
    net = everything()
    torch.manual_seed(7)
    random_state = torch.get_rng_state()
    first, _ = run(net, images, epochs=2, augment="shift", seed=3)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(99)  # the global seed has no say
    second, _ = run(net, images, epochs=2, augment="shift", seed=3)
    other, _ = run(net, images, epochs=2, augment="shift", seed=4)
    assert same(states(first), states(second))
    assert not same(states(first), states(other))


def test_streamed_data_trains_the_same_bits(everything, images, monkeypatch) -> None:
    net = everything()
    held, _ = run(net, images, augment="shift")
    monkeypatch.setattr("edgekit.train.batches.MEMORY_BYTES", 0)
    streamed, _ = run(net, images, augment="shift")
    assert same(states(held), states(streamed))


def test_threads_are_set_and_restored(program, mlp, two_moons) -> None:
    seen = []

    def loss(outputs, batch):
        seen.append(torch.get_num_threads())
        return outputs["logits"].square().mean()

    config = TrainConfig(epochs=1)
    train(program(mlp(), 2), two_moons, CLASSES, config, seed=0, threads=2, loss=loss)
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1


def test_batch_norm_statistics_move_and_weights_come_back_plain(everything, images) -> None:
    before = everything()
    after, _ = run(before, images)
    old, new = states(before), states(after)
    assert not torch.equal(old["norm.running_mean"], new["norm.running_mean"])
    assert not torch.equal(old["norm.running_var"], new["norm.running_var"])
    assert new["conv.weight"].is_contiguous()


def test_dropout_drops_in_training_and_not_after(program, dataset) -> None:
    class Drop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return {"y": self.drop(x * self.scale)}

    zeros = []

    def loss(outputs, batch):
        zeros.append(float((outputs["y"] == 0).float().mean()))
        return outputs["y"].mean() * 0

    data = dataset(np.ones((64, 100), np.float32))
    after, _ = run(program(Drop(), 100), data, Task(kind="none"), options={"loss": loss})
    assert all(0.4 < z < 0.6 for z in zeros)
    assert bool((after.module()(torch.ones(2, 100))[0] == 1).all())


def test_ties_stay_tied(program, dataset) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Linear(4, 4, bias=False)
            self.up = nn.Linear(4, 4, bias=False)
            self.up.weight = self.down.weight

        def forward(self, x):
            return {"y": self.up(torch.tanh(self.down(x)))}

    before = program(Tied(), 4)
    data = dataset(np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32))
    after, _ = run(before, data, Task(kind="reconstruction"), learning_rate=0.05)
    new = states(after)
    assert after.ties == before.ties != ()
    assert torch.equal(new["down.weight"], new["up.weight"])
    assert not torch.equal(new["down.weight"], states(before)["down.weight"])
    module = after.module()
    assert module.get_parameter("down.weight") is module.get_parameter("up.weight")


def test_two_inputs_are_fed_by_name(program, dataset) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3)
            self.last = nn.Linear(3 + 2, 1)

        def forward(self, word, place):
            return {"y": self.last(torch.cat([self.table(word), place], 1))}

    rng = np.random.default_rng(0)
    word, place = rng.integers(0, 5, 80), rng.normal(size=(80, 2)).astype(np.float32)
    target = (word + place[:, 0]).astype(np.float32)
    net = program(Two(), example={"word": torch.randint(0, 5, (4,)), "place": torch.randn(4, 2)})
    data = dataset({"place": place, "word": word}, target)
    _, history = run(net, data, Task(kind="regression"), epochs=40, learning_rate=0.05)
    assert history.epochs[-1].loss < 0.1 < history.epochs[0].loss
    assert history.epochs[-1].accuracy is None


def test_nan_loss_names_epoch_batch_and_sample(program, dataset) -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(1, 2)

        def forward(self, x):
            return {"logits": self.last(torch.sqrt(x))}

    x = np.ones((20, 1), np.float32)
    x[13] = -1
    with pytest.raises(PassError, match=r"epoch 1, batch 1 \(samples s13\)") as caught:
        run(program(Root(), 1), dataset(x, np.zeros(20, np.int64)), batch_size=20)
    assert "learning_rate" in caught.value.hint


def test_nan_gradient_is_caught_before_the_step(program, dataset) -> None:
    def loss(outputs, batch):
        return (outputs["logits"].sum() * 0).sqrt()  # 0, with an infinite slope

    net = program(nn.Sequential(nn.Linear(1, 2)), example={"input": torch.randn(4, 1)})
    data = dataset(np.ones((20, 1), np.float32))
    name = net.outputs[0].name

    def named(outputs, batch):
        return loss({"logits": outputs[name]}, batch)

    with pytest.raises(PassError, match="gradient is not finite"):
        run(net, data, Task(kind="none"), options={"loss": named})
    with pytest.raises(PassError, match="holds NaN or infinity after the last step"):
        run(
            net, data, Task(kind="none"), options={"loss": named}, gradient_clip=None, batch_size=20
        )


@pytest.mark.parametrize("count", [17, 33, 2])
def test_a_last_batch_of_one_is_no_trouble_for_batch_norm(program, mlp, dataset, count) -> None:
    rng = np.random.default_rng(0)
    data = dataset(rng.normal(size=(count, 2)).astype(np.float32), np.arange(count) % 2)
    after, history = run(program(mlp(), 2), data, epochs=2)
    assert all(bool(torch.isfinite(v).all()) for v in states(after).values())
    assert history.samples == count


def test_batches_of_one_are_refused_where_batch_norm_would_divide_by_zero(
    everything, program, mlp, two_moons, images
) -> None:
    with pytest.raises(UsageError, match=r"Batch norm .* batches of one"):
        run(program(mlp(), 2), two_moons, batch_size=1)
    run(everything(), images, batch_size=1)  # 64 values a channel are enough


def test_a_fixed_batch_is_kept(program, dataset) -> None:
    net = program(nn.Linear(3, 2), batch=4, example={"input": torch.randn(4, 3)})
    assert net.inputs[0].shape == (4, 3)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)).astype(np.float32), np.arange(10) % 2
    _, history = run(net, dataset(x, y))
    assert (history.batch_size, history.batches) == (4, 2)
    with pytest.raises(UsageError, match="exactly 4, and there are 3"):
        run(net, dataset(x[:3], y[:3]))


def test_nothing_to_train(program, mlp, dataset, two_moons) -> None:
    data = dataset(np.ones((4, 2), np.float32), np.zeros(4, np.int64), evaluation=4)
    with pytest.raises(UsageError, match="train split has no samples"):
        run(program(mlp(), 2), data)
    net = program(nn.ReLU(), example={"input": torch.randn(4, 2)})
    with pytest.raises(UsageError, match="no weights to train"):
        run(net, two_moons)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"a": (8, 2), "b": (8, 2)}, "'x'"),
        ({"x": (8, 3)}, "gives x: "),
        ({"x": (8, 2, 1)}, "gives x: "),
    ],
)
def test_data_that_does_not_fit_names_the_input(program, mlp, dataset, inputs, message) -> None:
    arrays = {name: np.ones(shape, np.float32) for name, shape in inputs.items()}
    with pytest.raises(UsageError, match=message):
        run(program(mlp(), 2), dataset(arrays, np.zeros(8, np.int64)))


def test_targets_missing_or_wrong(program, mlp, dataset) -> None:
    x = np.ones((8, 2), np.float32)
    net = program(mlp(), 2)
    with pytest.raises(UsageError, match="no targets"):
        run(net, dataset(x))
    with pytest.raises(UsageError, match="has no loss"):
        run(net, dataset(x), Task(kind="none"))
    with pytest.raises(UsageError, match=r"label 2; output 'logits' has classes 0 to 1"):
        run(net, dataset(x, np.full(8, 2)))
    with pytest.raises(UsageError, match=r"\(8, 2\) needs labels of shape \(8,\).*\(8, 5\)"):
        run(net, dataset(x, np.zeros((8, 5), np.int64)))
    with pytest.raises(UsageError, match="no output 'nope'"):
        run(net, dataset(x, np.zeros(8, np.int64)), Task(output="nope"))


def test_anomaly_detectors_see_normal_samples_only(program, dataset) -> None:
    seen = []

    def loss(outputs, batch):
        seen.extend(batch.ids)
        return outputs["y"].square().mean()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(2, 2)

        def forward(self, x):
            return {"y": self.last(x)}

    label = np.arange(30) % 3 == 0
    data = dataset(np.ones((30, 2), np.float32), label.astype(np.int64))
    run(program(Net(), 2), data, Task(kind="anomaly"), options={"loss": loss})
    assert sorted(seen) == sorted(f"s{i}" for i in range(30) if i % 3)
    _, history = run(program(Net(), 2), data, Task(kind="anomaly"), epochs=60, learning_rate=0.05)
    assert history.epochs[-1].loss < 0.01  # it gives its input back


def test_progress_counts_every_batch(program, mlp, two_moons) -> None:
    class Counting(Silent):
        def __init__(self) -> None:
            self.total = self.moved = 0
            self.details: list[str] = []

        def task(self, _, total):
            self.total = total
            return self

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            return None

        def advance(self, amount=1.0, *, detail=""):
            self.moved += amount
            self.details.append(detail)

    bar = Counting()
    run(program(mlp(), 2), two_moons, epochs=2, options={"progress": bar})
    assert bar.moved == bar.total == 26
    assert bar.details[-1].startswith("epoch 2/2 loss ")


def test_only_the_training_split_is_looked_at(program, mlp, dataset) -> None:
    seen = set()

    def loss(outputs, batch):
        seen.update(batch.ids)
        return outputs["logits"].square().mean()

    data = dataset(np.ones((40, 2), np.float32), np.arange(40) % 2, evaluation=10, calibration=10)
    run(program(mlp(), 2), data, options={"loss": loss})
    assert seen == {data.ids[i] for i in data.splits["train"]}
    assert len(seen) == 20


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_agrees_with_a_plain_loop(program, mlp, two_moons, kind) -> None:
    """The same batches through the eager module and torch's own optimizer."""
    module = mlp()
    config = TrainConfig(epochs=3, batch_size=16, optimizer=kind, learning_rate=0.01)
    net = program(module, 2)
    after, history = train(net, two_moons, CLASSES, config, seed=5, threads=1)
    module.train()
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 1e-4},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    if kind == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=0.01)
    else:
        optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)
    batches = Batches(net, two_moons, CLASSES, config, seed=5)
    step, losses = 0, []
    for epoch in (1, 2, 3):
        for _, batch in batches.epoch(epoch):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, 39)
            loss = nn.functional.cross_entropy(module(*batch.inputs)["logits"], batch.targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step += 1
            losses.append(loss.item() * len(batch.ids))
    assert history.epochs[-1].loss == pytest.approx(sum(losses[-13:]) / 200, rel=1e-4)
    for name, value in module.state_dict().items():
        if name != "norm.num_batches_tracked":  # the graph does not count
            torch.testing.assert_close(states(after)[name], value, rtol=1e-4, atol=1e-5)
