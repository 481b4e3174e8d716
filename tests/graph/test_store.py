"""A stored program lives without its source, and a hostile file runs nothing."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit.artifact import content_hash
from edgekit.errors import UsageError
from edgekit.graph import modes, store
from edgekit.graph.archive import read_archive
from edgekit.graph.capture import capture
from edgekit.graph.cost import cost
from edgekit.graph.expressions import is_shape_expression
from edgekit.graph.program import rebuild
from edgekit.graph.quiet import quiet

sys.path.insert(0, str(Path(__file__).parent))
import nets

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


@pytest.fixture(scope="module")
def plain():
    """A stored program's bytes."""
    torch.set_num_threads(1)
    module, example, dynamic = nets.example("image")
    return capture(module, example, dynamic=dynamic)


@pytest.fixture
def path(plain, tmp_path):
    store.save(plain, tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}


def rewrite(path, changes, compression=zipfile.ZIP_STORED):
    content = {**members(path), **changes}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            if data is not None:
                archive.writestr(f"net/{name}", data)


def edit(path, member, change):
    data = json.loads(members(path)[member])
    change(data)
    rewrite(path, {member: json.dumps(data)})


MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def pickled(marker):
    buffer = io.BytesIO()
    torch.save(Touch(marker), buffer)
    return buffer.getvalue()


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


def test_pickled_sample_inputs_are_not_read(path, tmp_path):
    marker = tmp_path / "ran"
    rewrite(path, {"data/sample_inputs/model.pt": pickled(marker)})
    store.load(path)
    assert not marker.exists()


@pytest.mark.parametrize("config", [WEIGHTS, CONSTANTS])
def test_pickled_tensors_are_refused(path, tmp_path, config):
    marker = tmp_path / "ran"
    prefix = "weight_" if config is WEIGHTS else "tensor_"
    entry = next(iter(json.loads(members(path)[WEIGHTS])["config"].values()))
    entry = {**entry, "use_pickle": True, "path_name": f"{prefix}77"}
    folder = config.rpartition("/")[0]
    edit(path, config, lambda data: data["config"].update(evil=entry))
    rewrite(path, {f"{folder}/{prefix}77": pickled(marker)})
    with pytest.raises(UsageError, match="pickled"):
        store.load(path)
    assert not marker.exists()


@pytest.mark.parametrize("file", ["custom_obj_0", "opaque_obj_0", "../../weight_0"])
def test_script_and_opaque_objects_are_refused(path, tmp_path, file):
    marker = tmp_path / "ran"
    entry = next(iter(json.loads(members(path)[WEIGHTS])["config"].values()))
    edit(path, CONSTANTS, lambda data: data["config"].update(evil={**entry, "path_name": file}))
    rewrite(path, {f"data/constants/{file}": pickled(marker)})
    with pytest.raises(UsageError, match="refused"):
        store.load(path)
    assert not marker.exists()


def test_legacy_pickled_weights_are_refused(path, tmp_path):
    marker = tmp_path / "ran"
    rewrite(path, {WEIGHTS: None, "data/weights/model.pt": pickled(marker)})
    with pytest.raises(UsageError, match="refused"):
        store.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("serialized_state_dict.pt", "serialized_constants.pt"):
            archive.writestr(name, pickled(marker))
        archive.writestr("version", "8.14")
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(UsageError, match="refused"):
        store.load(path)
    assert not marker.exists()


def graph_of(data):
    return data["graph_module"]["graph"]


def set_expression(text):
    def change(data):
        name = next(iter(graph_of(data)["tensor_values"]))
        sizes = graph_of(data)["tensor_values"][name]["sizes"]
        sizes[0] = {"as_expr": {"expr_str": text, "hint": None}}

    return change


def set_target(target):
    def change(data):
        graph_of(data)["nodes"][0]["target"] = target

    return change


def set_name(name):
    def change(data):
        graph_of(data)["nodes"][0]["name"] = name

    return change


def set_constraint(data):
    data["range_constraints"]["__import__('pathlib').Path('MARK').touch()"] = {
        "min_val": 0,
        "max_val": 1,
    }


def set_spec(data):
    entry = data["graph_module"]["module_call_graph"][0]
    enum = {"__enum__": True, "fqn": "evil:Thing", "name": "x"}
    entry["signature"]["in_spec"] = json.dumps(
        [1, {"type": "builtins.dict", "context": json.dumps([enum]), "children_spec": []}]
    )


def set_guards(data):
    data["guards_code"] = ["__import__('pathlib').Path('MARK').touch()"]


def set_operator_argument(data):
    node = graph_of(data)["nodes"][0]
    node["inputs"].append({"name": "f", "arg": {"as_operator": "torch.os.system"}, "kind": 1})


def set_path(data):
    for spec in data["graph_module"]["signature"]["input_specs"]:
        if "parameter" in spec:
            spec["parameter"]["parameter_name"] = "a\"); open('MARK', 'w') #"
            return


HOSTILE = {
    "expression": set_expression("__import__('pathlib').Path('MARK').touch()"),
    "attribute": set_expression("s0.__class__.__base__.__subclasses__()"),
    "string call": set_expression("Symbol('s0); open(1')"),
    "lambda": set_expression("(lambda: 1)()"),
    "power tower": set_expression("Pow(Pow(Integer(9), Integer(4)), Integer(4))"),
    "big power": set_expression("9**999999999"),
    "constraint": set_constraint,
    "module function": set_target("torch.os.system"),
    "library": set_target("torch.ops.load_library"),
    "loader": set_target("torch.load"),
    "attribute getter": set_target("_operator.attrgetter"),
    "extension": set_target("#evil:op"),
    "private": set_target("torch.ops.aten.__class__.default"),
    "file reader": set_target("torch.ops.aten.from_file.default"),
    "unknown namespace": set_target("torch.ops.evil.run.default"),
    "node name": set_name("x = __import__('os').system('true') #"),
    "keyword as name": set_name("import"),
    "callable argument": set_operator_argument,
    "parameter path": set_path,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_graphs_are_refused(path, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    edit(path, MODEL, HOSTILE[case])
    with pytest.raises(UsageError) as error:
        store.load(path)
    assert "refused" in error.value.message or "operators" in error.value.message
    assert error.value.exit_code == 2
    assert error.value.hint
    assert not (tmp_path / "MARK").exists()


def test_torch_itself_would_run_a_hostile_expression(path, tmp_path, monkeypatch):
    """Without this the tests above could pass for a reason of their own."""
    monkeypatch.chdir(tmp_path)
    edit(path, MODEL, HOSTILE["expression"])
    with pytest.raises(Exception):  # noqa: B017, PT011 - what it raises is torch's affair
        torch.export.load(path)
    assert (tmp_path / "MARK").exists()


@pytest.mark.parametrize("change", [set_guards, set_spec])
def test_what_is_made_anew_cannot_hurt(path, tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    edit(path, MODEL, change)
    program = store.load(path)
    program.module()(*program.example_inputs())
    program.exported.module()(*program.example_inputs())
    assert not (tmp_path / "MARK").exists()


def test_truncated_files_are_told(path):
    data = path.read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 10):
        path.write_bytes(data[:size])
        with pytest.raises(UsageError, match="not a complete"):
            store.load(path)
    with pytest.raises(UsageError, match="does not exist"):
        store.load(path.with_name("other.pt2"))


def test_flipped_bits_are_told(path):
    data = bytearray(path.read_bytes())
    place = data.find(b'"graph_module"')
    data[place + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UsageError, match="not a complete"):
        store.load(path)


def test_zip_bombs_are_refused(path):
    rewrite(path, {"extra/bomb": b"\0" * 10_000_000}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UsageError, match="compressed"):
        store.load(path)


def test_declared_sizes_must_fit(path):
    data = bytearray(path.read_bytes())
    place = data.rfind(b"PK\x01\x02")  # the last member in the central directory
    data[place + 20 : place + 28] = (2**31).to_bytes(4, "little") * 2
    path.write_bytes(data)
    with pytest.raises(UsageError):
        store.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sizes", [{"as_int": 2**40}]),
        ("sizes", [{"as_int": -1}]),
        ("sizes", [{"as_expr": {"expr_str": "s0", "hint": None}}]),
        ("storage_offset", {"as_int": 10**6}),
        ("dtype", 99),
        ("layout", 1),
    ],
)
def test_tensors_must_fit_their_bytes(path, field, value):
    def change(data):
        meta = next(m["tensor_meta"] for n, m in data["config"].items() if n == "bn.weight")
        meta[field] = value

    edit(path, WEIGHTS, change)
    with pytest.raises(UsageError, match=r"bn\.weight"):
        store.load(path)


def test_members_outside_the_folder_are_refused(path):
    rewrite(path, {"../../escape": b"x"})
    with pytest.raises(UsageError, match="outside"):
        store.load(path)


def test_compiled_code_is_refused(path):
    rewrite(path, {"data/aotinductor/model/a.so": b"ELF"})
    with pytest.raises(UsageError, match="compiled code"):
        store.load(path)


def test_deeply_nested_json_is_refused(path):
    rewrite(path, {MODEL: b'{"graph_module":' + b"[" * 200_000})
    with pytest.raises(UsageError, match="refused"):
        store.load(path)


def test_wrong_notes_are_told(path):
    edit(path, "extra/edgekit.json", lambda data: data.update(inputs=[]))
    with pytest.raises(UsageError, match="names other inputs"):
        store.load(path)
    edit(path, "extra/edgekit.json", lambda data: data.update(inputs=3))
    with pytest.raises(UsageError, match="another edgekit"):
        store.load(path)


def test_imports_of_a_file_are_not_followed(path, tmp_path, monkeypatch):
    (tmp_path / "evil_module_of_file.py").write_text("import pathlib; pathlib.Path('MARK').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    edit(
        path,
        "extra/edgekit.json",
        lambda data: data.update(imports=["evil_module_of_file"]),
    )
    assert store.load(path).imports == ("evil_module_of_file",)
    assert not (tmp_path / "MARK").exists()


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


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Add(Integer(-1), Mul(Integer(2), Symbol('s0', integer=True)))",
        "FloorDiv(Add(Symbol('s1'), Integer(3)), Integer(2))",
        "Pow(Symbol('s1', integer=True), Integer(2))",
        "Max(1, s0 - 2)",
        "32*s0",
        "Float('0.5', precision=53)",
        "-int_oo",
    ],
)
def test_real_shape_expressions_pass(text):
    assert is_shape_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "s0 if s1 else s2",
        "[s0 for s0 in s1]",
        "open('f')",
        "Symbol('__import__(1)')",
        "Float('1', precision=10**9)",
        "s0.args",
        "LShift(1, 10**9)",
        "(" * 500 + "s0" + ")" * 500,
        "+".join(["s0"] * 3000),
        "10**10**10",
        "99999999999999999999",
    ],
)
def test_other_expressions_do_not(text):
    assert not is_shape_expression(text)


def test_the_reader_takes_bytes_too(path):
    assert read_archive(path.read_bytes(), "net").payloads
    assert modes is not None


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
