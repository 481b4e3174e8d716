"""One thread: the tests' tensors are tiny. And a stored program."""

import sys
from pathlib import Path

import pytest
import torch

from edgekit.graph import store
from edgekit.graph.capture import capture

sys.path.insert(0, str(Path(__file__).parent))
import nets


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain():
    """A captured program."""
    torch.set_num_threads(1)
    module, example, dynamic = nets.example("image")
    return capture(module, example, dynamic=dynamic)


@pytest.fixture
def path(plain, tmp_path):
    """It, stored."""
    store.save(plain, tmp_path / "net.pt2")
    return tmp_path / "net.pt2"
