"""Telling an emulator from a processor, and saying so on every figure."""

import pytest

from edgekit.bench.agent.emulation import emulated, relabel

ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"
X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) N100\n"


@pytest.fixture
def device(tmp_path):
    """Return a function that says whether a device of these files looks emulated."""

    def look(machine, cpuinfo, files=None, environment=None, exe=""):
        for name, text in {"proc/cpuinfo": cpuinfo, **(files or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if exe:
            (tmp_path / "proc/7").mkdir(parents=True, exist_ok=True)
            (tmp_path / "proc/7/exe").symlink_to(exe)
        return emulated(tmp_path, machine, environment or {}, parent=7)

    return look


@pytest.mark.parametrize(
    ("machine", "cpuinfo"), [("aarch64", ARM), ("x86_64", X86), ("x86_64", ""), ("riscv64", "")]
)
def test_real_processors(device, machine, cpuinfo):
    real = {"proc/7/cmdline": "/usr/bin/python3\0agent.pyz", "proc/sys/fs/binfmt_misc/status": "on"}
    assert not device(machine, cpuinfo, real, exe="/usr/bin/python3.11")


def test_a_host_that_can_emulate_others_is_no_emulator(device):
    rule = {"proc/sys/fs/binfmt_misc/qemu-aarch64": "enabled\ninterpreter /usr/bin/qemu-aarch64"}
    assert not device("x86_64", X86, rule)
    assert device("aarch64", ARM, rule)


def test_the_processor_is_of_another_kind(device):
    assert device("aarch64", X86)
    assert device("x86_64", ARM)


def test_the_processor_says_so_itself(device):
    assert device("x86_64", "model name\t: QEMU TCG CPU version 2.5+\n")
    assert device("x86_64", "model name\t: VirtualApple @ 2.50GHz\n")


@pytest.mark.parametrize(
    "program", ["/usr/bin/qemu-aarch64-static", "/usr/libexec/qemu-binfmt/aarch64-binfmt-P"]
)
def test_the_parent_is_run_by_an_emulator(device, program):
    assert device("aarch64", ARM, {"proc/7/cmdline": f"{program}\0/usr/bin/python3\0"})
    assert device("aarch64", ARM, exe=program)


def test_the_emulators_own_variables(device):
    assert device("aarch64", ARM, environment={"QEMU_LD_PREFIX": "/sysroot"})


def test_every_figure_is_relabelled_and_what_is_missing_stays_missing():
    figure = {"value": 1.0, "low": None, "high": None, "unit": "ms", "note": "quick"}
    found = relabel(
        {
            "a": {**figure, "label": "measured"},
            "b": [{"deep": {**figure, "label": "derived", "note": ""}}],
            "c": {**figure, "value": None, "label": "unavailable", "note": "No meter."},
            "d": "measured",
        }
    )
    assert found["a"]["label"] == "emulated"
    assert found["a"]["note"] == "quick; emulated processor"
    assert found["b"][0]["deep"]["label"] == "emulated"
    assert found["c"] == {**figure, "value": None, "label": "unavailable", "note": "No meter."}
    assert found["d"] == "measured"
    assert relabel(found) == found
