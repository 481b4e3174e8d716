import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgekit.errors import PassError
from edgekit.graph.capture import capture
from edgekit.graph.functionalise import functionalise
from edgekit.graph.program import assemble
from edgekit.graph.trace import run_export

# Each step takes the list of live tensors and changes it; views and writes mix freely.
STEPS = {
    "relu_": lambda ts, i: ts[i].relu_(),
    "add_": lambda ts, i: ts[i].add_(1.5),
    "iadd": lambda ts, i: ts[i].__iadd__(ts[0].mean()),
    "mul_": lambda ts, i: ts[i].mul_(-2.0),
    "copy_": lambda ts, i: ts[i].copy_(ts[i].sin()),
    "fill": lambda ts, i: ts[i][..., 0].fill_(3.0),
    "zero": lambda ts, i: ts[i].select(-1, 1).zero_(),
    "setitem": lambda ts, i: ts[i].__setitem__((..., 1), ts[i].sum()),
    "setslice": lambda ts, i: ts[i].__setitem__((slice(None), slice(0, 2)), 0.5),
    "masked": lambda ts, i: ts[i].masked_fill_(ts[i] > 1, 0.0),
    "clamp_": lambda ts, i: ts[i].clamp_(-1.0, 2.0),
    "view": lambda ts, i: ts.append(ts[i].view(ts[i].shape)),
    "reshape": lambda ts, i: ts.append(ts[i].reshape(ts[i].shape[0], -1)),
    "transpose": lambda ts, i: ts.append(ts[i].transpose(0, -1)),
    "slice": lambda ts, i: ts.append(ts[i][:, :2]),
    "unsqueeze": lambda ts, i: ts.append(ts[i].unsqueeze(-1).squeeze(-1)),
    "chunk": lambda ts, i: ts.extend(ts[i].chunk(2, 0)),
    "clone": lambda ts, i: ts.append(ts[i].clone()),
    "dropout": lambda ts, i: ts.append(nn.functional.dropout(ts[i], 0.5, False)),
    "contiguous": lambda ts, i: ts.append(ts[i].contiguous()),
    "out": lambda ts, i: ts.append(ts[i] * 2 + 1),
    "detach": lambda ts, i: ts.append(ts[i].detach()),
}


class Chain(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def forward(self, x):
        tensors = [x * 1.0]
        for name, pick in self.steps:
            STEPS[name](tensors, pick % len(tensors))
        return tuple(tensors)


@settings(max_examples=35, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 6)), min_size=2, max_size=7)
)
def test_chains_of_writes_and_views_compute_what_eager_does(steps):
    x = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(1))
    module = Chain(steps)
    expected = module(x.clone())
    program = program_of(module, x)
    for node in program.exported.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable, node
    found = program.module()(x.clone())
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def program_of(module, x):
    exported = run_export(torch.export.export, module, (x.clone(),), None)
    functionalise(exported)
    names = [f"y{i}" for i in range(len(exported.graph_signature.user_outputs))]
    return assemble(exported, {}, input_names=["x"], output_names=names)


def run(function, *inputs):
    class Module(nn.Module):
        def forward(self, x):
            return function(x)

    expected = function(inputs[0].clone())
    program = capture(Module(), tuple(t.clone() for t in inputs))
    return program, program.module()(inputs[0].clone())[0], expected


def test_a_write_to_a_base_is_seen_through_older_views():
    def function(x):
        base = x + 1
        view = base[:, 1:]
        base.mul_(2)
        return view.sum(1)

    _, found, expected = run(function, torch.randn(3, 4))
    assert torch.equal(found, expected)


def test_a_write_through_a_view_is_seen_in_its_base():
    def function(x):
        base = x + 1
        base[:, 1:].t().add_(5)
        first, _ = base.split(2, dim=1)
        first.mul_(3)
        return base

    _, found, expected = run(function, torch.randn(3, 4))
    assert torch.equal(found, expected)


def test_shape_changes_in_place():
    def function(x):
        y = x * 2
        whole = y.view(-1)
        y.unsqueeze_(1)
        y.add_(1)
        y.transpose_(0, 2)
        return y.sum() + whole.sum(), y

    _, found, expected = run(function, torch.randn(3, 4))
    assert torch.equal(found, expected[0])


def test_the_users_input_is_not_written():
    program, found, _ = run(lambda x: x.add_(1), torch.zeros(2, 3))
    x = torch.zeros(2, 3)
    assert program.module()(x)[0].sum() == 6
    assert x.sum() == 0
    assert found.sum() == 6


def test_dtype_of_the_written_tensor_stays():
    def function(x):
        y = x.half()
        y += x
        return y

    program, found, expected = run(function, torch.randn(2, 3))
    assert found.dtype == torch.float16
    assert torch.equal(found, expected)
    assert program.outputs[0].dtype == "float16"


def test_a_write_through_an_overlapping_view_is_refused():
    class Strided(nn.Module):
        def forward(self, x):
            y = x + 1
            torch.as_strided(y, (2, 2), (1, 1)).add_(1)
            return y

    with pytest.raises(PassError, match="as_strided"):
        capture(Strided(), (torch.randn(2, 3),), dynamic={})


def test_a_network_without_writes_is_left_alone():
    program = capture(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), (torch.randn(2, 3),))
    assert [n.name for n in program.exported.graph.nodes if n.op == "call_function"] == [
        "linear",
        "relu",
    ]
