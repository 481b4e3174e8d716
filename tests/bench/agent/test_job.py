"""The worker as the supervisor sees it, with small programs in the worker's place."""

import json
import os
import signal

import pytest

from edgekit.bench.agent import job as module
from edgekit.bench.agent.install import install_hint
from edgekit.bench.agent.job import Job, crash, pump
from edgekit.bench.agent.measure import Progress
from edgekit.bench.agent.wire import AgentError, Channel, ChannelClosedError
from tests.bench.agent.harness import gone

# What a worker has at its start: the descriptor of the pipe, and a way to send.
POST = """
import json, os, sys, time, signal
def post(**message):
    os.write(int(sys.argv[2]), json.dumps(message).encode() + b"\\n")
"""


@pytest.fixture
def host():
    """Return a channel, and the host's ends of it."""
    source, write = os.pipe()
    read, sink = os.pipe()
    channel = Channel(source, sink)
    yield channel, read, write
    for each in (source, sink, read, write):
        try:
            os.close(each)
        except OSError:
            continue


@pytest.fixture
def work(tmp_path):
    """Return a function that starts a program in the worker's place; it ends with the test."""
    started = []

    def start(text):
        job = Job(["-c", POST + text], [], tmp_path)
        started.append(job)
        return job

    yield start
    for each in started:
        each.end()


def test_messages_and_the_end(host, work):
    job = work("post(type='a'); post(type='b', n=1)")
    got = []
    assert pump(job, host[0], got.append)
    assert got == [{"type": "a"}, {"type": "b", "n": 1}]
    assert job.wait() == 0


def test_a_heartbeat_goes_out_while_the_worker_is_silent(host, work, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.05)
    channel, read, _ = host
    job = work("time.sleep(60)")
    assert not pump(job, channel, print, limit_s=0.3)
    lines = [json.loads(line) for line in os.read(read, 1 << 16).splitlines()]
    assert {line["type"] for line in lines} == {"heartbeat"}
    assert lines[0]["t"] <= lines[-1]["t"]


def test_a_worker_that_does_not_stop_is_given_up_after_a_while(host, work, monkeypatch):
    monkeypatch.setattr(module, "STOP_S", 0.1)
    channel, _, write = host
    job = work("post(type='up'); time.sleep(60)")
    os.write(write, b'{"type":"stop"}\n')
    asked = []
    assert not pump(job, channel, print, asked.append)
    assert asked == [{"type": "stop"}]
    assert job.end() == -signal.SIGKILL


def test_a_worker_that_has_heard_the_stop_may_take_its_time(host, work, monkeypatch):
    monkeypatch.setattr(module, "STOP_S", 0.5)
    channel, _, write = host
    job = work(
        "assert os.read(0, 9) == b'stop\\n'; post(type='stopping'); time.sleep(1); post(type='end')"
    )
    os.write(write, b'{"type":"stop"}\n')
    got = []
    assert pump(job, channel, got.append, lambda _: job.stop())
    assert [each["type"] for each in got] == ["stopping", "end"]


def test_a_host_that_is_gone_ends_the_wait(host, work):
    channel, read, write = host
    job = work("time.sleep(60)")
    os.close(write)
    with pytest.raises(ChannelClosedError):
        pump(job, channel, print, print)
    with pytest.raises(ChannelClosedError):  # also where the host's messages wait
        pump(job, channel, print)
    other = Channel(os.pipe()[0], channel.sink)
    os.close(read)
    with pytest.raises(ChannelClosedError):
        pump(job, other, print, print)
    os.close(other.source)


def test_the_end_of_a_job_is_the_end_of_its_children(host, work):
    job = work(
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "post(type='child', pid=child.pid)\n"
        "os.kill(os.getpid(), signal.SIGSEGV)"
    )
    got = []
    pump(job, host[0], got.append, limit_s=20)
    assert job.wait() == -signal.SIGSEGV
    assert gone(got[0]["pid"])


def test_what_a_worker_prints_is_kept_short(host, work, monkeypatch):
    job = work("print('\\n'.join(map(str, range(100)))); sys.stdout.flush(); os.abort()")
    pump(job, host[0], print)
    assert job.wait() == -signal.SIGABRT
    assert job.tail().split() == [str(number) for number in range(88, 100)]
    monkeypatch.setattr(module, "STDERR_BYTES", 10)
    job.trim()
    assert job.tail() == ""


def test_the_dump_of_the_fault_handler_is_left_out(host, work):
    job = work(
        "import faulthandler; faulthandler.enable(); print('last words', file=sys.stderr)\n"
        "os.kill(os.getpid(), signal.SIGSEGV)"
    )
    pump(job, host[0], print)
    job.wait()
    assert job.tail() == "last words\nSegmentation fault"


def test_a_worker_that_sends_no_message_is_refused(host, work):
    job = work("os.write(int(sys.argv[2]), b'what?\\n')")
    with pytest.raises(AgentError, match="not JSON"):
        pump(job, host[0], print)


def test_how_a_worker_ended_is_named():
    assert crash(-signal.SIGSEGV, "boom", "measuring").kind == "crash"
    assert (
        "SIGSEGV) while measuring. It printed last:\nboom"
        in crash(-11, "boom", "measuring").message
    )
    assert "memory ran out" in crash(-signal.SIGKILL, "", "measuring").message
    assert crash(3, "", "measuring").kind == "internal"
    assert "signal 250" in crash(-250, "", "measuring").message


def test_progress_is_sent_at_most_every_five_seconds_or_when_the_phase_changes():
    now, sent = [0.0], []
    say = Progress(sent.append, lambda: now[0])
    for second in range(12):
        now[0] = float(second)
        say(second / 100, f"round {second}")
    assert [each["text"] for each in sent] == ["round 0", "round 5", "round 10"]
    say(0.95, "statistics")
    assert sent[-1] == {"type": "progress", "fraction": 0.95, "text": "statistics"}


def test_the_install_command_is_for_this_python(tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(sys, "executable", "/opt/my python/bin/python3")
    hint = install_hint(["numpy", "onnxruntime", "torch-eager"], tmp_path)
    assert hint == (
        "On the device: `'/opt/my python/bin/python3' -m pip install numpy onnxruntime torch`."
    )


def test_a_python_that_the_system_manages_gets_an_environment(tmp_path, monkeypatch):
    import sys

    (tmp_path / "EXTERNALLY-MANAGED").write_text("[externally-managed]")
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    hint = install_hint(["onnxruntime"], tmp_path)
    assert "-m venv ~/edgekit-venv" in hint
    assert "pip install numpy onnxruntime" in hint
    assert "--python ~/edgekit-venv/bin/python" in hint
    monkeypatch.setattr(sys, "prefix", "/somewhere/venv")
    assert "-m venv" not in install_hint(["onnxruntime"], tmp_path)
