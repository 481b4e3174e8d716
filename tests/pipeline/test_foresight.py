"""Gates that this machine is sure not to hold are told before anything long is done."""

import platform
from pathlib import Path

import pytest

from edgekit.pipeline import foresight
from edgekit.pipeline.branch_bench import Places
from edgekit.recipe import Branch
from edgekit.target import Target, load
from tests.cli.project import RECIPE, write
from tests.conftest import Command

OTHER = "raspberry-pi-5" if platform.machine() != "aarch64" else "x86-avx2"


def here(**changes: object) -> Target:
    """A target that this machine is."""
    found = load("x86-avx2").model_copy(update={"machine": platform.machine(), **changes})
    assert isinstance(found, Target)
    return found


def told(target: Target, device: str | None = None, **fields: object) -> tuple[str, ...]:
    branch = Branch.model_validate({"name": "pc", "target": "x86-avx2", **fields})
    return foresight.foreseen(branch, target, Places(device))


@pytest.fixture(autouse=True)
def _no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foresight, "open_meter", lambda _names: (None, "RAPL cannot be read."))


def test_a_latency_of_another_machine() -> None:
    (said,) = told(load(OTHER), gates={"p50_ms": 5, "speedup": 2, "size_mb": 1})
    assert said.startswith("pc: the gates speedup, p50_ms cannot be held here: ")
    assert platform.machine() in said
    assert "`device:`" in said


def test_a_device_is_left_to_tell_for_itself() -> None:
    assert told(load(OTHER), gates={"p50_ms": 5}, device="board") == ()


def test_what_can_be_measured_or_needs_no_measurement_is_not_warned_of() -> None:
    assert told(here(), gates={"p50_ms": 5}) == ()
    assert told(load(OTHER), gates={"size_mb": 5, "agreement": 0.9}) == ()
    assert told(load(OTHER)) == ()


def test_energy_without_a_meter() -> None:
    (said,) = told(here(), gates={"energy_j": 1, "p50_ms": 5})
    assert said.startswith("pc: the gate energy_j cannot be held here: RAPL cannot be read. ")


def test_energy_that_can_only_be_estimated() -> None:
    assert here().energy is not None
    meters = ["rapl", "estimate"]
    (said,) = told(here(), meters=meters, gates={"energy_j": 1})
    assert "can only be estimated" in said
    allowed = {"energy_j": {"budget": 1, "allow": "estimated"}}
    assert told(here(), meters=meters, gates=allowed) == ()


def test_a_dry_run_says_so_and_shows_what_the_recipe_sets(edgekit: Command, tmp_path: Path) -> None:
    branch = f"  - {{name: pi, target: {OTHER}, gates: {{p50_ms: 5}}}}\n"
    write(tmp_path, recipe=RECIPE + branch)
    done = edgekit("run", ".", "-o", "out", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: pi: the gate p50_ms cannot be held here" in done.stdout
    assert "guard: false" in done.stdout
    assert "gates: {size_mb: 1.0}" in done.stdout
    for decided in ("scheme", "place", "activation_bits"):
        assert decided not in done.stdout
    explained = edgekit("recipe", "explain", ".", cwd=tmp_path)
    assert "scheme:" in explained.stdout
    assert "warning" not in explained.stdout
