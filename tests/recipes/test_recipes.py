"""Every committed recipe is valid, and says what it would do."""

import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import Command

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*/recipe.yaml"))
each = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 3


@each
def test_it_is_valid(edgekit: Command, recipe: Path) -> None:
    done = edgekit("recipe", "validate", recipe.parent)
    assert done.returncode == 0, done.stderr
    assert "valid recipe" in done.stdout


@each
def test_it_is_explained(edgekit: Command, recipe: Path) -> None:
    declared = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    chains = [declared.get("passes", []), *(b["passes"] for b in declared["branches"])]
    wanted = [step["kind"] for chain in chains for step in chain]
    done = edgekit("recipe", "explain", recipe, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    found = [step["step"] for step in plan]
    assert [kind for kind in found if kind in wanted] == wanted
    text = edgekit("recipe", "explain", recipe)
    assert text.returncode == 0, text.stderr
    assert all(kind in text.stdout for kind in wanted)
