"""`edgekit bench`: what it prints, keeps and refuses, through the installed command."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.models import save
from tests.cli.test_bad_input import assert_says
from tests.conftest import EDGEKIT, Command


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "m.onnx")


def steadily(run: Callable[[], subprocess.CompletedProcess[str]]):
    """Run a benchmark again where it drifted: other programs came or went, and it says so."""
    for _ in range(5):
        done = run()
        if "drift of" not in done.stdout:
            break
    return done


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Two models, measured once: the folder, and what --json says."""
    folder = tmp_path_factory.mktemp("two")
    save(folder / "small.onnx")
    save(folder / "deep.onnx", layers=40, width=16)
    what = ("bench", "deep.onnx", "small.onnx", "--layers", "--roofline")
    how = ("--quick", "--json", "--save", "raw.npz")
    command = [str(EDGEKIT), *what, *how]
    done = steadily(
        lambda: subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    )
    (folder / "base.json").write_text(done.stdout)
    return folder, json.loads(done.stdout)


def test_json_is_one_result_with_intervals_and_inputs(two):
    _, found = two
    assert [s["name"] for s in found["subjects"]] == ["deep.onnx", "small.onnx"]
    assert found["baseline"] == "deep.onnx"
    assert found["comparisons"]["small.onnx"]["verdict"] == "faster"
    first = found["subjects"][0]
    assert first["inputs"] == {"image": "float32[1,16]"}
    assert first["p50_ms"]["low"] <= first["p50_ms"]["value"] <= first["p50_ms"]["high"]
    assert first["energy"]["energy_j"]["label"] == "unavailable"
    assert len(found["layers"]["deep.onnx"]) > len(found["layers"]["small.onnx"])
    assert found["where"] == "local"


def test_the_share_of_the_limits_is_derived_from_measured_figures(two):
    _, found = two
    for subject, layers in zip(found["subjects"], (40, 1), strict=True):
        roofline = subject["roofline"]
        assert roofline["macs"] == {"float32": layers * 16 * 16}
        assert roofline["bytes"] == 4 * (layers * 16 * 16 + 2 * 16)
        assert roofline["macs_per_s"]["float32"]["label"] == "measured"
        assert roofline["share"]["label"] == "derived"
        least = max(
            roofline["macs"]["float32"] / roofline["macs_per_s"]["float32"]["value"],
            roofline["bytes"] / roofline["bytes_per_s"]["value"],
        )
        assert roofline["limit_ms"]["value"] == pytest.approx(1e3 * least)
        share = roofline["limit_ms"]["value"] / subject["p50_ms"]["value"]
        assert roofline["share"]["value"] == pytest.approx(share)
        rows = found["layers"][subject["name"]]
        assert sum(row["macs"] for row in rows) == layers * 16 * 16
        assert all(row["reached"]["label"] == "derived" for row in rows if row["macs"])


def test_the_raw_nanoseconds_are_kept(two):
    folder, found = two
    with np.load(folder / "raw.npz") as raw:
        for subject in found["subjects"]:
            name = subject["name"]
            assert len(raw[f"{name}/ns"]) == len(raw[f"{name}/round"]) == subject["n"]
            median = float(np.median(raw[f"{name}/ns"])) / 1e6
            assert median == pytest.approx(subject["p50_ms"]["value"])
    assert not [p for p in folder.iterdir() if p.name.startswith(".raw")]


def test_the_table_shows_the_intervals_and_says_that_it_is_quick(edgekit: Command, model: Path):
    done = steadily(lambda: edgekit("bench", model, "--quick"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [c for c in ("p50", "p90", "p99", "load/first", "memory") if c not in lines[1]] == []
    assert "verdict" not in done.stdout
    row = next(i for i, line in enumerate(lines) if line.strip().startswith("m.onnx"))
    assert "µs" in lines[row]
    assert "[" in lines[row + 1]
    assert "unavailable" in lines[row]
    assert "image: float32[1,16]" in done.stdout
    assert "--quick" in done.stdout


def test_a_stored_baseline_is_held_and_called_less_sure(edgekit: Command, two):
    folder, _ = two
    args = ("bench", "deep.onnx", "--quick", "--baseline", "base.json")
    done = edgekit(*args, "--max-slowdown", "900%", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "deep.onnx (stored)" in done.stdout
    assert "interleaved models (`edgekit compare A B`) are surer" in " ".join(done.stdout.split())


def test_a_slower_model_than_the_stored_one_is_exit_5(edgekit: Command, two, tmp_path: Path):
    folder, _ = two
    save(tmp_path / "small.onnx", layers=40)
    base = folder / "base.json"
    args = ("bench", "small.onnx", "--quick", "--json", "--baseline", base, "--max-slowdown", "5%")
    done = edgekit(*args)
    assert_says(done, 5, "small.onnx against small.onnx (stored)", "at most +5.0% is allowed")
    assert json.loads(done.stdout)["against_baseline"]["small.onnx"]["verdict"] == "slower"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--threads", "2"), "threads of deep.onnx was 1 and is 2"),
        (("--batch", "2"), "input image of deep.onnx was float32[1,16] and is float32[2,16]"),
    ],
)
def test_a_baseline_that_does_not_fit_is_refused_and_the_figures_shown(
    edgekit: Command, two, args: tuple[str, ...], words: str
):
    folder, _ = two
    done = edgekit("bench", "deep.onnx", "--quick", "--baseline", "base.json", *args, cwd=folder)
    assert_says(done, 2, "base.json was measured under other conditions", words)
    assert "deep.onnx" in done.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--mode", "paced"), ("--mode paced needs a rate", "--rate 30", "video", "90", "AR")),
        (("--mode", "server"), ("--mode server needs a rate",)),
        (("--mode", "pased", "--rate", "30"), ("'pased'", "Did you mean 'paced'?")),
        (("--mode", "offline", "--rate", "30"), ("--rate means nothing", "--mode paced")),
        (("--mode", "back-to-back", "--streams", "2"), ("--streams", "--mode streams")),
        (("--rate", "fast"), ("--rate 'fast'", "90fps")),
        (("--sustained", "soon"), ("--sustained 'soon'", "30m")),
        (("--max-slowdown", "5%"), ("--max-slowdown", "--baseline FILE.json")),
        (("--max-slowdown", "5", "--baseline", "b"), ("--max-slowdown '5'", "5% or 500%")),
        (("--strict",), ("--strict", "--max-slowdown")),
        (("--baseline", "gone.json"), ("gone.json cannot be read",)),
        (("--save", "no/such/raw.npz"), ("--save no/such/raw.npz", "No such file")),
        (("--save", "."), ("--save . is a folder",)),
        (("--save", "/proc/raw.npz"), ("--save /proc/raw.npz cannot be written",)),
        (("--device", "pi5"), ("There is no device 'pi5'",)),
        (("--device", "local", "--device", "local"), ("'local' is given twice",)),
        (("--meter", "rappl"), ("There is no meter 'rappl'", "'rapl'")),
        (("--runtime", "onnxrutime"), ("There is no runtime 'onnxrutime'", "'onnxruntime'")),
        (("--runtime", "tensorrt"), ("m.onnx is a .onnx file, which tensorrt does not run",)),
        (("--provider", "gpu"), ("no provider 'gpu'", "CPUExecutionProvider")),
        (("--provider", "cuda"), ("CUDAExecutionProvider", "CPUExecutionProvider")),
        (("--set", "spining=false"), ("--set spining", "spinning", "memory_pattern")),
        (("--set", "spinning=maybe"), ("--set spinning=maybe", "true or false")),
        (("--set", "optimization=most"), ("'most'", "basic")),
        (("--set", "threads=4"), ("--set threads",)),
        (("--set", "bound"), ("--set 'bound' has no value",)),
        (("--target", "x86-avx"), ("There is no target 'x86-avx'", "'x86-avx2'")),
        (("--shape", "imag=1x16"), ("'imag'", "Did you mean 'image'?")),
        (("--shape", "image=1x17"), ("image=1x17 does not fit", "[batch, 16]")),
        (("--shape", "image"), ("--shape 'image'", "1x3x224x224")),
        (("--inputs", "wrong.npz"), ("wrong.npz has no 'image'", "'picture'", "input: image")),
        (("--inputs", "float.npz"), ("Input 'image' of m.onnx has the shape [1, 17]",)),
        (("--inputs", "gone.npz"), ("The inputs gone.npz do not exist",)),
        (("--inputs", "m.onnx"), ("The inputs m.onnx are not a .npz",)),
        (("--inputs", "wrong.npz", "--recipe", "."), ("--inputs and --recipe",)),
        (("--inputs", "wrong.npz", "--shape", "image=1x16"), ("--shape does not go",)),
        (("--recipe", "gone"), ("gone",)),
        (("m.onnx",), ("m.onnx is given twice", "edgekit compare A A")),
        (("gone.onnx",), ("gone.onnx does not exist",)),
        (("cut.onnx",), ("cut.onnx",)),
        (("--affinity", "none"), ("--affinity 'none'", "0,1")),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_bad_input_is_named_before_anything_is_measured(
    tmp_path: Path, model: Path, args: tuple[str, ...], words: tuple[str, ...], monkeypatch
):
    """In this process, with the errors that the command turns into exit code 2."""
    from typer.testing import CliRunner

    import edgekit.bench.api as harness
    from edgekit.cli.commands import app
    from edgekit.errors import UsageError

    zeros = np.zeros((1, 17))
    np.savez(tmp_path / "wrong.npz", picture=zeros, label=zeros)
    np.savez(tmp_path / "float.npz", image=zeros)
    (tmp_path / "cut.onnx").write_bytes(model.read_bytes()[:-300])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(harness, "measure_rounds", _nothing_is_measured)
    given = CliRunner().invoke(app, ["bench", "m.onnx", "--quick", *args])
    assert isinstance(given.exception, UsageError), given.exception
    said = f"{given.exception.message} {given.exception.hint}"
    for word in words:
        assert word in said
    assert given.exception.hint
    assert given.exception.exit_code == 2


def _nothing_is_measured(*args: object, **kwargs: object) -> None:
    raise AssertionError("It began to measure.")


def test_a_dynamic_dimension_without_a_size_names_the_option(edgekit: Command, tmp_path: Path):
    save(tmp_path / "free.onnx", shape=("batch", "rows", 16))
    done = edgekit("bench", "free.onnx", "--quick")
    assert_says(done, 2, "rows", "--dim NAME=SIZE")
    asked = ("--shape", "image=2x3x16", "--json", "--set", "memory_pattern=false")
    for args in (("--dim", "rows=3"), asked):
        done = edgekit("bench", "free.onnx", "--quick", *args)
        assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["subjects"]
    assert found["inputs"] == {"image": "float32[2,3,16]"}
    assert found["options"]["memory_pattern"] is False
    assert found["options"]["spinning"] is True  # the default is recorded as well


def test_inputs_of_a_recipe_are_its_evaluation_data(edgekit: Command, tmp_path: Path, model: Path):
    data = {"image": np.arange(160, dtype=np.float32).reshape(10, 16)}
    np.savez(tmp_path / "data.npz", **data, targets=np.arange(10) % 2)
    (tmp_path / "recipe.yaml").write_text(
        "name: r\nmodel: {file: m.onnx}\n"
        "data: {npz: data.npz, target: targets, split: {calibration: 2, evaluation: 4}}\n"
        "branches: [{name: b, target: x86-avx2, bench: 'off'}]\n"
    )
    done = edgekit("bench", model, "--quick", "--recipe", ".", "--batch", "3", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["subjects"][0]["inputs"] == {"image": "float32[3,16]"}
    assert_says(
        edgekit("bench", model, "--quick", "--recipe", ".", "--batch", "9"), 2, "4 samples", "9"
    )


def test_an_onnx_file_is_measured_without_torch(model: Path):
    """An import hook: touching torch, or anything else that ONNX does not need, is an error."""
    code = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        banned = {'torch', 'nncf', 'onnxscript', 'openvino', 'tensorrt', 'jinja2'}\n"
        "        if name.partition('.')[0] in banned:\n"
        "            raise ImportError(f'{name} is not for this')\n"
        "sys.meta_path.insert(0, No())\n"
        f"sys.argv = ['edgekit', 'bench', {str(model)!r}, '--quick', '--json']\n"
        "from edgekit.cli.app import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["subjects"][0]["n"] > 0


def test_the_parent_in_torch_stands_beside_its_onnx_file(edgekit: Command, tmp_path: Path):
    import torch

    from edgekit.graph.capture import capture
    from edgekit.graph.store import save as save_program

    save(tmp_path / "m.onnx")
    program = capture(torch.nn.Linear(16, 16).eval(), {"input": torch.zeros(2, 16)})
    save_program(program, tmp_path / "m.pt2")
    done = edgekit("bench", "m.pt2", "m.onnx", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    parent, onnx = found["subjects"]
    assert (parent["runtime"], onnx["runtime"]) == ("torch", "onnxruntime")
    assert parent["options"]["threads"] == onnx["options"]["threads"] == 1
    assert not parent["options"]["compiled"]
    assert found["comparisons"]["m.onnx"]["rounds"] > 1


def test_a_long_table_of_layers_says_what_it_leaves_out(capsys, monkeypatch):
    from edgekit.cli import common, show_bench

    monkeypatch.setenv("COLUMNS", "120")
    rows = [{"layer": f"l{i}", "op": "Conv", "ms": 0.5, "share": 0.025} for i in range(40)]
    common.out_console().print(show_bench._layers("net", rows))
    said = capsys.readouterr().out
    assert "l24" in said
    assert "l25" not in said
    assert "15 more (--json has them)" in said
    assert "7.5000   37.5%" in said
