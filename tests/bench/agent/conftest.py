"""Fixtures of the agent's tests."""

import numpy as np
import pytest

from edgekit.device.zipapp import build_agent
from tests.bench.agent.harness import Agent


@pytest.fixture(scope="session")
def zipapp(tmp_path_factory):
    path = tmp_path_factory.mktemp("agent") / "agent-0123456789abcdef.pyz"
    path.write_bytes(build_agent())
    return path


@pytest.fixture
def start(zipapp, tmp_path):
    """Return a function that starts agents, which end with the test."""
    started = []

    def begin(cache=None, path=zipapp, **options):
        agent = Agent(path, cache or tmp_path / "cache", **options)
        started.append(agent)
        return agent

    yield begin
    for agent in started:
        agent.close()


@pytest.fixture
def agent(start):
    """Return an agent that has been greeted."""
    agent = start()
    assert agent.hello()["type"] == "hello"
    return agent


@pytest.fixture
def feeds():
    return {"x": np.ones((1, 16), np.float32)}
