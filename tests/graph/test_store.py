"""A stored program lives without its source, and a hostile file runs nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit.artifact import content_hash
from edgekit.errors import UsageError
from edgekit.graph import store
from edgekit.graph.capture import capture
from edgekit.graph.cost import cost
from edgekit.graph.program import rebuild
from edgekit.graph.quiet import quiet

sys.path.insert(0, str(Path(__file__).parent))
import nets
from archives import members

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NAMES = ("conv", "two", "tied", "lstm", "image")

TRAIN = """
import sys, torch
from pathlib import Path
from edgekit.graph import modes, store
from edgekit.graph.program import rebuild

torch.set_num_threads(1)
for name in sys.argv[2:]:
    assert "nets" not in sys.modules
    path = Path(sys.argv[1]) / f"{name}.pt2"
    program = store.load(path)
    saved = torch.load(path.with_suffix(".expected"), weights_only=True)
    graph = program.module()
    for found, expected in zip(graph(*saved["inputs"]), saved["outputs"], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    modes.set_training(graph, True)
    inputs = program.example_inputs(4)
    before = {n: t.clone() for n, t in graph.state_dict().items()}
    torch.manual_seed(0)
    first, second = graph(*inputs), graph(*inputs)
    if name in ("conv", "lstm"):
        assert not torch.equal(first[0], second[0]), "dropout is not active"
    optimizer = torch.optim.SGD(graph.parameters(), lr=0.1)
    sum(o.float().pow(2).mean() for o in graph(*inputs)).backward()
    optimizer.step()
    after = graph.state_dict()
    for key, parameter in graph.named_parameters():
        assert parameter.grad is not None, key
        if not key.endswith(("conv1.bias", "conv2.bias", "down.bias")):
            assert not torch.equal(before[key], after[key]), f"{name} {key} did not move"
    for key in after:
        if key.endswith("running_mean"):
            assert not torch.equal(before[key], after[key]), f"{key} did not move"
    for group in program.ties:
        tensors = [graph.get_parameter(n) for n in group]
        assert all(t is tensors[0] for t in tensors), "a tie came apart"
    modes.set_training(graph, False)
    evaluated = graph(*inputs)
    again = rebuild(graph, program)
    assert again.inputs == program.inputs and again.outputs == program.outputs
    assert again.ties == program.ties and set(again.name_map().values()) == set(
        program.name_map().values()
    )
    store.save(again, path)
    for a, b in zip(store.load(path).module()(*inputs), evaluated, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    print(name, "ok")
"""

SAVE = """
import sys, torch
from pathlib import Path
from edgekit.artifact import content_hash
sys.path.insert(0, sys.argv[1])
import nets
from edgekit.graph import store
from edgekit.graph.capture import capture
torch.set_num_threads(1)
for name in ("conv", "image", "lstm"):
    module, example, dynamic = nets.example(name)
    path = Path(sys.argv[2]) / f"{name}.pt2"
    store.save(capture(module, example, dynamic=dynamic), path)
    print(content_hash([path]))
"""


def python(code, *arguments, hash_seed="0"):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_programs_train_and_evaluate_in_a_fresh_process_without_their_source(tmp_path):
    for name in NAMES:
        module, example, dynamic = nets.example(name)
        program = capture(module, example, dynamic=dynamic)
        store.save(program, tmp_path / f"{name}.pt2")
        inputs = program.example_inputs(3)
        outputs = program.module()(*inputs)
        torch.save(
            {"inputs": list(inputs), "outputs": [o.detach() for o in outputs]},
            tmp_path / f"{name}.expected",
        )
    assert python(TRAIN, tmp_path, *NAMES).split() == [w for n in NAMES for w in (n, "ok")]


def test_the_same_program_has_the_same_hash_in_every_process(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    one = python(SAVE, HERE, tmp_path / "a", hash_seed="1")
    two = python(SAVE, HERE, tmp_path / "b", hash_seed="2")
    assert one == two
    assert len(one.split()) == 3
    assert (tmp_path / "a/conv.pt2").read_bytes() == (tmp_path / "b/conv.pt2").read_bytes()


def test_files_hold_no_pickle_and_nothing_of_the_users_disk(path):
    content = members(path)
    assert content["data/sample_inputs/model.pt"] == b""
    everything = b"".join(content.values())
    assert b"stack_trace" not in everything
    assert str(HERE).encode() not in everything
    assert b"site-packages" not in everything


def test_saving_twice_and_after_loading_gives_the_same_file(plain, path, tmp_path):
    first = path.read_bytes()
    store.save(store.load(path), tmp_path / "again.pt2")
    assert (tmp_path / "again.pt2").read_bytes() == first
    assert content_hash([path]) == content_hash([path])
    assert list(tmp_path.glob(".*")) == []
    assert store.load(path).inputs == plain.inputs


def test_a_missing_folder_is_told(plain, tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        store.save(plain, tmp_path / "nowhere" / "net.pt2")


def test_plain_torch_export_files_load(tmp_path):
    module = nets.Convolutional().eval()
    batch = torch.export.Dim("batch")
    exported = torch.export.export(module, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, tmp_path / "plain.pt2")
    program = store.load(tmp_path / "plain.pt2")
    assert [str(s) for s in program.inputs] == ["image: float32[batch, 3, 8, 8]"]
    assert [s.name for s in program.outputs] == ["logits", "features"]
    assert not any(
        n.target._schema.is_mutable
        for n in program.exported.graph.nodes
        if isinstance(n.target, torch._ops.OpOverload)
    )
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(program.module()(x)[0], module(x)["logits"], rtol=1e-5, atol=1e-6)
    store.save(rebuild(program.module(), program), tmp_path / "ours.pt2")
    assert store.load(tmp_path / "ours.pt2").outputs == program.outputs


def test_foreign_keyword_inputs_become_positional(tmp_path):
    module = nets.TwoInputs().eval()

    class Tuple(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, left, right):
            return self.inner(left, right=right).scores

    exported = torch.export.export(Tuple(), (torch.randn(2, 4),), {"right": torch.randn(2, 3)})
    torch.export.save(exported, tmp_path / "plain.pt2")
    program = store.load(tmp_path / "plain.pt2")
    left, right = program.example_inputs()
    torch.testing.assert_close(program.module()(left, right)[0], module(left, right=right).scores)


def test_custom_operators_load_with_their_import(tmp_path, monkeypatch):
    (tmp_path / "edgekit_test_custom_op.py").write_text(
        "import torch\n"
        "@torch.library.custom_op('edgekit_test::twice', mutates_args=())\n"
        "def twice(x: torch.Tensor) -> torch.Tensor:\n    return x * 2\n"
        "@twice.register_fake\n"
        "def _(x):\n    return torch.empty_like(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import edgekit_test_custom_op

    class Net(nn.Module):
        def forward(self, x):
            return edgekit_test_custom_op.twice(x)

    program = capture(Net(), (torch.randn(2, 3),), imports=["edgekit_test_custom_op"])
    store.save(program, tmp_path / "custom.pt2")
    with pytest.raises(UsageError, match="'edgekit_test'"):
        store.load(tmp_path / "custom.pt2")
    again = store.load(tmp_path / "custom.pt2", imports=program.imports)
    assert again.module()(torch.ones(4, 3))[0].sum() == 24
    with pytest.raises(UsageError, match="cannot be imported"):
        store.load(tmp_path / "custom.pt2", imports=["edgekit_no_such_module"])


class NamedBadly(nn.Module):
    """Inputs with names that the file's format uses too."""

    def forward(self, metadata, device, tensor_values):
        return {"token": metadata + device, "class_fqn": tensor_values}


def test_inputs_may_be_called_like_keys_of_the_format(tmp_path):
    example = {name: torch.ones(2, 3) for name in ("metadata", "device", "tensor_values")}
    store.save(capture(NamedBadly(), example), tmp_path / "m.pt2")
    program = store.load(tmp_path / "m.pt2")
    assert [s.name for s in program.inputs] == ["metadata", "device", "tensor_values"]
    assert [s.name for s in program.outputs] == ["token", "class_fqn"]
    first, _ = program.module()(*example.values())
    assert torch.equal(first, torch.full((2, 3), 2.0))


def test_a_loaded_program_with_multiples_is_measured_and_lowered(tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2)).eval()
    program = capture(
        network,
        {"input": torch.ones(2, 1, 24, 16)},
        dynamic={"input": ("batch", 1, "8*h", "8*w")},
    )
    store.save(program, tmp_path / "m.pt2")
    loaded = store.load(tmp_path / "m.pt2")
    assert cost(loaded).macs == cost(program).macs == 24 * 16 * 4 * 9
    with quiet():
        lowered = loaded.exported.run_decompositions({})
    got = lowered.module()(torch.ones(1, 1, 32, 8))
    expected = network(torch.ones(1, 1, 32, 8))
    torch.testing.assert_close(got[0] if isinstance(got, tuple) else got, expected)
    before = (tmp_path / "m.pt2").read_bytes()
    store.save(loaded, tmp_path / "m.pt2")
    assert (tmp_path / "m.pt2").read_bytes() == before
