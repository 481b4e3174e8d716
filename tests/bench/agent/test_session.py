"""Greeting, files and lock, with the real agent."""

import hashlib
import json
import os
import resource
import sys

import pytest

from tests.bench.agent.harness import TINY

SHA = hashlib.sha256(b"abc").hexdigest()


def fatal(agent, message, payload=b""):
    """Send what ends the session, and return the error."""
    answer = agent.ask(message, payload)
    assert answer["type"] == "error"
    assert agent.receive() is None
    assert agent.process.wait(60) == 1
    assert agent.process.stderr.read() == b""
    return answer


def test_hello_describes_the_device(start):
    agent = start()
    hello = agent.hello()
    assert hello["protocol"] == 1
    assert hello["python"] == ".".join(map(str, sys.version_info[:3]))
    assert hello["executable"] == sys.executable
    assert hello["fingerprint"]["digest"]
    assert hello["runtimes"]["onnxruntime"]["ok"]
    assert set(hello["meters"]["rapl"]) == {"ok", "reason", "fix"}
    assert (hello["missing"], hello["problems"], hello["install"]) == ([], [], "")
    assert hello["emulated"] is False
    assert hello["free_bytes"] > 0
    assert hello["power_mode"]
    assert agent.end() == 0
    assert sorted(path.name for path in agent.root().iterdir()) == ["files", "lock"]


def test_a_python_without_numpy_still_says_hello_and_what_to_install(start):
    agent = start(flags=["-I", "-S"])
    hello = agent.hello()
    assert hello["missing"] == ["numpy", "onnxruntime"]
    assert f"{sys.executable} -m pip install numpy onnxruntime" in hello["install"]
    assert hello["fingerprint"]["cpu"]
    assert hello["runtimes"] == {}
    model, feeds = agent.put(b"model"), agent.put(b"feeds")
    subject = {
        "name": "m",
        "runtime": "onnxruntime",
        "model": {"sha256": model, "name": "m.onnx"},
        "feeds": feeds,
    }
    answer = agent.ask(agent.run(subject))
    assert (answer["type"], answer["kind"]) == ("error", "unavailable")
    assert "NumPy" in answer["message"]
    assert "-m pip install numpy" in answer["hint"]
    assert agent.end() == 0


def broken_numpy(tmp_path, text):
    folder = tmp_path / "broken" / "numpy"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(text)
    return {"PYTHONPATH": str(folder.parent)}


def test_a_numpy_that_kills_its_process_does_not_kill_the_agent(start, tmp_path):
    env = broken_numpy(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    agent = start(env=env)
    hello = agent.hello()
    assert "numpy" in hello["missing"]
    assert any("SIGSEGV" in each and "numpy" in each for each in hello["problems"])
    assert hello["fingerprint"]["cpu"]
    assert agent.end() == 0


def test_a_numpy_that_does_not_import_counts_as_missing(start, tmp_path):
    agent = start(env=broken_numpy(tmp_path, "raise RuntimeError('built for another processor')\n"))
    hello = agent.hello()
    assert "numpy" in hello["missing"]
    assert agent.end() == 0


def test_a_library_that_prints_does_not_disturb_the_channel(start, tmp_path):
    text = "import os\nos.write(1, b'noise\\n' * 1000)\nprint('more')\nraise ImportError\n"
    agent = start(env=broken_numpy(tmp_path, text))
    assert agent.hello()["type"] == "hello"
    assert agent.end() == 0


def test_files_are_sent_once(agent):
    data = os.urandom(300_000)
    sha = hashlib.sha256(data).hexdigest()
    have = {"type": "have", "files": {sha: len(data)}}
    assert agent.ask(have) == {"type": "missing", "files": [sha]}
    put = {"type": "put", "sha256": sha, "size": len(data)}
    assert agent.ask(put, data) == {"type": "stored", "sha256": sha}
    assert agent.ask(have) == {"type": "missing", "files": []}
    stored = agent.root() / "files" / sha
    assert stored.read_bytes() == data
    stored.write_bytes(data[:-1] + b"!")  # as a dying memory card would
    assert agent.ask(have) == {"type": "missing", "files": [sha]}
    assert not stored.exists()
    assert agent.end() == 0


def test_bytes_that_are_not_those_of_the_hash_are_refused(agent):
    answer = fatal(agent, {"type": "put", "sha256": SHA, "size": 4}, b"abcd")
    assert answer["kind"] == "protocol"
    assert "another hash" in answer["message"]
    assert list((agent.root() / "files").iterdir()) == []


def test_a_full_disk_leaves_nothing_behind_and_the_session_goes_on(start):
    limit = 1 << 20  # the kernel refuses larger files with EFBIG, as a full disk does with ENOSPC

    def preexec():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    agent = start(preexec=preexec)
    agent.hello()
    data = b"x" * (4 << 20)
    sha = hashlib.sha256(data).hexdigest()
    answer = agent.ask({"type": "put", "sha256": sha, "size": len(data)}, data)
    assert (answer["type"], answer["kind"]) == ("error", "disk")
    assert str(agent.root() / "files") in answer["message"]
    assert "bytes free" in answer["message"]
    assert list((agent.root() / "files").iterdir()) == []
    agent.put(b"small")
    assert agent.end() == 0


def test_files_that_do_not_fit_are_refused_before_they_are_sent(agent):
    answer = agent.ask({"type": "have", "files": {SHA: 60 << 30, SHA[::-1]: 60 << 30}})
    assert (answer["type"], answer["kind"]) == ("error", "disk")
    assert agent.end() == 0


def test_a_cache_that_cannot_be_written(start, tmp_path):
    (tmp_path / "file").write_text("")
    agent = start(cache=tmp_path / "file")
    answer = agent.hello()
    assert (answer["type"], answer["kind"]) == ("error", "disk")
    assert "XDG_CACHE_HOME" in answer["hint"]
    assert agent.process.wait(60) == 1


def test_an_upload_that_is_cut_off_leaves_nothing(agent):
    agent.send({"type": "put", "sha256": SHA, "size": 1000}, b"x" * 10)
    agent.process.stdin.close()
    assert agent.process.wait(60) == 0
    assert list((agent.root() / "files").iterdir()) == []


def test_a_second_host_is_told_who_has_the_device(agent, start):
    assert agent.ask({"type": "lock"}) == {"type": "locked"}
    assert agent.ask({"type": "lock"}) == {"type": "locked"}
    about = json.loads((agent.root() / "lock").read_text())
    assert about["owner"] == "me@test:1"
    assert about["pid"] == agent.process.pid
    assert about["expires"] > about["since"]

    second = start(cache=agent.cache)
    for answer in (second.hello("you@test:2"), second.ask({"type": "lock"})):
        assert (answer["type"], answer["kind"]) == ("error", "locked")
        assert "me@test:1" in answer["message"]
        assert "UTC" in answer["message"]
    agent.end()
    assert second.hello("you@test:2")["type"] == "hello"
    assert second.ask({"type": "lock"}) == {"type": "locked"}
    assert second.end() == 0


def test_the_lock_of_a_killed_agent_is_free_at_once(agent, start):
    agent.ask({"type": "lock"})
    agent.process.kill()
    agent.process.wait()
    second = start(cache=agent.cache)
    second.hello()
    assert second.ask({"type": "lock"}) == {"type": "locked"}


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("../m.onnx", {}),
        ("/m.onnx", {}),
        ("", {}),
        (".", {}),
        ("a//m.onnx", {}),
        ("m\0.onnx", {}),
        ("m.onnx", {"../../evil": SHA}),
        ("m.onnx", {"/etc/evil": SHA}),
        ("m.onnx", {"a/../../evil": SHA}),
        ("m.onnx", {"a\\evil": SHA}),
        ("m.onnx", {"m.onnx": SHA}),
        ("m.onnx", {"m.onnx/below": SHA}),
        ("m.onnx", {"x" * 300: SHA}),
        ("m.onnx", {"\ud800": SHA}),
        ("m.onnx", ["evil"]),
    ],
)
def test_files_stay_inside_the_work_folder(agent, tmp_path, name, beside):
    agent.put(b"abc")
    before = sorted(tmp_path.rglob("*"))
    subject = {
        "name": "m",
        "runtime": "onnxruntime",
        "model": {"sha256": SHA, "name": name, "beside": beside},
        "feeds": SHA,
    }
    answer = fatal(agent, {"type": "run", "request": {"subjects": [subject], "protocol": TINY}})
    assert answer["kind"] == "protocol"
    work = agent.root() / "work"
    assert [each for each in sorted(tmp_path.rglob("*")) if each != work] == before
    assert list(work.iterdir()) == []


def test_a_link_in_the_cache_is_not_followed(agent, tmp_path):
    (tmp_path / "secret").write_bytes(b"abc")
    (agent.root() / "files" / SHA).symlink_to(tmp_path / "secret")
    subject = {
        "name": "m",
        "runtime": "onnxruntime",
        "model": {"sha256": SHA, "name": "m.onnx"},
        "feeds": SHA,
    }
    answer = fatal(agent, agent.run(subject))
    assert "was not sent" in answer["message"]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "have"},
        {"type": "have", "files": {"../x": 1}},
        {"type": "have", "files": {SHA: -1}},
        {"type": "have", "files": {SHA: True}},
        {"type": "put", "sha256": SHA, "size": 1 << 60},
        {"type": "put", "sha256": SHA, "size": -5},
        {"type": "put", "sha256": SHA, "size": 1e3},
        {"type": "put", "sha256": SHA.upper(), "size": 3},
        {"type": "put", "size": 3},
        {"type": "run"},
        {"type": "run", "request": {"subjects": []}},
        {"type": "run", "request": {"subjects": [3]}},
        {"type": "run", "request": {"subjects": [{}] * 65}},
        {"type": "dance"},
    ],
)
def test_a_message_that_makes_no_sense_ends_the_session(agent, message):
    assert fatal(agent, message)["kind"] == "protocol"


def test_hello_comes_first_and_in_the_same_protocol(start):
    answer = fatal(start(), {"type": "lock"})
    assert "hello" in answer["message"]
    answer = fatal(start(), {"type": "hello", "protocol": 99, "owner": "x"})
    assert "99" in answer["message"]


def test_a_line_without_end_is_refused(agent):
    try:
        agent.process.stdin.write(b"x" * (3 << 20))
        agent.process.stdin.flush()
    except BrokenPipeError:
        pass
    answer = agent.receive()
    assert (answer["type"], answer["kind"]) == ("error", "protocol")
    assert agent.process.wait(60) == 1


def test_the_agent_ends_with_its_input_and_says_nothing(start):
    agent = start()
    agent.process.stdin.close()
    assert agent.process.wait(60) == 0
    assert agent.process.stdout.read() == b""
    assert agent.process.stderr.read() == b""
