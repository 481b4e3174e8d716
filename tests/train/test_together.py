"""Two processes train one network, and come to the weights of one with the doubled batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
ROOT = Path(__file__).parents[2]


def launch(module: str, *arguments: str, world: int = 2) -> list[subprocess.Popen[str]]:
    """Start processes as `torchrun` does, without its agent."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("together")
    processes = launch("tests.train.together", str(out))
    told = [process.communicate(timeout=300)[1] for process in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(told)
    return out


CASES = [
    "plain",
    "adamw",
    "accumulated",
    "norm",
    "moved",
    "frozen",
    "stopped",
    "taught",
    "sharded",
    "sharded-adamw",
    "sharded-taught",
    "sharded-thawed",
]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_weights_of_one_with_the_doubled_batch(
    trained, tmp_path, name
) -> None:
    from tests.train import together

    assert set(CASES) == set(together.CASES)
    torch.set_num_threads(1)
    start = together.network(together.CASES[name][0]).exported.state_dict
    program, history, _ = together.run(name, tmp_path, alone=True)
    first, second = (np.load(trained / f"{name}-{rank}.npz") for rank in (0, 1))
    moved = 0.0
    for key, value in program.exported.state_dict.items():
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)
        one = value.detach().numpy()
        np.testing.assert_allclose(first[key], one, rtol=1e-4, atol=1e-5, err_msg=key)
        change = float(np.abs(one - start[key].detach().numpy()).sum())
        if name == "sharded-thawed" and key.startswith("last"):
            assert change == 0, key
        moved += change
    assert moved > 0.1
    np.testing.assert_allclose(first["_losses"], [e.loss for e in history.epochs], rtol=1e-4)


@pytest.mark.parametrize("name", ["sharded", "sharded-adamw", "sharded-taught", "sharded-thawed"])
def test_each_process_holds_its_part_of_the_weights_only(trained, name) -> None:
    (first, whole), (second, _) = (np.load(trained / f"{name}-{r}.npz")["_cut"] for r in (0, 1))
    assert first + second == whole
    assert 0 < second <= first < 0.7 * whole
