"""The line protocol: what comes in is a message, an error of kind `protocol`, or the end."""

import json
import os
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.bench.agent import supervisor as module
from edgekit.bench.agent.supervisor import Supervisor
from edgekit.bench.agent.wire import (
    MAX_LINE_BYTES,
    AgentError,
    Channel,
    ChannelClosedError,
    checked_size,
    parse,
)

FOUND = {"missing": [], "emulated": False}
KINDS = ["hello", "have", "put", "lock", "run", "stop", "bye", "x"]
KEYS = ["protocol", "owner", "files", "sha256", "size", "request", "subjects", "model", "name"]
SHAS = st.text(string.hexdigits.lower(), min_size=64, max_size=64)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.floats() | st.text() | SHAS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | SHAS, inner, max_size=4)
    ),
    max_leaves=8,
)
MESSAGES = st.builds(
    lambda kind, rest: {"type": kind, **rest},
    st.sampled_from(KINDS) | st.text(),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
)
GREETING = b'{"type":"hello","protocol":1,"owner":"me"}\n'


class Pipes:
    """A channel, with the host's ends of its pipes."""

    def __init__(self):
        source, self.write = os.pipe()
        self.read, sink = os.pipe()
        self.channel = Channel(source, sink)

    def close(self):
        for each in (self.channel.source, self.channel.sink, self.read, self.write):
            try:
                os.close(each)
            except OSError:
                continue


@pytest.fixture
def pipes():
    found = Pipes()
    yield found
    found.close()


def test_messages_come_out_as_they_went_in_however_they_are_cut(pipes):
    messages = [{"type": "a", "text": "ä\n\"'"}, {"type": "b", "list": [1, None, 2.5]}]
    data = b"".join(json.dumps(each).encode() + b"\n" for each in messages)
    for place in range(len(data)):
        os.write(pipes.write, data[place : place + 1])
        pipes.channel.fill()
    assert [pipes.channel.receive(0), pipes.channel.receive(0)] == messages
    assert pipes.channel.receive(0) is None


def test_bytes_after_a_line_are_exactly_as_many_as_it_says(pipes):
    os.write(pipes.write, b'{"type":"put"}\n' + b"\n{}" * 5 + b'{"type":"next"}\n')
    assert pipes.channel.receive(0) == {"type": "put"}
    assert b"".join(pipes.channel.payload(15)) == b"\n{}" * 5
    assert pipes.channel.receive(0) == {"type": "next"}
    os.close(pipes.write)
    with pytest.raises(ChannelClosedError):
        pipes.channel.receive(1)


def test_a_payload_that_is_cut_off_is_the_end(pipes):
    os.write(pipes.write, b"abc")
    os.close(pipes.write)
    with pytest.raises(ChannelClosedError):
        list(pipes.channel.payload(4))


def test_a_line_is_bounded(pipes):
    line = b'"' + b"x" * (MAX_LINE_BYTES + 1)
    pipes.channel._buffer += line
    with pytest.raises(AgentError, match="longer than"):
        pipes.channel.pending()


def test_writing_to_nobody_is_the_end(pipes):
    os.close(pipes.read)
    with pytest.raises(ChannelClosedError):
        pipes.channel.check()
    with pytest.raises(ChannelClosedError):
        pipes.channel.send({"type": "x"})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"{}",
        b'{"type":3}',
        b'{"type":"x","a":NaN}',
        b'{"type":"x","a":-Infinity}',
        b'{"type":"x","a":' + b"9" * 100_000 + b"}",
        b"[" * 100_000,
        b'{"type":"\xff"}',
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_message(line):
    with pytest.raises(AgentError) as caught:
        parse(line)
    assert caught.value.kind == "protocol"


@given(st.binary() | VALUES.map(lambda value: json.dumps(value).encode()))
def test_a_line_is_a_message_or_refused(line):
    try:
        message = parse(line)
    except AgentError as e:
        refused = e
    else:
        assert isinstance(message["type"], str)
        return
    assert refused.kind == "protocol"
    assert len(refused.message) < 400


@given(VALUES)
def test_a_size_is_small_enough_or_refused(value):
    try:
        size = checked_size(value)
    except AgentError as e:
        refused = e
    else:
        assert 0 <= size <= 64 << 30
        return
    assert refused.kind == "protocol"


def talk(data, root, monkeypatch):
    """Let a supervisor in this process hear all this; return how it ended and what it said."""
    monkeypatch.setattr(module, "probe", lambda *_: FOUND)
    pipes = Pipes()
    try:
        os.write(pipes.write, data)
        os.close(pipes.write)
        supervisor = Supervisor(pipes.channel, root, ["agent"])
        try:
            end = supervisor.serve()
        except ChannelClosedError:
            end = "closed"
        except AgentError as e:
            end = e.kind
        finally:
            supervisor.lock.release()
        os.close(pipes.channel.sink)
        said = b"".join(iter(lambda: os.read(pipes.read, 1 << 16), b""))
    finally:
        pipes.close()
    return end, [json.loads(line) for line in said.splitlines()]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(parts=st.lists(MESSAGES | st.binary(max_size=40), max_size=6))
def test_whatever_the_host_says_the_agent_answers_or_ends(parts, tmp_path, monkeypatch):
    lines = [p if isinstance(p, bytes) else json.dumps(p).encode() for p in parts]
    data = GREETING + b"".join(line + b"\n" for line in lines)
    end, said = talk(data, tmp_path / "root", monkeypatch)
    assert end in (0, "closed", "protocol")
    assert said[0]["type"] == "hello"
    assert {each["type"] for each in said} <= {
        "hello",
        "missing",
        "stored",
        "locked",
        "error",
        "bye",
    }
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside <= {"root"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=200))
def test_whatever_comes_first_does_no_harm(data, tmp_path, monkeypatch):
    end, said = talk(data, tmp_path / "root", monkeypatch)
    assert end in (0, "closed", "protocol")
    assert said == []


def test_a_conversation_in_process(tmp_path, monkeypatch):
    """The fuzzing above goes through the same code as a real one."""
    put = b'{"type":"put","size":3,"sha256":"%b"}\nabc' % (
        b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    data = GREETING + put + b'{"type":"lock"}\n{"type":"bye"}\n'
    end, said = talk(data, tmp_path, monkeypatch)
    assert end == 0
    assert [each["type"] for each in said] == ["hello", "stored", "locked", "bye"]


def test_a_host_that_falls_silent_loses_the_device(pipes, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IDLE_S", 0.01)
    with pytest.raises(AgentError, match="said nothing"):
        Supervisor(pipes.channel, tmp_path, ["agent"]).serve()
