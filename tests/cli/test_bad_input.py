"""Bad input through the installed command: the message names it, the exit code is documented."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.cli.project import DATA, MODEL, RECIPE, write
from tests.conftest import EDGEKIT, Command


def assert_says(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The exit code is right, the words are there, and nobody sees a traceback."""
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sparsity: 0.5", "sparsty: 0.5", ("passes[0].sparsty", "line 7", "sparsity")),
        ("sparsity: 0.5", "macs: 0.0001", ("Step '01-prune'", "macs")),
        ("x86-avx2", "x86-avx", ("x86-avx", "Did you mean 'x86-avx2'?")),
        ("model.py:build", "modle.py:build", ("modle.py",)),
        ("model.py:build", "model.py:biuld", ("biuld",)),
        ("data.py:load", "dta.py:load", ("dta.py",)),
        ("calibration: 30, evaluation: 90", "calibration: 250, evaluation: 90", ("300",)),
    ],
)
def test_a_wrong_recipe(
    edgekit: Command, tmp_path: Path, old: str, new: str, words: tuple[str, ...]
) -> None:
    write(tmp_path, recipe=RECIPE.replace(old, new, 1))
    assert_says(edgekit("run", "recipe.yaml", "-o", "out"), 2, *words)
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("def build():\n    raise RuntimeError('no such checkpoint')\n", ("no such checkpoint",)),
        ("def build():\n    return 3\n", ("int", "torch.nn.Module")),
        ("import not_there\n", ("not_there",)),
        ("def build(:\n", ("model.py",)),
    ],
)
def test_a_factory_that_fails(
    edgekit: Command, tmp_path: Path, model: str, words: tuple[str, ...]
) -> None:
    write(tmp_path, model=model)
    assert_says(edgekit("run", ".", "-o", "out"), 2, *words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("    x[[7, 9], 2] = np.nan", ("NaN", "input", "7")),
        ("    x = x[:0]; targets = targets[:0]", ("empty",)),
        ("    targets = targets[:-1]", ("299", "300")),
    ],
)
def test_bad_data(edgekit: Command, tmp_path: Path, line: str, words: tuple[str, ...]) -> None:
    data = DATA.replace("    return", f"{line}\n    return")
    write(tmp_path, data=data)
    done = edgekit("run", ".", "-o", "out")
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word.lower() in done.stderr.lower()


def test_overlapping_splits_name_the_samples(edgekit: Command, tmp_path: Path) -> None:
    write(
        tmp_path,
        recipe=RECIPE.replace(
            "split: {calibration: 30, evaluation: 90}",
            "split: {files: {calibration: c.txt, evaluation: e.txt, train: t.txt}}",
        ),
        data=DATA.replace(
            'return {"input": x}, targets',
            "return {\"input\": x}, targets, [f's{i}' for i in range(300)]",
        ),
    )
    (tmp_path / "c.txt").write_text("s0\ns1\n")
    (tmp_path / "e.txt").write_text("s1\ns2\n")
    (tmp_path / "t.txt").write_text("s3\ns4\n")
    assert_says(edgekit("run", ".", "-o", "out"), 2, "s1", "calibration", "evaluation")


def test_weights_that_do_not_fit_name_the_tensors(edgekit: Command, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    write(tmp_path)
    save_file({"0.weight": torch.zeros(4, 8), "9.bias": torch.zeros(3)}, tmp_path / "w.safetensors")
    done = edgekit(
        "capture",
        "model.py:build",
        "--weights",
        "w.safetensors",
        "--input",
        "input=batch,8",
        "-o",
        "out",
    )
    assert_says(done, 2, "0.weight (4, 8) instead of (32, 8)", "9.bias", "missing: 0.bias")
    assert not (tmp_path / "out").exists()


def test_a_pickle_offered_as_weights_is_not_run(edgekit: Command, tmp_path: Path) -> None:
    write(tmp_path)
    payload = (
        "import pickle, os\n"
        "class Evil:\n"
        "    def __reduce__(self):\n"
        "        return (os.system, ('touch pwned',))\n"
        "pickle.dump({'0.weight': Evil()}, open('w.pt', 'wb'))\n"
    )
    subprocess.run([sys.executable, "-c", payload], cwd=tmp_path, check=True)
    done = edgekit(
        "capture", "model.py:build", "--weights", "w.pt", "--input", "input=batch,8", "-o", "out"
    )
    assert_says(done, 2, "w.pt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("command", ["inspect", "bench", "export", "verify"])
@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_a_truncated_model(edgekit: Command, tmp_path: Path, command: str, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".pt2"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/models/model.json", "{" * 4000)
    else:
        path.write_bytes(b"\x08\x0a\x12\x07pytorch" * 50)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    more = {"export": ("-o", "out"), "verify": (name,)}.get(command, ())
    assert_says(edgekit(command, name, *more), 2, name)


@pytest.mark.parametrize(
    "args",
    [
        ("run", "gone.yaml", "-o", "out"),
        ("inspect", "gone.onnx"),
        ("bench", "gone.onnx"),
        ("verify", "gone.onnx", "gone.onnx"),
        ("prune", "gone.pt2", "--sparsity", "0.5", "-o", "out"),
    ],
)
def test_a_missing_file_is_named(edgekit: Command, args: tuple[str, ...]) -> None:
    assert_says(edgekit(*args), 2, "gone.")


def test_an_output_folder_that_is_a_file(edgekit: Command, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "out").write_text("not a folder")
    assert_says(edgekit("run", ".", "-o", "out"), 2, "out")


def test_an_output_folder_that_cannot_be_written(edgekit: Command, tmp_path: Path) -> None:
    write(tmp_path)
    # root may write anywhere but here
    assert_says(edgekit("run", ".", "-o", "/proc/edgekit"), 2, "/proc/edgekit")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk(edgekit: Command, tmp_path: Path) -> None:
    write(tmp_path)
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("this sandbox does not allow mounting a tmpfs")
    try:
        done = edgekit("run", ".", "-o", small / "out")
        assert_says(done, 4, "No space left on device")
        left = [p for p in (small / "out").rglob("*") if p.is_file() and p.name != ".lock"]
        assert all((p.parent / "manifest.json").exists() for p in left), left
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", ["original", "01-prune", "02-distill", "x86/01-export-onnx", "x86/02-quantize"]
)
def test_ctrl_c_in_every_step_loses_nothing(tmp_path: Path, step: str) -> None:
    """Interrupt just after the step before this one was finished; the last is run to the end."""
    write(tmp_path, recipe=RECIPE.replace("epochs: 2", "epochs: 40"))
    process = subprocess.Popen(
        [str(EDGEKIT), "run", ".", "-o", "out"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    done_before = {
        "original": ".lock",
        "01-prune": "00-original/manifest.json",
        "02-distill": "01-prune/manifest.json",
        "x86/01-export-onnx": "02-distill/manifest.json",
        "x86/02-quantize": "x86/01-export-onnx/manifest.json",
    }[step]
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / done_before).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "Finished steps are kept" in stderr
    assert "Interrupted" in stderr
    assert not (tmp_path / "out" / ".staging").exists()
    for folder in (tmp_path / "out").glob("[0-9]*"):
        assert (folder / "manifest.json").exists()
    if step == "x86/02-quantize":
        again = subprocess.run(
            [str(EDGEKIT), "run", ".", "-o", "out"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert again.returncode == 0, again.stderr
        assert "x86/01-export-onnx: already there" in again.stderr
        assert "x86/02-quantize: already there" not in again.stderr


def test_a_second_run_in_the_same_folder_is_refused(edgekit: Command, tmp_path: Path) -> None:
    import fcntl

    write(tmp_path)
    (tmp_path / "out").mkdir()
    with (tmp_path / "out/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_says(edgekit("run", ".", "-o", "out"), 2, "Another run")


def test_data_a_pass_needs(edgekit: Command, tmp_path: Path) -> None:
    write(tmp_path, model=MODEL)
    made = edgekit("capture", "model.py:build", "--input", "input=batch,8", "-o", "model")
    assert made.returncode == 0, made.stderr
    done = edgekit("finetune", "model", "--data", "nothing.parquet", "-o", "out")
    assert_says(done, 2, "nothing.parquet")


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "3\n"])
def test_a_data_file_that_is_no_mapping(edgekit: Command, tmp_path: Path, text: str) -> None:
    write(tmp_path)
    (tmp_path / "d.yaml").write_text(text)
    assert_says(edgekit("eval", "model", "--data", "d.yaml"), 2, "--data")


def test_an_output_that_is_the_model_or_a_file(edgekit: Command, tmp_path: Path) -> None:
    write(tmp_path)
    made = edgekit("capture", "model.py:build", "--input", "input=batch,8", "-o", "model")
    assert made.returncode == 0, made.stderr
    before = (tmp_path / "model/model.pt2").read_bytes()
    prune = ("prune", "model", "--sparsity", "0.5", "-o")
    assert_says(edgekit(*prune, "model"), 2, "the model's own folder")
    assert (tmp_path / "model/model.pt2").read_bytes() == before
    assert_says(edgekit(*prune, "model.py"), 2, "in the way")
    assert (tmp_path / "model.py").read_text() == MODEL
    assert edgekit(*prune, "out").returncode == 0
    (tmp_path / "model/model.pt2").write_bytes((tmp_path / "out/model.pt2").read_bytes())
    assert_says(edgekit("inspect", "model"), 2, "were changed")


def test_traceback_keeps_the_exit_code(edgekit: Command) -> None:
    done = edgekit("--traceback", "inspect", "gone.onnx")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "hint:" in done.stderr


def test_ctrl_c_while_python_still_imports(tmp_path: Path) -> None:
    """The first module that the commands import raises what Ctrl-C raises."""
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    code = "from edgekit.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr.startswith("Interrupted.")


@pytest.mark.parametrize("missing", ["torch", "nncf"])
def test_a_library_that_is_not_installed(edgekit: Command, tmp_path: Path, missing: str) -> None:
    """As after a plain `pip install edgekit`: exit 3, with the command that mends it."""
    write(tmp_path)
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/sitecustomize.py").write_text(
        f"import sys\nsys.modules[{missing!r}] = None\n"
    )
    done = edgekit("run", ".", "-o", "out", env={"PYTHONPATH": str(tmp_path / "hidden")})
    assert_says(done, 3, 'pip install "edgekit[torch]"')


def test_two_models_that_read_other_inputs_are_not_compared(
    edgekit: Command, tmp_path: Path
) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef three(): return nn.Linear(3, 2)\n"
        "def four(): return nn.Linear(4, 2)\n"
    )
    for name, width in (("three", 3), ("four", 4)):
        shape = f"input=batch,{width}"
        made = edgekit("capture", f"nets.py:{name}", "--input", shape, "-o", name, cwd=tmp_path)
        assert made.returncode == 0, made.stderr
    compared = edgekit("verify", "three", "four", cwd=tmp_path)
    assert compared.returncode == 2
    assert "[batch, 3]" in compared.stderr.replace("'", "")
    assert "[batch, 4]" in compared.stderr.replace("'", "")


def test_a_wrong_option_is_answered_in_plain_words(edgekit: Command) -> None:
    answered = edgekit("eval", "m.onnx", "--data", "python:d:load", "--task", "regression:maee")
    assert answered.returncode == 2
    assert "--task: regression has no metric 'maee'" in answered.stderr
