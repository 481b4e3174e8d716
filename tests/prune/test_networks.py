"""Every kind of coupling: the oracle holds, widths are those expected, the result is a network."""

import prune_nets as nets
import pytest
import torch

from edgekit.graph import modes, store
from edgekit.graph.capture import capture
from edgekit.graph.cost import cost
from edgekit.graph.program import rebuild
from edgekit.prune.config import PruneConfig
from edgekit.prune.coupling import analyse, attribute
from edgekit.prune.families import find_families
from edgekit.prune.prune import prune

HALF = PruneConfig(sparsity=0.5, minimum_channels=1)

# Each set of coupled layers and its width before; all of them are halved.
WIDTHS = {
    "residual": ["stem+blocks.0.conv2 8", "blocks.0.conv1 8", "blocks.1.conv1 16",
                 "blocks.1.conv2+blocks.1.down 16", "blocks.2.conv1 24",
                 "blocks.2.conv2+blocks.2.down 24"],
    "padded": ["a+b 8", "b 8"],
    "dense": ["stem 8", "layers.0.2 6", "layers.1.2 6", "layers.2.2 6"],
    "inception": ["a 6", "b.0 8", "b.2 10", "c.1 4"],
    "mobilenet": ["stem+project 8", "expand+depthwise+multiplied+excite 24", "squeeze 6"],
    "grouped": ["a 8", "wide 36", "b+narrow 16", "up+up_narrow 12"],
    "unet": ["down1.0 8", "down2.0 16", "bottom 24", "up2 16", "merge2 16", "merge1 8"],
    "flattened": ["conv 12", "fc1 20"],
    "autoencoder": ["down 16", "encode 12", "decode 16"],
    "generator": ["project 8", "up 12", "pixels 6"],
    "mlp": ["net.0 32", "net.4 24"],
    "shuffle": ["stem 12", "a+b 12", "c 12"],
    "shuffle-3": ["stem 8", "c 12"],
    "shuffle-unit": ["stem+a+b 8", "stem 8"],
    "split": ["stem 12", "stem+a 8", "b 8"],
    "conv1d": ["a+b 16", "cube 6"],
    "attention": ["embed+proj+v+down 16", "qkv 16", "q+k 16", "up 40"],
    "multi-head": ["embed+attend 16", "attend 16"],
    "tagger": ["embed 8", "inner 12", "lstm 10", "mid 14"],
    "recurrent": ["first 8", "stacked 10", "gru 6", "plain 6"],
    "projected": ["lstm 6", "lstm 2"],
    "cells": ["encode 8", "cell 10", "other 6"],
    "tied": ["embed+twice+outer 16", "inner 20"],
    "products": ["w1 12", "w2+token 10"],
    "frozen": ["b 16"],
}  # fmt: skip

# Operators that froze parameters, beside inputs and outputs.
FREEZING = {
    "shuffle-3": {"(all channels coupled)"},
    "split": {"aten.select", "aten.slice"},
    "conv1d": {"aten.conv3d"},
    "frozen": {"aten.cumsum"},
}


@pytest.mark.parametrize("name", nets.NETS)
def test_half_of_everything_goes(name):
    program = nets.program(name)
    pruned, report = prune(program, HALF, seed=0)
    assert [f"{'+'.join(g.layers)} {g.before}" for g in report.groups] == WIDTHS[name]
    # Coupled widths that count several channels an index (a group, a head) are halved in indices.
    assert all(g.after * 2 == g.before for g in report.groups)
    assert set(report.frozen) - {"(input)", "(output)"} == FREEZING.get(name, set())
    assert report.zero_mask_dtype == "float64"
    assert report.zero_mask_max_error <= 1e-12
    assert report.macs_after < report.macs_before
    assert report.parameters_after < report.parameters_before
    assert (report.macs_after, report.parameters_after) == (
        cost(pruned).macs,
        cost(pruned).parameters,
    )
    assert pruned.outputs == program.outputs
    assert pruned.inputs == program.inputs


@pytest.mark.parametrize(
    "name",
    ["mobilenet", "grouped", "generator", "shuffle", "split", "tagger", "recurrent", "products"],
)
def test_removing_dead_channels_changes_nothing(name):
    # No masks here: every weight of half the groups is zero, so nothing reads or writes them, and
    # the network without them must compute the same.
    program = nets.program(name)
    module = program.module()
    coupling = analyse(module)
    families = find_families(coupling, program.name_map())
    dead = {int(r) for f in families.families for r in f.groups[::2]}
    for tensor_name, dims in coupling.tensors.items():
        tensor = attribute(module, tensor_name)
        for axis, dim in enumerate(dims):
            if isinstance(tensor, torch.nn.Parameter) and not hasattr(dim, "cause"):
                roots = coupling.solution.roots[dim].tolist()
                index = torch.tensor([i for i, r in enumerate(roots) if r in dead])
                tensor.data.index_fill_(axis, index.long(), 0.0)
    silenced = rebuild(module, program)
    pruned, report = prune(silenced, HALF, seed=3)
    assert all(g.after < g.before for g in report.groups)
    for batch in (1, 5):
        inputs = program.example_inputs(batch=batch, seed=7)
        with torch.no_grad():
            expected, actual = silenced.module()(*inputs), pruned.module()(*inputs)
        for a, b in zip(expected, actual, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["residual", "flattened", "attention"])
def test_the_result_loads_and_trains(name, tmp_path):
    pruned, _ = prune(nets.program(name), HALF, seed=0)
    store.save(pruned, tmp_path / "model.pt2")
    loaded = store.load(tmp_path / "model.pt2")
    module = loaded.module()
    inputs = loaded.example_inputs(batch=6)
    for a, b in zip(module(*inputs), pruned.module()(*inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    modes.set_training(module, training=True)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = sum(out.square().mean() for out in module(*inputs))
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    again, report = prune(rebuild(module, loaded), HALF, seed=0)  # and can be pruned once more
    assert report.zero_mask_max_error <= 1e-12
    assert again.inputs == pruned.inputs


def test_tied_weights_shrink_together():
    program = nets.program("tied")
    pruned, _ = prune(program, HALF, seed=0)
    assert pruned.ties == program.ties != ()
    module = pruned.module()
    state = dict(module.named_parameters(remove_duplicate=False))
    (names,) = pruned.ties
    assert len({id(state[n]) for n in names}) == 1
    assert {tuple(state[n].shape) for n in names} == {(11, 8)}


def test_names_survive():
    program = nets.program("residual")
    pruned, _ = prune(program, HALF, seed=0)
    assert set(pruned.name_map().values()) == set(program.name_map().values())


def test_weights_are_those_of_the_kept_channels():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 2)
    ).eval()
    strength = torch.tensor([5.0, 1.0, 4.0, 2.0, 6.0, 3.0])
    with torch.no_grad():
        net[0].weight.copy_(strength[:, None].expand(6, 3))
        net[3].weight.copy_(strength.expand(2, 6))
        net[1].running_mean.copy_(strength)
    program = capture(net, (torch.randn(2, 3),), dynamic=None)
    pruned, _ = prune(program, HALF, seed=0)
    kept = [0, 2, 4]
    state = pruned.module().state_dict()
    torch.testing.assert_close(state["0.weight"], net[0].weight[kept])
    torch.testing.assert_close(state["0.bias"], net[0].bias[kept])
    torch.testing.assert_close(state["1.running_mean"], net[1].running_mean[kept])
    torch.testing.assert_close(state["3.weight"], net[3].weight[:, kept])
    torch.testing.assert_close(state["3.bias"], net[3].bias)
    x = torch.randn(4, 3)
    hidden = torch.relu(net[1](net[0](x)))[:, kept]
    torch.testing.assert_close(
        pruned.module()(x)[0], hidden @ net[3].weight[:, kept].T + net[3].bias
    )


def test_static_shapes():
    net, x = nets.build("flattened")
    program = capture(net, (x,), dynamic={"x": list(x.shape)})
    pruned, report = prune(program, HALF, seed=0)
    assert pruned.inputs[0].shape == (2, 3, 8, 8)
    assert [g.after for g in report.groups] == [6, 10]


def test_dynamic_height_and_width():
    net, x = nets.build("unet")
    program = capture(net, (x,), dynamic={"x": ["batch", 3, "4*h", "4*w"]})
    pruned, report = prune(program, HALF, seed=0)
    assert pruned.inputs[0].shape == ("batch", 3, "4*h", "4*w")
    assert len(report.groups) == 6
    assert pruned.module()(torch.randn(3, 3, 12, 16))[0].shape == (3, 2, 12, 16)


def test_everything_that_is_an_output_keeps_its_width():
    class Two(nets.Mlp):
        def forward(self, x):
            hidden = torch.relu(self.net[0](x))
            return self.net[7](self.net[4](hidden)), hidden.mean(0, keepdim=True)

    torch.manual_seed(0)
    program = capture(Two().eval(), (torch.randn(4, 7),), dynamic=None)
    pruned, report = prune(program, HALF, seed=0)
    assert [(g.layers, g.before, g.after) for g in report.groups] == [(("net.4",), 24, 12)]
    assert pruned.outputs == program.outputs
    assert "net.0" in report.frozen["(output)"].layers


def test_pruning_copies_no_weight_that_it_keeps_whole():
    program = nets.program("mlp")
    config = HALF.model_copy(update={"protect": ("net.4",)})
    pruned, _ = prune(program, config, seed=0)
    before, after = program.exported.state_dict, pruned.exported.state_dict
    assert after["net.7.weight"].data_ptr() == before["net.7.weight"].data_ptr()
    assert after["net.0.weight"].data_ptr() != before["net.0.weight"].data_ptr()
    # What is trained further is a copy.
    module = pruned.module()
    with torch.no_grad():
        module.get_parameter("net.7.weight").zero_()
    assert before["net.7.weight"].any()
