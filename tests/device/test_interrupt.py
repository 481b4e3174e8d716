"""Ctrl-C in mid-run: what was measured so far comes back, marked as not complete."""

import os
import signal

import pytest

from edgekit.device import bench, bench_many
from tests.device.conftest import LONG, once, until


def uninterrupted(function):
    """The function, where Ctrl-C that goes on fails the test and does not end all of them."""

    def call(*arguments, **options):
        try:
            return function(*arguments, **options)
        except KeyboardInterrupt:
            pytest.fail("Ctrl-C gave no partial result")

    return call


partial, many = uninterrupted(bench), uninterrupted(bench_many)


def test_ctrl_c_gives_a_partial_result(server, subject):
    def press():
        os.kill(os.getpid(), signal.SIGINT)

    result, _ = partial(server.device(), [subject], LONG, say=once(press))
    assert not result.complete
    assert result.subject("net").n > 0
    assert any("stopped" in warning for warning in result.warnings)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    until(lambda: not server.left_behind(), "the device is as it was")


def test_ctrl_c_stops_several_devices(server_of, subject):
    one, two = server_of(), server_of()
    timed = set()

    def say(name, fraction, text):
        if text.startswith("round"):
            timed.add(name)
        if len(timed) == 2:
            timed.add("pressed")
            os.kill(os.getpid(), signal.SIGINT)

    found = many([one.device("one"), two.device("two")], [subject], LONG, say=say)
    assert [result.complete for result, _ in found.results.values()] == [False, False]
