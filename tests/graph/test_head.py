"""A new last layer for other classes; everything before it stays."""

import pytest
import torch
from torch import nn

from edgekit.errors import PassError, UsageError
from edgekit.graph.capture import capture
from edgekit.graph.head import replace_head


def program(module, *shape):
    example = {"x": torch.randn(4, *shape)}
    return capture(module.eval(), example, dynamic={"x": ["batch", *shape]})


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.body = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 6, 1, bias=False) if kind == "conv" else nn.Linear(4, 6)
        self.after = nn.Linear(6, 6)

    def forward(self, x):
        y = torch.relu(self.body(x))
        if self.kind == "conv":
            return {"y": self.head(y).mean((2, 3))}
        y = self.head(y.mean((2, 3)))
        if self.kind == "soft":
            y = torch.softmax(y, 1)
        if self.kind == "fixed":
            y = y.reshape(-1, 2, 3)
        if self.kind == "sum":
            y = y + 1
        return {"y": y}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("plain", ("head.weight", "head.bias")),
        ("soft", ("head.weight", "head.bias")),
        ("conv", ("head.weight",)),
    ],
)
def test_the_last_layer_is_new_and_the_rest_is_as_it_was(kind, names) -> None:
    torch.manual_seed(0)
    net = program(Net(kind), 3, 5, 5)
    new, found = replace_head(net, "y", 9, seed=1)
    assert found == names
    assert new.outputs[0].shape == ("batch", 9)
    assert new.module()(torch.randn(7, 3, 5, 5))[0].shape == (7, 9)
    old, fresh = net.exported.state_dict, new.exported.state_dict
    assert torch.equal(old["body.weight"], fresh["body.weight"])
    weight = fresh["head.weight"].detach()
    assert 0.3 < float(weight.abs().max()) <= 0.5  # 1/sqrt(4)
    again, _ = replace_head(net, "y", 9, seed=1)
    assert torch.equal(weight, again.exported.state_dict["head.weight"].detach())


def test_an_output_that_is_no_layers_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'y' comes from add"):
        replace_head(program(Net("sum"), 3, 5, 5), "y", 9, seed=0)


def test_code_that_holds_the_number_of_classes_is_told_apart() -> None:
    with pytest.raises(PassError, match="9 classes"):
        replace_head(program(Net("fixed"), 3, 5, 5), "y", 9, seed=0)


def test_shared_weights_are_refused() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.up.weight = self.down.weight

        def forward(self, x):
            return {"y": self.up(torch.tanh(self.down(x)))}

    with pytest.raises(UsageError, match="shares"):
        replace_head(program(Tied(), 4), "y", 9, seed=0)
