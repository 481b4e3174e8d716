"""Say what a recipe would do, without doing it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit import manifest
from edgekit.errors import DeviceError, UnavailableError
from edgekit.passes.base import Context, Pass
from edgekit.pipeline.branch_bench import Places
from edgekit.pipeline.foresight import foreseen
from edgekit.pipeline.step import Made, Store, capture_key, step_key
from edgekit.recipe import Gate, Recipe, load
from edgekit.target import Target

RECIPE = "recipe.yaml"
ORIGINAL = "00-original"


def locate(path: Path) -> Path:
    """The recipe file that a user means: the file, or `recipe.yaml` in a folder."""
    return path / RECIPE if path.is_dir() else path


def explain(
    path: Path, out: Path | None, *, threads: int = 1, device: str | None = None
) -> list[dict[str, Any]]:
    """Say what a recipe would do, without doing it.

    Args:
        path: the recipe.
        out: the run's folder, to see what is there already; None does not look. Where there is
            something, the data is read, since it is part of what decides each step.
        threads: CPU threads of the run, which decide how training rounds.
        device: where every branch is measured, whatever the recipe says.

    Returns:
        One mapping a step: `branch`, `step`, `folder`, `config` with what the targets decide,
        `given` with what the recipe itself sets of it, and `there`: whether a run would find the
        step made. After one that is not there it is False, though a run may still find the next if
        the one before comes out as it was; and it is False where a device that builds an engine
        cannot be asked whether it is still the same. With `out`, the step `measure` has `warnings`:
        gates that cannot be held on this machine.
    """
    recipe = load(locate(path))
    base = locate(path).parent.resolve()
    check_start(recipe, base)
    look = _Look(recipe, base, out, threads)
    config = recipe.model.model_dump(exclude_none=True)
    plan: list[dict[str, Any]] = [
        {
            "branch": "",
            "step": "capture",
            "folder": ORIGINAL,
            "config": config,
            "given": recipe.model.model_dump(exclude_unset=True, exclude_none=True),
            "there": look.original is not None,
        }
    ]
    shared, last = _chain(look, "", recipe.passes, recipe.targets(), look.original)
    plan += shared
    for branch, target in zip(recipe.branches, recipe.targets(), strict=True):
        plan += _chain(look, branch.name, branch.passes, (target,), last)[0]
        measured: dict[str, Any] = {
            "bench": branch.bench,
            "gates": branch.gates.model_dump(exclude_none=True),
        }
        if branch.device is not None:
            measured["device"] = branch.device
        held = {name: _short(gate) for name, gate in branch.gates.given().items()}
        plan.append(
            {
                "branch": branch.name,
                "step": "measure",
                "folder": "",
                "config": measured,
                "given": {**measured, "gates": held},
                "there": False,
                "warnings": list(foreseen(branch, target, Places(device))) if out else [],
            }
        )
    return plan


def _short(gate: Gate) -> Any:
    """A gate as a recipe would write it: a bare number where that says all."""
    return gate.budget if gate == Gate(budget=gate.budget) else gate.model_dump(mode="json")


def check_start(recipe: Recipe, base: Path) -> None:
    """Check that the passes fit each other and the model that the recipe starts from.

    Raises:
        RecipeError: a pass does not take what it gets.
        UsageError: the model's file is missing.
    """
    source = recipe.model.source(base)
    recipe.check_formats("onnx" if source is not None and source.suffix == ".onnx" else "pt2")


class _Look:
    """Finds finished steps by the keys that a run would use."""

    def __init__(self, recipe: Recipe, base: Path, out: Path | None, threads: int) -> None:
        self.original: Made | None = None
        if out is None or not (out / ORIGINAL / manifest.FILE).is_file():
            return
        self._out, self._store = out, Store(out)
        self._context = Context(
            out=out, seed=recipe.seed, task=recipe.task, base=base, threads=threads
        )
        if recipe.data is not None:
            from edgekit.data import open_data

            self._context.data = open_data(recipe.data, base)
        self.original = self._made(capture_key(recipe.model, self._context), ORIGINAL)
        self._context.original = self.original.artifact if self.original else None

    def step(self, step: Pass, parent: Made | None, folder: str) -> Made | None:
        """The step as an earlier run made it from this parent."""
        if parent is None:
            return None
        try:
            key = step_key(step, parent, self._context)
        except (DeviceError, UnavailableError):
            return None
        return self._made(key, folder)

    def _made(self, key: str, folder: str) -> Made | None:
        found = self._store.look(key, self._out / folder)
        return None if found is None else Made(found, cached=True)


def _chain(
    look: _Look,
    branch: str,
    chain: Sequence[Pass],
    for_targets: Sequence[Target],
    parent: Made | None,
) -> tuple[list[dict[str, Any]], Made | None]:
    plan = []
    for i, given in enumerate(chain, 1):
        step = given.resolve(for_targets)
        folder = str(Path(branch) / f"{i:02d}-{step.title}")
        parent = look.step(step, parent, folder)
        plan.append(
            {
                "branch": branch,
                "step": step.title,
                "folder": folder,
                "config": step.model_dump(mode="json", exclude_none=True),
                "given": given.model_dump(mode="json", exclude_unset=True, exclude_none=True),
                "there": parent is not None,
            }
        )
    return plan, parent
