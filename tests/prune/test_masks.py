"""The oracle itself: what it masks, and what it calls a difference."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.errors import PassError
from edgekit.graph.capture import capture
from edgekit.prune import masks
from edgekit.prune.config import PruneConfig
from edgekit.prune.coupling import analyse
from edgekit.prune.prune import prune
from edgekit.prune.shrink import Keep

INFINITE = float("inf")


@pytest.mark.parametrize(
    ("expected", "actual", "error"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -4.0], [1.4, -4.0], 0.1),
        ([1.0], [1.0, 2.0], INFINITE),
        ([1.0, float("nan")], [1.0, float("nan")], 0.0),
        ([1.0, float("nan")], [1.0, 2.0], INFINITE),
        ([1.0, 2.0], [1.0, INFINITE], INFINITE),
        ([0.0], [1e-4], 0.1),
    ],
)
def test_difference(expected, actual, error):
    found = masks.difference([torch.tensor(expected)], [torch.tensor(actual)])
    assert found == pytest.approx(error)


def test_outputs_without_a_finite_number_prove_nothing():
    nothing = torch.full((2, 3), float("nan"))
    assert masks.difference([nothing], [nothing]) == INFINITE
    assert masks.difference([nothing, torch.ones(1)], [nothing, torch.ones(1)]) == 0.0
    up, down = torch.tensor([float("inf"), 1.0]), torch.tensor([float("-inf"), 1.0])
    assert masks.difference([up], [up]) == 0.0
    assert masks.difference([up], [down]) == INFINITE


def test_an_index_is_not_a_number():
    assert masks.difference([torch.tensor([1])], [torch.tensor([1.0])]) == INFINITE
    assert masks.difference([torch.tensor([1])], [torch.tensor([2])]) == 1.0


def test_masks_come_after_activations():
    # sigmoid(0) = 0.5: a mask before it only would leave a half in the sum.
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2)).eval()
    module = capture(net, (torch.randn(2, 3),), dynamic=None).module()
    coupling = analyse(module)
    (hidden,) = coupling.tensors["0.bias"]
    roots = coupling.solution.roots
    keep = np.ones(roots.size, dtype=bool)
    keep[roots[hidden[[1, 2]]]] = False
    x = torch.randn(5, 3)
    (found,) = masks.masked_outputs(module, coupling, Keep(roots, keep), (x,))
    activation = torch.sigmoid(net[0](x))[:, [0, 3]]
    torch.testing.assert_close(found, activation @ net[2].weight[:, [0, 3]].T + net[2].bias)


def test_double_precision_reaches_constants_and_written_dtypes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 4)
            self.lstm = nn.LSTM(4, 4, batch_first=True)

        def forward(self, x):
            x = (self.inner(x) * torch.tensor([0.1, 0.2, 0.3, 0.7])).to(torch.float32)
            x = x.matmul(torch.full((4, 4), 0.1)) + torch.ones_like(x)
            return self.lstm(x)[0]

    program = capture(Net(), (torch.randn(2, 5, 3),), dynamic=None)
    module = program.module()
    (x,) = program.example_inputs()
    (exact,) = masks.plain_outputs(masks.in_double(module), masks.doubled((x,)))
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), module(x)[0], rtol=1e-4, atol=1e-5)
    assert next(module.parameters()).dtype == torch.float32


def test_a_network_that_gives_only_nan_is_not_pruned():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        net[2].bias.fill_(float("nan"))
    program = capture(net.eval(), (torch.randn(2, 8),), dynamic=None)
    with pytest.raises(PassError, match="NaN"):
        prune(program, PruneConfig(sparsity=0.5), seed=0)
