"""The conversation with an agent that misbehaves, and the channel it goes through.

The agent here is a script of a few lines in another process: it says what a broken, old or hostile
device could say.
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from edgekit.device import Device, Session
from edgekit.device.talk import Patience
from edgekit.device.transport import (
    Channel,
    ClosedError,
    StalledError,
    find_python,
    remote_command,
)
from edgekit.errors import DeviceError, UnavailableError, UsageError

DEVICE = Device("board", "ssh://board")
SHORT = Patience(start_s=5.0, hello_s=5.0, answer_s=5.0, silence_s=0.5, stop_s=0.5, close_s=0.3)
HELLO = {
    "type": "hello",
    "protocol": 1,
    "agent": "0",
    "python": "3.11.0",
    "fingerprint": {},
    "runtimes": {},
    "meters": {},
    "missing": [],
    "power_mode": "unknown",
    "free_bytes": 1,
    "emulated": False,
}
PRELUDE = """
import json, sys, time
def say(**line): print(json.dumps(line), flush=True)
def hear():
    line = sys.stdin.buffer.readline()
    if not line: sys.exit(0)
    return json.loads(line)
sys.stdin.buffer.readline()
say(type="agent", cached=True, python="3.11.0")
hear(); print(HELLO, flush=True)
"""


class Scripted:
    """A transport to a script."""

    def __init__(self, script, prelude=PRELUDE, hello=HELLO):
        self.script = prelude.replace("HELLO", repr(json.dumps(hello))) + textwrap.dedent(script)

    def start(self):
        return Channel([sys.executable, "-c", self.script])

    def explain(self, returncode, stderr):
        return DeviceError(f"ended with {returncode}: {stderr}", "")


def talk(script, **options):
    return Session(DEVICE, transport=Scripted(script, **options), patience=SHORT)


def run(script, stop=None):
    with Session(DEVICE, transport=Scripted(script), stop=stop, patience=SHORT) as session:
        return session.run({})


def test_hello_and_bye():
    with talk("assert hear()['type'] == 'bye'; say(type='bye')") as session:
        assert session.hello.free_bytes == 1
        assert session.hello.power_mode == "unknown"
        pid = session._channel.pid
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)  # it has been waited for: no zombie


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        ({**HELLO, "protocol": 2}, "another protocol"),
        ({**HELLO, "protocol": None}, "another protocol"),
        ({k: v for k, v in HELLO.items() if k != "missing"}, "hello is broken"),
        ({**HELLO, "runtimes": 3}, "hello is broken"),
        ({**HELLO, "free_bytes": "much"}, "hello is broken"),
        ("hello", "no message"),
    ],
)
def test_a_hello_that_is_none(hello, message):
    with pytest.raises(DeviceError, match=message), talk("hear()", hello=hello):
        pass


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("usage", UsageError),
        ("unavailable", UnavailableError),
        ("locked", DeviceError),
        ("disk", DeviceError),
        ("crash", DeviceError),
        ("protocol", DeviceError),
        ("internal", DeviceError),
        ("never heard of", DeviceError),
    ],
)
def test_an_error_of_the_agent_keeps_its_words(kind, error):
    script = f"hear(); say(type='error', kind={kind!r}, message='It is so.', hint='Mend it.')"
    with pytest.raises(error, match="board: It is so") as e:
        run(script)
    assert type(e.value) is error
    assert e.value.hint == "Mend it."


def test_an_error_without_words():
    with pytest.raises(DeviceError, match="board: It gave no reason") as e:
        run("hear(); say(type='error')")
    assert e.value.hint


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("hear(); sys.exit(1)", "lost in mid-run: the connection ended with code 1"),
        ("hear(); sys.exit('Killed.')", r"lost in mid-run: Killed\."),
        ("hear(); time.sleep(60)", "nothing was heard"),
        ("hear(); print('garbage', flush=True); hear()", "no message"),
        ("hear(); print('[' * 9999, flush=True); hear()", "no message"),
        ("hear(); say(type='result', result=3, size=0); hear()", "result is none"),
        ("hear(); say(type='result', result={}, size=-1); hear()", "no valid size"),
        ("hear(); say(type='result', result={}, size=1 << 60); hear()", "no valid size"),
        ("hear(); say(type='result', result={}, size='x'); hear()", "no valid size"),
        ("hear(); say(type='result', result={}, size=99)", "while it sent the result"),
        (
            "hear(); say(type='result', result={}, size=3); print('abc', end='', flush=True);"
            " hear()",
            "raw samples are broken",
        ),
    ],
)
def test_a_run_that_goes_wrong(script, message):
    with pytest.raises(DeviceError, match=message):
        run(script)


def test_heartbeats_keep_a_run_alive():
    answer = run("""
        hear()
        for i in range(4):
            time.sleep(0.3)  # together longer than the silence that is borne
            say(type="heartbeat", t=i)
        say(type="progress", fraction="x", text=3)
        say(type="something new")
        say(type="result", result={"a": 1}, size=0, layers={"net": []})
        hear(); say(type="bye")
    """)
    assert answer.result == {"a": 1}
    assert answer.extras == {"layers": {"net": []}}


class Presses:
    """Ctrl-C once the run has shown progress: so often at the most."""

    def __init__(self, times):
        self.times, self.asked, self.begun = times, 0, False

    def begin(self, fraction, text):
        assert (fraction, text) == (0.0, "round 1")
        self.begun = True

    def __call__(self):
        self.asked += self.begun
        return min(self.asked, self.times)


def stopped_run(script, times=1):
    stop = Presses(times)
    begin = "hear(); say(type='progress', fraction=0, text='round 1')\n"
    transport = Scripted(begin + textwrap.dedent(script))
    with Session(DEVICE, transport=transport, stop=stop, patience=SHORT) as session:
        return session.run({}, stop.begin)


def test_stop_is_told_and_the_partial_result_taken():
    answer = stopped_run("""
        assert hear()["type"] == "stop"
        say(type="heartbeat", t=1)
        say(type="result", result={"complete": False}, size=0)
        assert hear()["type"] == "bye"
        say(type="bye")
    """)
    assert answer.result == {"complete": False}


@pytest.mark.parametrize(
    ("script", "times"),
    [
        ("hear(); say(type='error', kind='stopped', message='No result.'); hear()", 1),
        ("hear(); time.sleep(60)", 1),
        ("while True: say(type='heartbeat', t=0); time.sleep(0.1)", 2),
    ],
    ids=["nothing to give", "no answer", "a second time"],
)
def test_stop_without_a_partial_result(script, times):
    with pytest.raises(KeyboardInterrupt):
        stopped_run(script, times)


def test_stop_while_the_device_is_awaited():
    with pytest.raises(KeyboardInterrupt):
        run("", stop=lambda: 1)


def test_the_agent_may_ask_only_for_what_it_was_offered(tmp_path):
    (tmp_path / "a").write_text("a")
    script = "hear(); say(type='missing', files=['0' * 64]); hear()"
    with pytest.raises(DeviceError, match="not told of"), talk(script) as session:
        session.upload([tmp_path / "a"])


def test_an_error_in_mid_upload_is_heard(tmp_path):
    large = tmp_path / "large"
    large.write_bytes(bytes(8 << 20))
    script = """
        files = hear()["files"]
        say(type="missing", files=list(files))
        hear()
        say(type="error", kind="disk", message="The disk is full.", hint="Make room.")
        sys.exit(1)
    """
    with pytest.raises(DeviceError, match=r"board: The disk is full\."), talk(script) as session:
        session.upload([large])


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"), talk("hear()") as session:
        session.upload([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    "prelude", ["import time; time.sleep(60)", "while True: print('Welcome!')"]
)
def test_a_device_that_never_answers(prelude):
    transport = Scripted("", prelude=prelude)
    patience = dataclasses.replace(SHORT, start_s=0.3)
    with (
        pytest.raises(DeviceError, match=r"board \(ssh://board\) did not answer within"),
        Session(DEVICE, transport=transport, patience=patience),
    ):
        pass


def test_a_channel_that_ignores_the_end_of_its_input_is_killed():
    channel = Channel([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"])
    assert channel.line(10.0) == b""
    assert channel.close(0.1) == -signal.SIGKILL
    assert channel.close(0.1) == -signal.SIGKILL


def test_a_channel_takes_no_more():
    channel = Channel([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"])
    assert channel.line(10.0) == b""
    with pytest.raises(StalledError):
        channel.send(bytes(4 << 20), 0.2)
    channel.close(0.0)


def test_a_channel_reads_stderr_along():
    script = "import sys; sys.stderr.write('x' * (1 << 20)); sys.stderr.write('end'); print('a')"
    channel = Channel([sys.executable, "-c", script])
    assert channel.line(10.0) == b"a"
    with pytest.raises(ClosedError):
        channel.line(10.0)
    assert channel.close(5.0) == 0
    assert channel.stderr.endswith("end")
    assert len(channel.stderr) <= 1 << 16


SHELLS = [
    shell for shell in ("sh", "bash", "dash", "zsh", "fish", "tcsh", "ksh") if shutil.which(shell)
]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_remote_command_survives_the_login_shell(shell, tmp_path):
    python = tmp_path / "with space" / "python3"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    command = remote_command(find_python(str(python)) + "exit 9")
    done = subprocess.run(
        [shell, "-c", command],
        input=b"nonsense\n",
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert json.loads(done.stdout)["kind"] == "protocol"  # the bootstrap's own answer
    home = remote_command(find_python("~/with space/python3") + "exit 9")
    again = subprocess.run(
        [shell, "-c", home],
        input=b"nonsense\n",
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert again.stdout == done.stdout
