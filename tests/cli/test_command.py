"""The installed command: help, JSON, light start, and the exit codes of success and of gates."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.project import MODEL, RECIPE, write
from tests.conftest import EDGEKIT, Command

COMMANDS = (
    "run",
    "capture",
    "prune",
    "finetune",
    "distill",
    "quantize",
    "sensitivity",
    "export",
    "build",
    "verify",
    "eval",
    "bench",
    "inspect",
    "targets",
    "doctor",
    "device add",
    "device list",
    "device probe",
    "device remove",
    "recipe validate",
    "recipe schema",
    "recipe explain",
)
HEAVY = ("torch", "onnx", "onnxruntime", "nncf", "tensorrt", "tensorrt_rtx", "pydantic", "numpy")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_says_what_it_does(edgekit: Command, command: str) -> None:
    done = edgekit(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage: edgekit" in done.stdout
    if command != "recipe schema":
        assert "--json" in done.stdout
    for line in done.stdout.splitlines():
        assert not line.strip().startswith("--") or "  " in line.strip(), line


def test_help_and_import_load_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['edgekit', '--help']\n"
        "import edgekit\n"
        "from edgekit.cli.app import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_targets_and_schema_are_json(edgekit: Command) -> None:
    names = [t["name"] for t in json.loads(edgekit("targets", "--json").stdout)]
    assert "x86-avx2" in names
    assert "properties" in json.loads(edgekit("recipe", "schema").stdout)


def test_doctor_says_what_is_here_and_how_to_get_the_rest(edgekit: Command) -> None:
    found = json.loads(edgekit("doctor", "--json").stdout)
    assert found["runtimes"]["onnxruntime"]["ok"]
    assert found["device"]["architecture"]
    assert isinstance(found["gpus"], list)
    assert set(found["builders"]) == {"tensorrt", "tensorrt-rtx"}
    builders = found["builders"].values()
    for entry in (*builders, *found["runtimes"].values(), *found["meters"].values()):
        assert entry["ok"] or (entry["reason"] and entry["fix"])


def test_an_unknown_command_is_exit_2(edgekit: Command) -> None:
    assert edgekit("compress").returncode == 2


def test_recipe_explain_names_what_the_targets_decide(edgekit: Command, tmp_path: Path) -> None:
    write(tmp_path)
    steps = json.loads(edgekit("recipe", "explain", ".", "--json").stdout)
    assert [s["step"] for s in steps] == [
        "capture",
        "prune",
        "distill",
        "export-onnx",
        "quantize",
        "measure",
    ]
    assert steps[4]["config"]["scheme"]["name"] == "ort-x86-avx2"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small project, once for this module."""
    folder = write(tmp_path_factory.mktemp("project"))
    done = subprocess.run(
        [str(EDGEKIT), "run", ".", "-o", "out"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def hashes(out: Path) -> dict[str, str]:
    """Content hash of every artifact of a run."""
    return {
        str(path.parent.relative_to(out)): json.loads(path.read_text())["artifact"]["content_hash"]
        for path in sorted(out.rglob("manifest.json"))
    }


def test_a_run_writes_its_artifacts_and_reports(finished: Path) -> None:
    out = finished / "out"
    assert set(hashes(out)) == {
        "00-original",
        "01-prune",
        "02-distill",
        "baselines/00-original",
        "baselines/01-prune",
        "baselines/02-distill",
        "x86/01-export-onnx",
        "x86/02-quantize",
    }
    report = json.loads((out / "report.json").read_text())
    assert report["verdict"] == "passed"
    assert report["shared"][0]["macs"] < report["original"]["macs"]
    assert report["branches"][0]["steps"][-1]["metric"]["low"] is not None
    assert report["branches"][0]["steps"][-1]["energy_j"]["label"] == "unavailable"
    for name in ("report.md", "report.html"):
        assert "02-quantize" in (out / name).read_text() or "quantize" in (out / name).read_text()


def test_a_run_says_what_compressing_cost(finished: Path) -> None:
    out = finished / "out"
    report = json.loads((out / "report.json").read_text())
    steps = [*report["shared"], *(s for b in report["branches"] for s in b["steps"])]
    assert report["cost_seconds"] == pytest.approx(sum(s["seconds"] for s in steps), abs=0.01)
    known = [s["cost_j"]["value"] for s in steps if s["cost_j"]["value"] is not None]
    if known:  # a machine with a meter
        assert report["cost_j"]["value"] == pytest.approx(sum(known))
    else:
        assert report["cost_j"]["label"] == "unavailable"
        assert "no energy meter" in report["cost_j"]["note"]
    assert "when they were made" in (out / "report.md").read_text()


def test_a_second_run_does_nothing_and_says_so(edgekit: Command, finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (finished / "out").rglob("model.*")}
    done = edgekit("run", ".", "-o", "out", cwd=finished)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stderr
    assert before == {p: p.stat().st_mtime_ns for p in (finished / "out").rglob("model.*")}


def test_the_same_seed_gives_the_same_artifacts_and_metrics(
    edgekit: Command, finished: Path, tmp_path: Path
) -> None:
    project = write(tmp_path / "again")
    done = edgekit("run", ".", "-o", "out", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    assert hashes(project / "out") == hashes(finished / "out")
    first = json.loads((finished / "out/report.json").read_text())
    second = json.loads(done.stdout)
    assert (
        second["branches"][0]["steps"][-1]["metric"] == first["branches"][0]["steps"][-1]["metric"]
    )


def test_a_run_killed_in_mid_step_resumes_to_the_same_hashes(
    edgekit: Command, finished: Path, tmp_path: Path
) -> None:
    project = write(tmp_path / "killed")
    process = subprocess.Popen(
        [str(EDGEKIT), "run", ".", "-o", "out"],
        cwd=project,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (project / "out/01-prune/manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    done = edgekit("run", ".", "-o", "out", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "01-prune: already there" in done.stderr
    assert hashes(project / "out") == hashes(finished / "out")


def test_an_impossible_gate_is_exit_5_and_named(edgekit: Command, finished: Path) -> None:
    recipe = RECIPE.replace("size_mb: 1.0", "size_mb: 0.000001")
    (finished / "strict.yaml").write_text(recipe)
    done = edgekit("run", "strict.yaml", "-o", "out", cwd=finished)
    assert done.returncode == 5
    assert "size_mb of quantize" in done.stderr
    assert "x86" in done.stderr
    assert "FAIL" in done.stdout
    assert json.loads((finished / "out/report.json").read_text())["verdict"] == "failed"


def test_a_branch_whose_step_fails_keeps_its_gates_and_says_what_was_tried_once(
    edgekit: Command, finished: Path
) -> None:
    refused = "{kind: quantize, budget: {size_bytes: 1}}"
    recipe = RECIPE.replace("{kind: quantize, guard: false}", refused)
    (finished / "refused.yaml").write_text(recipe.replace("name: x86\n", "name: pc\n"))
    done = edgekit("run", "refused.yaml", "-o", "out", cwd=finished)
    assert done.returncode == 5, done.stderr
    assert done.stderr.count("int8 layers") == 1, done.stderr
    branch = json.loads((finished / "out/report.json").read_text())["branches"][0]
    assert branch["gates"][0]["outcome"] == "not judged"
    assert "not judged: the step 'quantize' failed" in branch["gates"][0]["message"]
    assert "\n" not in branch["reason"]
    assert "int8 layers" not in branch["reason"]
    page, text = (finished / "out" / f"report.{end}" for end in ("html", "md"))
    for report in (page.read_text(), text.read_text()):
        assert "1 of 1 gate not held (not judged); failed: pc." in report
        assert "the step 'quantize' failed" in report.replace("&#39;", "'")
        assert report.count("No int8 form") <= 2  # the summary and the step; the table once
        assert len(re.findall(r"(>|\| )int8 layers(<| \|)", report)) == 1
    assert '<th scope="col">int8 layers</th>' in page.read_text()
    assert "| tried | int8 layers |" in text.read_text()
    junit = (finished / "out/report.junit.xml").read_text()
    assert 'failures="1" errors="1"' in junit


def test_a_branch_that_cannot_be_built_is_skipped_only_where_it_may_be(
    edgekit: Command, finished: Path
) -> None:
    """TensorRT itself is not installed here: exit 3, unless the branch is optional."""
    if shutil.which("trtexec"):
        pytest.skip("TensorRT is installed")
    branch = (
        "  - name: jetson\n    target: jetson-orin\n    passes:\n"
        "      - kind: export-onnx\n      - {kind: quantize, guard: false}\n"
        "      - kind: build-tensorrt\n"
    )
    (finished / "jetson.yaml").write_text(RECIPE + branch)
    done = edgekit("run", "jetson.yaml", "-o", "out", cwd=finished)
    assert done.returncode == 3, done.stderr
    assert "edgekit[tensorrt]" in done.stderr
    (finished / "jetson.yaml").write_text(RECIPE + branch + "    optional: true\n")
    done = edgekit("run", "jetson.yaml", "-o", "out", "--json", cwd=finished)
    assert done.returncode == 0, done.stderr
    jetson = json.loads(done.stdout)["branches"][1]
    assert jetson["status"] == "skipped"
    assert "edgekit[tensorrt]" in jetson["reason"]
    assert [s["status"] for s in jetson["steps"]][-1] == "skipped"


def test_a_run_with_nothing_but_skipped_branches_is_no_success(
    edgekit: Command, finished: Path
) -> None:
    if shutil.which("trtexec"):
        pytest.skip("TensorRT is installed")
    shared, _, _ = RECIPE.partition("branches:")
    branch = (
        "branches:\n  - name: jetson\n    target: jetson-orin\n    optional: true\n    passes:\n"
        "      - kind: export-onnx\n      - kind: build-tensorrt\n"
    )
    (finished / "only.yaml").write_text(shared + branch)
    done = edgekit("run", "only.yaml", "-o", "out", cwd=finished)
    assert done.returncode == 3, done.stderr
    report = json.loads((finished / "out/report.json").read_text())
    assert (report["verdict"], report["branches"][0]["status"]) == ("failed", "skipped")


def test_a_dry_run_says_what_is_there_by_its_key(edgekit: Command, finished: Path) -> None:
    def there(text: str) -> dict[str, bool]:
        (finished / "dry.yaml").write_text(text)
        done = edgekit("run", "dry.yaml", "-o", "out", "--dry-run", "--json", cwd=finished)
        assert done.returncode == 0, done.stderr
        return {step["step"]: step["there"] for step in json.loads(done.stdout)}

    made = ("capture", "prune", "distill", "export-onnx", "quantize")
    assert there(RECIPE) == {**dict.fromkeys(made, True), "measure": False}
    edited = there(RECIPE.replace("epochs: 2", "epochs: 3"))
    assert [edited[step] for step in made] == [True, True, False, False, False]


def test_a_renamed_step_is_not_made_again_and_has_its_new_name(
    edgekit: Command, finished: Path
) -> None:
    recipe = RECIPE.replace("kind: prune\n", "kind: prune\n    name: shrink\n")
    (finished / "renamed.yaml").write_text(recipe)
    done = edgekit("run", "renamed.yaml", "-o", "out", "--json", cwd=finished)
    assert done.returncode == 0, done.stderr
    assert "01-shrink: already there" in done.stderr
    assert [s["name"] for s in json.loads(done.stdout)["shared"]] == ["shrink", "distill"]


def test_what_the_users_code_prints_does_not_spoil_the_json(
    edgekit: Command, tmp_path: Path
) -> None:
    noise = "import os\nprint('chatter')\nos.system('echo more chatter')\n"
    write(tmp_path, model=noise + MODEL)
    done = edgekit("capture", "model.py:build", "--input", "input=batch,8", "-o", "m", "--json")
    assert json.loads(done.stdout)["artifact"]["format"] == "pt2"
    assert done.stderr.count("chatter") == 2


def test_a_branch_that_cannot_be_measured_does_not_stop_the_others(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device lost in one branch: its report says so, the next one is finished."""
    from edgekit.errors import DeviceError
    from edgekit.pipeline import benchmark, run_recipe

    second = RECIPE[RECIPE.index("  - name: x86") :].replace("name: x86", "name: other")
    (finished / "two.yaml").write_text(RECIPE.replace("bench: off", "bench: quick") + second)

    def lost(*args: object, **kwargs: object) -> None:
        raise DeviceError("The device is gone.", "Plug it in.")

    monkeypatch.setattr(benchmark, "measure", lost)
    with pytest.raises(DeviceError):
        run_recipe(finished / "two.yaml", finished / "out")
    first, other = json.loads((finished / "out/report.json").read_text())["branches"]
    assert (first["status"], first["reason"]) == ("failed", "The device is gone. Plug it in.")
    assert [s["status"] for s in first["steps"]] == ["cached", "cached"]
    assert other["status"] == "passed"


def test_the_steps_one_at_a_time(edgekit: Command, finished: Path) -> None:
    out = finished / "out"
    inspected = json.loads(edgekit("inspect", out / "01-prune", "--json").stdout)
    assert inspected["format"] == "pt2"
    assert inspected["macs"] > 0
    data = ("--data", "python:data.py:load")
    exported = edgekit("export", out / "02-distill", "-o", "onnx", "--json", cwd=finished)
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)["artifact"]["format"] == "onnx"
    assert edgekit("verify", out / "02-distill", "onnx", cwd=finished).returncode == 0
    worse = edgekit("verify", out / "00-original", "onnx", *data, "--json", cwd=finished)
    assert worse.returncode == 5
    assert json.loads(worse.stdout)["output"]["max_abs"] > 1e-4
    evaluated = json.loads(edgekit("eval", "onnx", *data, "--json", cwd=finished).stdout)
    assert evaluated["metric"] == "accuracy"
    assert evaluated["low"] <= evaluated["value"] <= evaluated["high"]
    quantized = edgekit(
        "quantize", "onnx", *data, "--target", "x86-avx2", "--no-guard", "-o", "int8", cwd=finished
    )
    assert quantized.returncode == 0, quantized.stderr
    benched = edgekit("bench", "onnx", "int8", "--quick", "--json", cwd=finished)
    assert benched.returncode == 0, benched.stderr
    assert json.loads(benched.stdout)["comparisons"]["int8"]["verdict"] in {
        "faster",
        "slower",
        "inconclusive",
    }


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_whole_run_needs_no_network_and_tries_none(tmp_path: Path) -> None:
    """A process without pytest, in a network namespace without a network."""
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this sandbox does not allow network namespaces")
    project = write(tmp_path)
    (project / "sitecustomize.py").write_text(
        "import socket\n"
        "real = socket.socket.connect\n"
        "def connect(self, address):\n"
        "    if self.family != socket.AF_UNIX:\n"
        "        open('connected.txt', 'a').write(f'{address}\\n')\n"
        "    return real(self, address)\n"
        "socket.socket.connect = connect\n"
        "look_up = socket.getaddrinfo\n"
        "def getaddrinfo(*args, **kwargs):\n"
        "    open('connected.txt', 'a').write(f'{args}\\n')\n"
        "    return look_up(*args, **kwargs)\n"
        "socket.getaddrinfo = getaddrinfo\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    done = subprocess.run(
        ["unshare", "-n", str(EDGEKIT), "run", ".", "-o", "out"],
        cwd=project,
        env={**env, "PYTHONPATH": str(project), "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (project / "connected.txt").exists(), (project / "connected.txt").read_text()
    assert not list(home.rglob("*telemetry*"))
