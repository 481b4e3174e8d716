"""Power modes on fake devices: read, set on request, always put back."""

import json
import os

import pytest

from edgekit.bench import power
from edgekit.errors import UnavailableError, UsageError

NVPMODEL = """#!/bin/sh
# Keeps the number of the mode in a file beside itself.
here=$(dirname "$0")
case "$1" in
-q) n=$(cat "$here/number"); [ "$n" = 0 ] && name=MAXN || name="MODE 15W"
    echo "NV Fan Mode:quiet"; echo "NV Power Mode: $name"; echo "$n" ;;
-m) if [ -f "$here/refuse" ]; then cat "$here/refuse" >&2; exit 1; fi
    echo "$2" >> "$here/calls"; echo "$2" > "$here/number" ;;
esac
"""
CONF = """# comment
< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MODE 15W >
< PM_CONFIG DEFAULT=2 >
"""


@pytest.fixture
def bin_folder(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def device(tmp_path, bin_folder):
    """Return the root of a device with four CPUs in two policies, and nothing else."""
    root = tmp_path / "root"
    for number, governor in enumerate(("schedutil", "ondemand")):
        policy = root / f"sys/devices/system/cpu/cpufreq/policy{number}"
        policy.mkdir(parents=True)
        (policy / "scaling_governor").write_text(f"{governor}\n")
        every = "ondemand schedutil performance" + (" userspace" if number else "")
        (policy / "scaling_available_governors").write_text(every + "\n")
    return root


@pytest.fixture
def governors(device):
    def read():
        paths = sorted(device.glob("sys/devices/system/cpu/cpufreq/*/scaling_governor"))
        return [path.read_text().strip() for path in paths]

    return read


@pytest.fixture
def jetson(device, bin_folder):
    (device / "etc").mkdir()
    (device / "etc/nvpmodel.conf").write_text(CONF)
    (bin_folder / "nvpmodel").write_text(NVPMODEL)
    (bin_folder / "nvpmodel").chmod(0o755)
    (bin_folder / "number").write_text("2\n")
    return f"{bin_folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def laptop(device):
    folder = device / "sys/firmware/acpi"
    folder.mkdir(parents=True)
    (folder / "platform_profile").write_text("balanced\n")
    (folder / "platform_profile_choices").write_text("low-power balanced performance\n")
    return folder / "platform_profile"


def test_what_is_read(tmp_path, device, jetson, laptop):
    assert power.read(tmp_path / "empty", "") == "unknown"
    assert power.read(device, jetson) == (
        "nvpmodel MODE 15W, governor ondemand/schedutil, profile balanced"
    )


def test_nvpmodel_is_set_by_its_number_and_put_back(device, jetson, bin_folder):
    with power.changed("nvpmodel:maxn", device, search=jetson) as now:
        assert now.startswith("nvpmodel MAXN")
    assert (bin_folder / "calls").read_text().split() == ["0", "2"]
    assert power.read(device, jetson).startswith("nvpmodel MODE 15W")


def test_nothing_is_called_for_the_mode_that_is_set_already(device, jetson, bin_folder):
    with power.changed("MODE 15W", device, search=jetson):
        pass
    assert not (bin_folder / "calls").exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("Error: must be run as root", "as root"),
        ("REBOOT required for mode change", "restart of the device"),
    ],
)
def test_a_jetson_that_refuses(device, jetson, bin_folder, words, hint):
    (bin_folder / "refuse").write_text(words + "\n")
    with (
        pytest.raises(UnavailableError, match=words) as caught,
        power.changed("MAXN", device, search=jetson),
    ):
        raise AssertionError
    assert hint in caught.value.hint
    assert (bin_folder / "number").read_text() == "2\n"


def test_an_nvpmodel_that_does_not_run(device, jetson, bin_folder):
    (bin_folder / "nvpmodel").write_text("#!/no/such/program\n")
    assert power.read(device, jetson).startswith("governor")
    with pytest.raises(UnavailableError, match="nvpmodel does not run"):  # noqa: SIM117
        with power.changed("MAXN", device, search=jetson):
            raise AssertionError


def test_each_policy_gets_its_own_governor_back(device, governors):
    with power.changed("performance", device, search="") as now:
        assert now == "governor performance"
        assert governors() == ["performance", "performance"]
    assert governors() == ["schedutil", "ondemand"]


def test_the_platform_profile(device, laptop, governors):
    with power.changed("profile:performance", device, search=""):
        assert laptop.read_text() == "performance"
        assert governors() == ["schedutil", "ondemand"]
    assert laptop.read_text() == "balanced"
    with power.changed("low-power", device, search=""):
        assert laptop.read_text() == "low-power"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_it_is_put_back_whatever_happens(device, governors, error):
    with pytest.raises(error), power.changed("performance", device, search=""):
        raise error
    assert governors() == ["schedutil", "ondemand"]


def test_a_change_that_fails_half_way_is_undone(device, governors, monkeypatch):
    real = power.Path.write_text

    def write(path, text, **options):
        if path.parent.name == "policy1" and text == "performance":
            raise PermissionError(13, "Permission denied")
        return real(path, text, **options)

    monkeypatch.setattr(power.Path, "write_text", write)
    with (
        pytest.raises(UnavailableError, match="Permission denied") as caught,
        power.changed("performance", device, search=""),
    ):
        raise AssertionError
    assert "root" in caught.value.hint
    assert governors() == ["schedutil", "ondemand"]


def test_unknown_modes(device, jetson, laptop, tmp_path):
    with (
        pytest.raises(UsageError, match="'warp'") as caught,
        power.changed("warp", device, search=jetson),
    ):
        raise AssertionError
    assert "nvpmodel: MAXN, MODE 15W" in caught.value.hint
    assert "governor: ondemand, schedutil, performance" in caught.value.hint  # what all have
    with pytest.raises(UsageError), power.changed("governor:MAXN", device, search=jetson):
        raise AssertionError
    with pytest.raises(UnavailableError), power.changed("MAXN", tmp_path / "empty", search=""):
        raise AssertionError


def test_without_a_wish_nothing_is_changed(device, governors):
    with power.changed(None, device, search="") as now:
        assert now == "governor ondemand/schedutil"
    assert governors() == ["schedutil", "ondemand"]


def test_what_a_killed_process_left_is_put_back(device, governors, tmp_path):
    journal = tmp_path / "power.json"
    with power.changed("performance", device, search="", journal=journal):
        left = journal.read_text()
    assert not journal.exists()

    with power.changed("governor:performance", device, search=""):
        journal.write_text(left)  # as if it had been killed here
        assert power.recover(journal, device, search="")
        assert governors() == ["schedutil", "ondemand"]
    assert not journal.exists()
    assert not power.recover(journal, device, search="")


def test_a_journal_cannot_name_other_files(device, governors, tmp_path):
    journal, victim = tmp_path / "power.json", tmp_path / "victim"
    victim.write_text("mine")
    journal.write_text(json.dumps({"source": "governor", "state": {str(victim): "performance"}}))
    power.recover(journal, device, search="")
    assert victim.read_text() == "mine"
    journal.write_text("{")
    assert not power.recover(journal, device, search="")
    assert not journal.exists()
