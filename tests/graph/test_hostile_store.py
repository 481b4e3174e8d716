"""A hostile or broken `.pt2` runs nothing and is told."""

import io
import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from edgekit.errors import UsageError
from edgekit.graph import store
from edgekit.graph.archive import read_archive

sys.path.insert(0, str(Path(__file__).parent))
from archives import edit, members, rewrite

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


def test_the_reader_takes_bytes_too(path):
    assert read_archive(path.read_bytes(), "net").payloads
