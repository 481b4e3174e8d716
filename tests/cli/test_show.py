"""What the terminal says of a new artifact."""

from edgekit.cli.show import _learned


def epoch(loss: float, accuracy: float) -> dict[str, float]:
    return {"loss": loss, "accuracy": accuracy}


def test_a_step_that_trained_says_how_it_went() -> None:
    history = {"epochs": [epoch(1.5, 0.25), epoch(1.0, 0.5), epoch(0.5, 0.75)], "best_epoch": 3}
    assert list(_learned({"history": history})) == [
        "trained for 3 epochs: loss 1.5000 to 0.5000, accuracy in training 0.2500 to 0.7500",
        "The weights of epoch 3 were kept.",
    ]
    once = {"history": {"epochs": [epoch(1.5, 0.25)]}}
    assert list(_learned(once)) == ["trained for 1 epoch: loss 1.5000, accuracy in training 0.2500"]
    assert not list(_learned({"pruned": 3}))
