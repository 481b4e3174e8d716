from pathlib import Path

import pytest

from edgekit.bench.conditions import rss_bytes, snapshot
from edgekit.bench.fingerprint import digest, fingerprint

X86 = """processor\t: 0
model name\t: Intel(R) Core(TM) i5-1245U
flags\t\t: fpu sse avx2 fma avx_vnni hypervisor
processor\t: 1
model name\t: Intel(R) Core(TM) i5-1245U
flags\t\t: fpu sse avx2 fma avx_vnni hypervisor
"""
ARM = """processor\t: 0
Features\t: fp asimd asimddp
CPU part\t: 0xd0b
processor\t: 1
Features\t: fp asimd asimddp
CPU part\t: 0xd0b
"""


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("DASH", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def laptop(tmp_path):
    return tree(
        tmp_path,
        proc__cpuinfo=X86,
        proc__meminfo="MemTotal:       16303428 kB\n",
        etc__osDASHrelease='PRETTY_NAME="Debian GNU/Linux 12"\n',
        proc__sys__kernel__osrelease="6.1.0\n",
        sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="powersave\n",
        sys__devices__system__cpu__cpu0__cpufreq__cpuinfo_max_freq="4400000\n",
    )


def test_an_x86_machine(laptop):
    found = fingerprint(laptop, versions={"onnxruntime": "1.22.0"})
    assert found["cpu"] == "Intel(R) Core(TM) i5-1245U"
    assert found["isa"] == "avx2 fma avx_vnni"
    assert (found["cores"], found["ram_gib"], found["max_mhz"]) == ("2", "16", "4400")
    assert (found["os"], found["kernel"]) == ("Debian GNU/Linux 12", "6.1.0")
    assert (found["governor"], found["virtualised"]) == ("powersave", "yes")
    assert found["version:onnxruntime"] == "1.22.0"


def test_a_raspberry_pi(tmp_path):
    model = "Raspberry Pi 5 Model B Rev 1.0\0"
    tree(tmp_path, proc__cpuinfo=ARM)
    board = tmp_path / "proc/device-tree/model"
    board.parent.mkdir()
    board.write_text(model, encoding="utf-8")
    found = fingerprint(tmp_path, versions={})
    assert found["cpu"] == "Cortex-A76"
    assert found["isa"] == "asimd asimddp"
    assert found["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert found["virtualised"] == "no"


def test_what_is_not_known_is_unknown_and_nothing_fails(tmp_path):
    found = fingerprint(tmp_path / "nothing", versions={})
    assert found["cpu"] == found["governor"] == found["ram_gib"] == "unknown"


def test_the_digest_changes_with_what_decides_the_speed_and_with_nothing_else(laptop):
    first = fingerprint(laptop, versions={"onnxruntime": "1.22.0"})
    assert fingerprint(laptop, versions={"onnxruntime": "1.22.0"})["digest"] == first["digest"]
    assert fingerprint(laptop, versions={"onnxruntime": "1.23.0"})["digest"] != first["digest"]
    tree(laptop, proc__loadavg="9.99 1 1 1/1 1", proc__meminfo="MemTotal:  16303400 kB\n")
    assert fingerprint(laptop, versions={"onnxruntime": "1.22.0"})["digest"] == first["digest"]
    tree(laptop, sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="performance")
    assert fingerprint(laptop, versions={"onnxruntime": "1.22.0"})["digest"] != first["digest"]
    assert digest(first) == first["digest"]


def test_this_machine_has_a_fingerprint():
    found = fingerprint()
    assert all(isinstance(value, str) and value for value in found.values())
    assert "version:onnxruntime" in found


def test_conditions_are_read_from_the_system(tmp_path):
    tree(
        tmp_path,
        proc__loadavg="0.50 0.40 0.30 1/100 1\n",
        proc__stat="cpu  1 2 3 4 5 6 7 800 0 0\ncpu0 1\n",
        sys__devices__system__cpu__cpu0__cpufreq__scaling_cur_freq="1800000\n",
        sys__class__thermal__thermal_zone0__temp="61500\n",
        sys__class__thermal__thermal_zone0__type="cpu-thermal\n",
    )
    found = snapshot(tmp_path)
    assert found["load_1min"] == 0.5
    assert found["cpu_mhz"] == {"cpu0": 1800.0}
    assert found["thermal_c"] == {"thermal_zone0:cpu-thermal": 61.5}
    assert found["stolen_s"] == pytest.approx(8.0)
    assert "cpu_mhz" not in snapshot(tmp_path / "nothing")
    assert rss_bytes(tmp_path) is None
