"""What a machine without NVIDIA's driver is told."""

from pathlib import Path

import pytest

from edgekit.bench.runtimes import cuda


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ("ID=ubuntu\nID_LIKE=debian\n", "sudo ubuntu-drivers install"),
        ('ID="linuxmint"\nID_LIKE="ubuntu debian"\n', "sudo ubuntu-drivers install"),
        ("ID=debian\n", "sudo apt install nvidia-driver"),
        ("ID=unheard-of\n", "Install NVIDIA's driver; in a container"),
    ],
)
def test_the_command_is_the_distributions(tmp_path: Path, release: str, command: str) -> None:
    path = tmp_path / "os-release"
    path.write_text(release)
    assert command in cuda.driver_fix(path)


def test_without_such_a_file_it_still_says_something(tmp_path: Path) -> None:
    assert "docker run --gpus all" in cuda.driver_fix(tmp_path / "none")


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "DRIVER", "libnone.so.0")
    assert cuda.devices() == []
