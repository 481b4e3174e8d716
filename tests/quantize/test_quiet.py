"""NNCF sends nothing, writes nothing into the home folder and prints nothing, without pytest."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import socket, sys
attempts = []
def refuse(*args, **kwargs):
    attempts.append(repr(args))
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.create_connection = socket.getaddrinfo = refuse

from pathlib import Path
import numpy as np
from edgekit import target
from edgekit.quantize.config import PtqConfig
from edgekit.quantize.ptq import quantize_onnx

rng = np.random.default_rng(0)
batch = {"image": rng.standard_normal((4, 1, 12, 12)).astype(np.float32)}
quantize_onnx(
    Path(sys.argv[1]), Path(sys.argv[2]), scheme=target.load("rtx").int8, calibration=[batch],
    config=PtqConfig(samples=4, bias_samples=1),
)
import threading, time
time.sleep(0.2)
others = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
assert "pytest" not in sys.modules
assert not [m for m in sys.modules if m.startswith("openvino_telemetry.")], "telemetry loaded"
print("attempts", attempts, "threads", others, file=sys.stderr)
assert not attempts and not others
"""


def test_no_network_no_home_no_output(residual: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NNCF", "PYTEST", "CI", "XDG"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(residual), str(tmp_path / "int8.onnx")],
        env={**env, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "attempts []" in done.stderr
    assert [str(p) for p in home.rglob("*")] == []
    assert (tmp_path / "int8.onnx").stat().st_size > 0
