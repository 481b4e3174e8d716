import dataclasses
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from edgekit.errors import PassError, UsageError
from edgekit.graph import modes
from edgekit.graph.capture import capture, load_factory, load_weights
from edgekit.graph.program import rebuild

sys.path.insert(0, str(Path(__file__).parent))
import nets


def captured(name):
    module, example, dynamic = nets.example(name)
    return module, capture(module, example, dynamic=dynamic)


def shapes(specs):
    return {spec.name: spec.shape for spec in specs}


def test_dict_output_becomes_named_outputs():
    module, program = captured("conv")
    assert shapes(program.inputs) == {"image": ("batch", 3, 8, 8)}
    assert shapes(program.outputs) == {"logits": ("batch", 5), "features": ("batch", 16)}
    for batch in (1, 2, 5):
        inputs = program.example_inputs(batch)
        expected = module.eval()(*inputs)
        logits, features = program.module()(*inputs)
        torch.testing.assert_close(logits, expected["logits"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(features, expected["features"], rtol=1e-5, atol=1e-6)


def test_dataclass_output_and_keyword_inputs():
    module, program = captured("two")
    assert [spec.name for spec in program.inputs] == ["left", "right"]
    assert [spec.name for spec in program.outputs] == ["scores", "parts_0", "parts_1_deep"]
    left, right = program.example_inputs(3)
    expected = module.eval()(left, right=right)
    scores, x, deep = program.module()(left, right)
    torch.testing.assert_close(scores, expected.scores)
    torch.testing.assert_close(x, expected.parts[0])
    torch.testing.assert_close(deep, expected.parts[1]["deep"])


def test_positional_example_and_constant_argument():
    class Scaled(nn.Module):
        def forward(self, x, factor=1.0):
            return x * factor

    program = capture(Scaled(), (torch.ones(2, 3), 4.0))
    assert program.module()(torch.ones(5, 3))[0].max() == 4.0
    assert shapes(program.outputs) == {"output": ("batch", 3)}


def test_output_named_like_an_input_gets_another_name():
    class Same(nn.Module):
        def forward(self, x):
            return {"x": x + 1}

    program = capture(Same(), (torch.ones(2, 3),))
    assert program.outputs[0].name != "x"


def test_the_module_is_left_as_it_was():
    module = nets.DropsInTraining()
    module.train()
    module.attention.eval()
    before = {name: child.training for name, child in module.named_modules()}
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    capture(module, (torch.randn(1, 3, 6, 6),))
    assert {name: child.training for name, child in module.named_modules()} == before
    assert "forward" not in vars(module)
    assert module.bn.momentum is None
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_the_module_is_left_as_it_was_after_a_failure():
    class Broken(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    module = Broken()
    with pytest.raises(PassError, match="cannot be captured") as error:
        capture(module, (torch.ones(2, 3),))
    assert "Traceback" not in str(error.value)
    assert len(str(error.value)) < 1000
    assert "forward" not in vars(module)
    assert module.training


def test_multiples_are_named_dimensions():
    module, program = captured("image")
    assert program.inputs[0].shape == ("batch", 1, "4*h", "4*w")
    assert program.outputs[0].shape == ("batch", 1, "4*h", "4*w")
    assert program.warnings == ()
    for size in ((1, 1, 4, 4), (3, 1, 8, 20)):
        x = torch.randn(size)
        torch.testing.assert_close(program.module()(x)[0], module.eval()(x))


def test_a_missing_multiple_is_found_and_told():
    module, example, _ = nets.example("image")
    program = capture(module, example, dynamic={"x": ["batch", 1, "h", "w"]})
    assert program.inputs[0].shape[0] == "batch"
    assert any("'h'" in warning for warning in program.warnings)


def test_a_dimension_that_cannot_stay_open_becomes_static_with_a_warning():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 2)

        def forward(self, x):
            return self.fc(x.flatten(1))

    program = capture(Fixed(), (torch.randn(2, 3, 4),), dynamic={"x": ["batch", 3, "time"]})
    assert program.inputs[0].shape == ("batch", 3, 4)
    assert any("'time'" in w and "4" in w for w in program.warnings)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_keep_their_time_open(kind):
    torch.manual_seed(0)
    module = nets.Recurrent(kind).eval()
    program = capture(module, (torch.randn(1, 7, 5),), dynamic={"x": ["batch", "time", 5]})
    assert program.outputs[0].shape == ("batch", "time", 3)
    for size in ((1, 3, 5), (4, 12, 5)):
        x = torch.randn(size)
        torch.testing.assert_close(program.module()(x)[0], module(x))


def test_ties_are_recorded_and_kept_through_training_and_rebuilding():
    module, program = captured("tied")
    assert program.ties == (("embed.weight", "head.weight"),)
    graph = program.module()
    assert graph.get_parameter("embed.weight") is graph.get_parameter("head.weight")
    again = rebuild(graph, program)
    assert again.ties == program.ties
    assert again.module().get_parameter("head.weight") is not graph.get_parameter("head.weight")
    assert program.example_inputs()[0].max() <= 10
    del module


def test_train_time_behaviour_is_told():
    program = capture(nets.DropsInTraining(), (torch.randn(1, 3, 6, 6),))
    told = "\n".join(program.dropped)
    assert "attention: dropout of 0.25 on attention weights" in told
    assert "bernoulli" in told
    assert "auxiliary: runs in training only" in told
    assert "1 more outputs" in told
    assert "bn: " in told
    assert "momentum=None" in told


def test_nothing_is_told_where_nothing_is_dropped():
    for name in ("conv", "two", "tied", "lstm", "image"):
        assert captured(name)[1].dropped == ()


def test_cumulative_batch_norm_trains():
    program = capture(nets.DropsInTraining(), (torch.randn(1, 3, 6, 6),))
    graph = program.module()
    modes.set_training(graph, training=True)
    before = graph.get_buffer("bn.running_mean").clone()
    graph(*program.example_inputs(4))
    assert not torch.equal(graph.get_buffer("bn.running_mean"), before)


def test_no_grad_regions_are_inlined_and_still_stop_gradients():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            with torch.no_grad():
                x = self.body(x).relu_()
            return self.head(x)

    module = Frozen()
    program = capture(module, (torch.randn(2, 3),))
    targets = [str(n.target) for n in program.exported.graph.nodes]
    assert not any("wrap_with" in target for target in targets)
    graph = program.module()
    x = torch.randn(4, 3)
    torch.testing.assert_close(graph(x)[0], module(x))
    graph(x)[0].sum().backward()
    assert graph.get_parameter("body.weight").grad is None
    assert graph.get_parameter("head.weight").grad is not None


def test_autocast_is_inlined_with_a_warning():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = self.fc(x)
            return y.float() + 1

    program = capture(Cast(), (torch.randn(2, 3),))
    assert not any("autocast" in str(n.target) for n in program.exported.graph.nodes)
    assert any("Autocast" in warning for warning in program.warnings)
    assert program.module()(torch.randn(5, 3))[0].shape == (5, 3)


def test_complex_tensors_are_refused():
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x)

    with pytest.raises(UsageError, match="complex"):
        capture(Spectrum(), (torch.randn(2, 8),))
    with pytest.raises(UsageError, match="complex"):
        capture(Spectrum(), (torch.randn(2, 8, dtype=torch.complex64),))


def test_packed_sequences_are_refused():
    packed = pack_padded_sequence(torch.randn(3, 2, 4), torch.tensor([3, 2]))
    with pytest.raises(UsageError, match="packed sequence"):
        capture(nn.Identity(), (packed,))


def test_key_value_caches_are_refused():
    @dataclasses.dataclass
    class DynamicCache:
        keys: torch.Tensor

    class Cached(nn.Module):
        def forward(self, x):
            return {"y": x, "past": DynamicCache(x + 1)}

    with pytest.raises(UsageError, match="key-value cache"):
        capture(Cached(), (torch.randn(2, 8),))


def test_a_buffer_that_is_written_in_eval_mode_is_refused():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(3))

        def forward(self, x):
            self.calls.add_(1)
            return x + self.calls

    module = Counts()
    with pytest.raises(PassError, match="buffer 'calls'"):
        capture(module, (torch.randn(2, 3),))
    assert module.calls.sum() == 0


@pytest.mark.parametrize(
    ("example", "dynamic", "message"),
    [
        ({"imag": torch.ones(1, 3, 8, 8)}, None, "Did you mean 'image'"),
        ({"image": torch.ones(1, 3, 8, 8)}, {"imge": ["batch"]}, "Did you mean 'image'"),
        ({"image": torch.ones(1, 3, 8, 8)}, {"image": ["batch"]}, "1 entries"),
        ({"image": torch.ones(1, 3, 8, 8)}, {"image": ["b", 3, "3*h", 8]}, "3\\*h"),
        ({"image": torch.ones(1, 3, 8, 8)}, {"image": ["a b", 3, 8, 8]}, "not a dimension"),
        ({"image": torch.ones(1, 3, 8, 8)}, {"image": ["b", 4, 8, 8]}, "declared 4"),
        ({"image": "picture"}, None, "holds no tensor"),
        ((), None, "does not fit"),
    ],
)
def test_wrong_examples_are_refused(example, dynamic, message):
    with pytest.raises(UsageError, match=message):
        capture(nets.Convolutional(), example, dynamic=dynamic)


def test_two_sizes_of_one_dimension_are_refused():
    with pytest.raises(UsageError, match="'batch' is"):
        capture(nets.TwoInputs(), {"left": torch.randn(2, 4), "right": torch.randn(3, 3)})


def test_weights_load_or_name_what_does_not_fit(tmp_path):
    module = nn.Linear(3, 2)
    torch.save(module.state_dict(), tmp_path / "good.pt")
    other = nn.Linear(3, 2)
    load_weights(other, tmp_path / "good.pt")
    assert torch.equal(other.weight, module.weight)
    torch.save(
        {"state_dict": {"weight": torch.ones(2, 4), "extra": torch.ones(1)}}, tmp_path / "b.pt"
    )
    with pytest.raises(UsageError, match=r"shape: weight .*; unexpected: extra; missing: bias"):
        load_weights(other, tmp_path / "b.pt")
    (tmp_path / "broken.pt").write_bytes(b"not a zip")
    with pytest.raises(UsageError, match="cannot be read"):
        load_weights(other, tmp_path / "broken.pt")
    with pytest.raises(UsageError, match="does not exist"):
        load_weights(other, tmp_path / "none.pt")


def test_tied_weights_may_be_saved_once(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    module, other = nets.example("tied")[0], nets.example("tied")[0]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    safetensors.save_model(module, str(tmp_path / "w.safetensors"))
    load_weights(other, tmp_path / "w.safetensors")
    for name, value in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_pickled_weights_do_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (marker,))

    torch.save({"weight": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(UsageError):
        load_weights(nn.Linear(3, 2), tmp_path / "evil.pt")
    assert not marker.exists()


def test_safetensors_weights(tmp_path):
    from safetensors.torch import save_file

    module, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other.weight, module.weight)


def test_factories_come_from_files(tmp_path):
    (tmp_path / "my_net_factory.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Linear(3, 2)\n"
    )
    assert isinstance(load_factory("my_net_factory.py:build", tmp_path)(), nn.Linear)
    with pytest.raises(UsageError, match="build"):
        load_factory("my_net_factory.py:biuld", tmp_path)


def test_name_map_speaks_of_the_users_modules_after_two_rebuilds():
    _, program = captured("conv")
    again = rebuild(rebuild(program.module(), program).module(), program)
    for one in (program, again):
        paths = set(one.name_map().values())
        assert {"layers.0.conv1", "layers.0.bn1", "layers.1.skip", "drop", "fc"} <= paths
        by_target = {
            one.name_map().get(n.name)
            for n in one.exported.graph.nodes
            if "conv2d" in str(n.target)
        }
        assert by_target == {f"layers.{i}.{n}" for i in (0, 1) for n in ("conv1", "conv2", "skip")}
    assert again.inputs == program.inputs
    assert again.outputs == program.outputs


def test_rebuild_follows_shrunk_layers():
    _, program = captured("conv")
    graph = program.module()
    fc = graph.get_submodule("fc")
    fc.weight = nn.Parameter(fc.weight[:3].detach().clone())
    fc.bias = nn.Parameter(fc.bias[:3].detach().clone())
    smaller = rebuild(graph, program, warnings=("shrunk",))
    assert shapes(smaller.outputs)["logits"] == ("batch", 3)
    assert smaller.warnings == ("shrunk",)
    fc.bias = nn.Parameter(torch.zeros(4))
    with pytest.raises(PassError, match="cannot be captured"):
        rebuild(graph, program)


def test_module_shares_nothing_with_the_program():
    _, program = captured("conv")
    graph = program.module()
    with torch.no_grad():
        graph.get_parameter("fc.weight").zero_()
    assert program.exported.state_dict["fc.weight"].abs().sum() > 0


def test_mode_switch_reaches_every_kind_of_layer():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 4, 1)
            self.bn, self.instance = nn.BatchNorm1d(4), nn.InstanceNorm1d(4)
            self.untracked = nn.BatchNorm1d(4, track_running_stats=False)
            self.tracked = nn.InstanceNorm1d(4, track_running_stats=True)
            self.gru = nn.GRU(6, 3, 2, dropout=0.5, batch_first=True)
            self.lstm = nn.LSTM(3, 3, 2, dropout=0.5, batch_first=True)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            x = self.tracked(self.instance(self.untracked(self.bn(self.conv(x)))))
            return F.alpha_dropout(self.drop(self.lstm(self.gru(x)[0])[0]), 0.5, self.training)

    program = capture(Layers(), (torch.randn(2, 2, 6),))
    graph = program.module()
    flags = {"batch_norm", "gru", "lstm", "dropout", "alpha_dropout", "instance_norm_1"}

    def on():
        found = set()
        for node in graph.graph.nodes:
            place = modes.training_argument(node)
            if place is not None and node.args[place[0]]:
                found.add(node.name)
        return found

    assert on() == set()
    modes.set_training(graph, training=True)
    assert on() == flags
    assert graph.training
    modes.set_training(graph, training=False)
    assert on() == set()
    graph(torch.randn(2, 2, 6))  # the norms without running statistics keep using the batch's


def test_to_device_moves_constants_and_factories():
    class Made(nn.Module):
        def forward(self, x):
            return x + torch.arange(3, device=x.device) + torch.tensor([1.0, 2.0, 3.0])

    graph = capture(Made(), (torch.randn(2, 3),)).module()
    modes.to_device(graph, "meta")
    assert graph(torch.empty(5, 3, device="meta"))[0].device.type == "meta"


@pytest.mark.parametrize("name", ["code", "graph"])
def test_a_part_with_a_name_of_pytorchs_own_is_refused(name):
    module = nn.Sequential(OrderedDict([(name, nn.Linear(3, 3))]))
    with pytest.raises(UsageError, match=name):
        capture(module, {"input": torch.randn(2, 3)}, dynamic=None)
