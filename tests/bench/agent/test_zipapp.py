"""The archive and the few lines that fetch it, as a device sees them."""

import ast
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgekit.device.bootstrap import PROGRAM, bootstrap
from edgekit.device.zipapp import build_agent

PYENV = Path.home() / ".pyenv" / "versions"
OTHERS = sorted({str(path) for path in PYENV.glob("*/bin/python")})


def old_pythons():
    """Return other Pythons of this machine by version: `3.6` to a path."""
    return {Path(path).parts[-3].rsplit(".", 1)[0]: path for path in OTHERS}


def test_the_same_sources_give_the_same_bytes():
    first = build_agent()
    build_agent.cache_clear()
    assert build_agent() == first


def test_the_archive_holds_the_bench_and_nothing_else():
    with zipfile.ZipFile(io.BytesIO(build_agent())) as archive:
        names = archive.namelist()
        for name in names:
            ast.parse(archive.read(name), feature_version=(3, 10))
    assert names == sorted(names)
    outside = [name for name in names if not name.startswith("edgekit/bench/")]
    assert outside == ["__main__.py", "edgekit/__init__.py", "edgekit/errors.py"]
    assert not any("__pycache__" in name for name in names)


def test_every_module_of_the_archive_imports_there(zipapp, tmp_path):
    """The archive's own `edgekit.bench` is bare, so nothing may take names from it."""
    with zipfile.ZipFile(zipapp) as archive:
        modules = sorted(
            name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for name in archive.namelist()
            if name != "__main__.py"
        )
    text = (
        f"import sys; sys.path.insert(0, {str(zipapp)!r}); from importlib import import_module\n"
        f"for name in {modules!r}: import_module(name)\n"
        "import edgekit.bench; assert 'agent' in edgekit.bench.__path__[0], edgekit.bench.__path__"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_supervisor_needs_the_standard_library_alone(zipapp, tmp_path):
    text = (
        f"import sys; sys.path.insert(0, {str(zipapp)!r})\n"
        "import edgekit.bench.agent.supervisor, edgekit.bench.agent.worker\n"
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", text],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def begin(cache, data=b"", agent=None, python=sys.executable, cwd=None):
    """Run the bootstrap, feed it, and return its exit code and what it said."""
    agent = build_agent() if agent is None else agent
    line = f"{hashlib.sha256(agent).hexdigest()} {len(agent)}\n".encode()
    done = subprocess.run(
        [python, "-c", bootstrap()],
        input=line + data,
        capture_output=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        cwd=cwd,
        timeout=60,
        check=False,
    )
    assert done.stderr == b""
    return done.returncode, [json.loads(each) for each in done.stdout.splitlines()]


def test_the_agent_is_sent_once(tmp_path):
    agent, bye = build_agent(), b'{"type":"bye"}\n'
    code, said = begin(tmp_path, agent + bye)
    assert (code, [each["type"] for each in said]) == (0, ["agent", "bye"])
    assert said[0]["cached"] is False
    assert said[0]["python"] == ".".join(map(str, sys.version_info[:3]))
    (cached,) = (tmp_path / "edgekit").glob("agent-*")
    assert cached.read_bytes() == agent
    code, said = begin(tmp_path, bye)
    assert [each.get("cached") for each in said] == [True, None]
    cached.write_bytes(agent[:-1])  # a copy that was damaged is sent again
    code, said = begin(tmp_path, agent + bye)
    assert (code, said[0]["cached"]) == (0, False)
    assert cached.read_bytes() == agent


def test_a_damaged_agent_is_not_run(tmp_path):
    agent = build_agent()
    code, said = begin(tmp_path, agent[:-1] + b"!")
    assert (code, said[1]["kind"]) == (3, "protocol")
    assert not (tmp_path / "edgekit").exists()


def test_a_host_that_goes_away_leaves_nothing(tmp_path):
    code, said = begin(tmp_path, b"PK")
    assert (code, len(said)) == (4, 1)
    assert not (tmp_path / "edgekit").exists()


@pytest.mark.parametrize("line", [b"\n", b"x y\n", b"a" * 64 + b" 999999999999\n", b"z" * 200])
def test_what_names_no_agent_is_refused(tmp_path, line):
    done = subprocess.run(
        [sys.executable, "-c", bootstrap()],
        input=line,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout)["kind"]) == (3, "protocol")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    code, said = begin(tmp_path / "file", build_agent())
    assert (code, said[1]["kind"]) == (3, "disk")
    assert str(tmp_path / "file" / "edgekit") in said[1]["message"]
    assert "XDG_CACHE_HOME" in said[1]["hint"]


def test_files_of_the_users_home_are_not_imported(tmp_path):
    for name in ("json", "hashlib", "errno"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    code, said = begin(tmp_path / "cache", build_agent() + b'{"type":"bye"}\n', cwd=tmp_path)
    assert (code, said[-1]["type"]) == (0, "bye")


def test_the_bootstrap_is_one_line_that_any_shell_can_quote():
    text = bootstrap()
    assert not set(text) & set("'\n\\$`!&|<>*?~#%^{}[]")
    ast.parse(PROGRAM, feature_version=(3, 6))
    shell = shutil.which("sh")
    done = subprocess.run(
        [shell, "-c", f"{sys.executable} -c '{text}'"], input=b"", capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (4, b"")


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.9"])
def test_a_python_that_is_too_old_is_named(tmp_path, version):
    python = old_pythons().get(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    code, said = begin(tmp_path, python=python)
    assert (code, said[0]["kind"]) == (3, "unavailable")
    assert f"is {version}." in said[0]["message"]
    assert "3.10" in said[0]["message"]


def test_python_3_10_runs_the_agent(start):
    python = old_pythons().get("3.10")
    if python is None:
        pytest.skip("there is no Python 3.10 here")
    agent = start(python=python, flags=["-I"])
    hello = agent.hello()
    assert hello["python"].startswith("3.10.")
    assert hello["fingerprint"]["python"] == hello["python"]
    assert agent.end() == 0
