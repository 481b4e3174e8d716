"""Features by the user's names, and taps as outputs of a copy."""

import pytest
import torch
from torch import nn

from edgekit.graph.capture import capture
from edgekit.graph.program import rebuild
from edgekit.graph.taps import add_outputs, drop_outputs, features


class Block(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, out, 3, 2, 1), nn.BatchNorm2d(out)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    """Convolutions, then tokens, a recurrence and a linear layer, all with other shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Block(1, 4), Block(4, 6))
        self.proj, self.norm = nn.Linear(6, 5), nn.LayerNorm(5)
        self.rnn, self.last = nn.GRU(5, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, x):
        tokens = self.norm(self.proj(self.layers(x).flatten(2).mT)) * 2
        return {"logits": self.last(self.rnn(tokens)[0].mean(1))}


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    x = torch.randn(4, 1, 16, 16)
    return capture(Net().eval(), {"x": x}, dynamic={"x": ["batch", 1, 16, 16]})


def test_features_by_name_with_their_channels(program) -> None:
    found = {name: (f.channels, f.positions) for name, f in features(program).items()}
    assert found == {
        "layers.0.conv": (4, (8, 8)),
        "layers.0.norm": (4, (8, 8)),
        "layers.0": (4, (8, 8)),
        "layers.1.conv": (6, (4, 4)),
        "layers.1.norm": (6, (4, 4)),
        "layers.1": (6, (4, 4)),
        "layers": (6, (4, 4)),
        "flatten": (6, (16,)),
        "m_t": (6, (16,)),
        "proj": (5, (16,)),
        "norm": (5, (16,)),
        "mul": (5, (16,)),
        "rnn": (7, (16,)),
        "mean": (7, ()),
    }


def test_a_module_hands_on_what_it_returns(program) -> None:
    net = Net().eval()
    net.load_state_dict(program.exported.state_dict, strict=True)
    seen = {}
    for name in ("layers.0", "layers", "proj", "norm", "rnn"):
        net.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: out})
        )
    x = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        net(x)
        known, module = features(program), program.module()
        add_outputs(module, [known[name].node for name in seen])
        _, *taps = module(x)
    for (name, expected), value in zip(seen.items(), taps, strict=True):
        whole = expected[0] if isinstance(expected, tuple) else expected
        torch.testing.assert_close(value, whole, rtol=1e-5, atol=1e-6)
        assert value.movedim(known[name].axis, 1).shape[1] == known[name].channels


def test_taps_leave_nothing_behind(program) -> None:
    module, x = program.module(), torch.randn(3, 1, 16, 16)
    add_outputs(module, ["relu", "mean"])
    assert len(module(x)) == 3
    drop_outputs(module, 2)
    again = rebuild(module, like=program)
    assert again.outputs == program.outputs
    torch.testing.assert_close(again.module()(x), program.module()(x), rtol=0, atol=0)


class Twice(nn.Module):
    """One block, called twice; its first value is used by itself alone."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2)

    def forward(self, x):
        return {"y": self.last(self.block(self.block(x)))}


def test_a_block_that_is_called_twice_is_tapped_at_its_end() -> None:
    net = Twice().eval()
    program = capture(net, {"x": torch.randn(4, 4)}, dynamic={"x": ["batch", 4]})
    module, x = program.module(), torch.randn(3, 4)
    add_outputs(module, [features(program)["block"].node])
    torch.testing.assert_close(module(x)[1], net.block(net.block(x)), rtol=1e-5, atol=1e-6)
