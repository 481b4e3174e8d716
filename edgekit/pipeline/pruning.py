"""What pruning would do, without doing it: for `edgekit prune --dry-run` and `--explain`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import target as targets
from edgekit.entry import import_modules
from edgekit.errors import UsageError
from edgekit.evaluate import open_artifact
from edgekit.metrics import Task

if TYPE_CHECKING:
    from edgekit.data import DataConfig
    from edgekit.passes.prune import Prune


def plan_pruning(
    step: "Prune",
    model: Path,
    *,
    data: "DataConfig | None" = None,
    task: Task | None = None,
    target: str | None = None,
    seed: int = 0,
    imports: Sequence[str] = (),
    layer: str | None = None,
) -> dict[str, Any]:
    """Say what a pruning pass would remove, what is frozen and why.

    Args:
        step: the pass.
        model: an artifact's folder or a `.pt2`.
        data: samples, for importances that look at data.
        task: what the network is for.
        target: a target's name.
        seed: every random choice comes from it.
        imports: modules that register the custom operators of a `.pt2`.
        layer: a layer to explain; None for all.

    Returns:
        the pruning report's fields, with the costs exact and nothing proved; with `layer`, what
        `edgekit.prune.explain.explain_layer` says.
    """
    from edgekit.data import open_data
    from edgekit.graph.store import load
    from edgekit.prune.calibration import open_calibration
    from edgekit.prune.explain import explain_layer
    from edgekit.prune.plan import decide

    import_modules(imports, Path.cwd())
    artifact = open_artifact(model, imports)
    step = step.resolve((targets.load(target),) if target else ())
    if artifact.format not in step.accepts:
        raise UsageError(
            f"`prune` takes a pt2, not {artifact.format}.", "Capture the network first."
        )
    program = load(artifact.path, imports)
    calibration = None
    if step.scores_by_data:
        if data is None:
            raise UsageError(f"Importance {step.scoring!r} needs data.", "Give it with --data.")
        opened = open_data(data, Path.cwd())
        calibration = open_calibration(program, opened, task or Task(), step, seed=seed)
    decision = decide(program, step, seed=seed, calibration=calibration)
    return explain_layer(decision, layer) if layer else decision.report().to_dict()
