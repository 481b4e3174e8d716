"""Structured pruning of a captured program: analyse, score, allocate, shrink, prove."""

import difflib
import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.errors import PassError, UsageError
from edgekit.graph.cost import Cost, cost
from edgekit.graph.program import Program, rebuild
from edgekit.progress import Progress, Silent
from edgekit.prune import masks
from edgekit.prune.allocation import Plan, allocate, levels_of, same_ratio
from edgekit.prune.config import Attention, PruneConfig
from edgekit.prune.coupling import Coupling, analyse
from edgekit.prune.families import Counts, Families, find_families, layer_of, weighted_nodes
from edgekit.prune.importance import Scores, score_groups
from edgekit.prune.model import channels_model, macs_model, parameters_model
from edgekit.prune.recover import Fitted, compensate
from edgekit.prune.registry import Policy
from edgekit.prune.report import PruneReport, frozen_by, group_changes
from edgekit.prune.shrink import Keep, shrink

if TYPE_CHECKING:
    from edgekit.prune.calibration import Calibration

# Relative to the largest output. Float64 leaves nothing but rounding; float32 sums in other orders.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
_DOUBLE_LIMIT_BYTES = 400_000_000


def prune(
    program: Program,
    config: PruneConfig,
    *,
    seed: int,
    calibration: "Calibration | None" = None,
    progress: Progress | None = None,
) -> tuple[Program, PruneReport]:
    """Remove whole channels, and prove that the rest computes what it did.

    Args:
        program: not changed.
        config: how much, by which score, where not.
        seed: for random importance and the self-check's inputs; equal seeds give equal results.
        calibration: samples for importances and a recovery that look at data.
        progress: shows how far the recovery is.

    Returns:
        the smaller program, and what was done.

    Raises:
        UsageError: a pattern that matches no layer, a budget that cannot be met, no data where
            they are needed.
        PassError: nothing can be pruned, or the result failed the zero-mask oracle.
    """
    module, names = program.module(), program.name_map()
    coupling = analyse(module, _policy(config, names))
    families = find_families(coupling, names)
    frozen, frozen_parameters = frozen_by(families, names)
    if not families.families:
        _refuse(frozen_causes=list(frozen))
    before = cost(program)
    warnings: list[str] = []
    fixed = _fixed(families, config, names, warnings)
    looked = calibration.look(program, config.importance) if calibration else None
    scores = score_groups(families, config.importance, seed=seed, looked=looked)
    kept = _decide(program, families, config, scores, before, fixed, warnings)
    _warn_of_whole(families, config, warnings)
    keep = _keep(families, scores, kept)
    pruned, error, dtype = program, 0.0, "float64"
    fitted: tuple[Fitted, ...] = ()
    if np.array_equal(kept, families.full()):
        warnings.append("Nothing was removed: every layer is at its minimum or multiple already.")
    else:
        pruned, error, dtype = _shrink_and_check(program, coupling, keep, seed)
        if "least-squares" in config.recovery:
            pruned, fitted = _fit(program, coupling, keep, calibration, seed, progress or Silent())
    after = cost(pruned)
    report = PruneReport(
        groups=group_changes(families, kept),
        frozen=frozen,
        frozen_parameters=frozen_parameters,
        macs_before=before.macs,
        macs_after=after.macs,
        parameters_before=before.parameters,
        parameters_after=after.parameters,
        zero_mask_max_error=error,
        zero_mask_dtype=dtype,
        fitted=fitted,
        warnings=tuple(warnings),
    )
    return pruned, report


def _policy(config: PruneConfig, names: dict[str, str]) -> Policy:
    wanted = config.attention
    if not isinstance(wanted, dict):
        return Policy(config.normalization, lambda _: wanted)

    def attention(node: Node) -> Attention | None:
        path = names.get(node.name, "")
        return next((w for pattern, w in wanted.items() if _matches(path, pattern)), None)

    return Policy(config.normalization, attention)


def _fit(
    program: Program,
    coupling: Coupling,
    keep: Keep,
    calibration: "Calibration | None",
    seed: int,
    progress: Progress,
) -> tuple[Program, tuple[Fitted, ...]]:
    """Fit what is left to what the original says."""
    if calibration is None:
        raise UsageError("Least squares need data.", "Give data, or leave `recovery` out.")
    nodes = len(coupling.module.graph.nodes)
    with progress.task("least squares", total=nodes) as bar:
        fitted = compensate(
            program.module(), coupling, keep, calibration.inputs, seed=seed,
            tell=lambda _: bar.advance(1),
        )  # fmt: skip
    return rebuild(coupling.module, program), tuple(fitted)


def _refuse(frozen_causes: list[str]) -> None:
    causes = ", ".join(frozen_causes) or "it has no weights"
    raise PassError(
        f"No channel of this network can be pruned; frozen by: {causes}.",
        "Prune a network with hidden layers between operators that edgekit has rules for.",
    )


def _decide(
    program: Program,
    families: Families,
    config: PruneConfig,
    scores: list[Scores],
    before: Cost,
    fixed: dict[int, float],
    warnings: list[str],
) -> Counts:
    """Number of groups to keep of each family."""
    what, amount = config.amount
    if what == "sparsity" and config.allocation == "uniform":
        return same_ratio(families, config, fixed)
    if what == "sparsity":
        model, share = channels_model(families), 1 - amount
    elif what == "macs":
        model, share = macs_model(program, families, before), amount
    else:
        model, share = parameters_model(families, before), amount
    whole = model(families.full())
    plan = allocate(families, config, scores, model, share * whole, fixed)
    if not plan.fits and what != "sparsity":
        _out_of_reach(plan, what, share, whole)
    if not plan.fits:
        warnings.append(
            f"Sparsity {amount:g} is out of reach within minimum_channels, multiple and protected "
            f"layers; {1 - plan.value / whole:.3g} of the channels were removed."
        )
    return plan.kept


def _out_of_reach(plan: Plan, what: str, share: float, whole: int) -> None:
    closest = plan.value / whole
    raise UsageError(
        f"A budget of {what}={share:g} cannot be met: the smallest network that the minimum, the "
        f"multiple and the protected layers leave keeps {closest:.4g}.",
        f"Ask for {what} of at least {np.ceil(closest * 1e4) / 1e4:g}, or loosen the limits.",
    )


def _fixed(
    families: Families, config: PruneConfig, names: dict[str, str], warnings: list[str]
) -> dict[int, float]:
    """Families whose sparsity the user has set: number to sparsity; 0 where protected."""
    known = sorted({layer_of(n, w, names) for n, w, _ in weighted_nodes(families.coupling)})
    for pattern in (*config.layers, *config.protect):
        if not any(_matches(name, pattern) for name in known):
            near = difflib.get_close_matches(pattern, known, n=1, cutoff=0.0)
            raise UsageError(
                f"Pattern {pattern!r} matches no layer.",
                f"Did you mean {near[0]!r}?" if near else "This network has no layers.",
            )
    warnings.extend(
        f"Layers that match {pattern!r} have a width that cannot change."
        for pattern in config.layers
        if not any(_matches(m, pattern) for f in families.families for m in f.modules)
    )
    fixed: dict[int, float] = {}
    for number, family in enumerate(families.families):
        chosen = _ratios(family.layers, config) or _ratios(family.modules, config)
        if chosen:
            fixed[number] = min(chosen)
        if any(_matches(name, p) for name in family.modules for p in config.protect):
            fixed[number] = 0.0
    return fixed


def _ratios(layers: Sequence[str], config: PruneConfig) -> list[float]:
    """Each layer's sparsity by the first pattern that matches it."""
    found = (next((r for p, r in config.layers.items() if _matches(n, p)), None) for n in layers)
    return [ratio for ratio in found if ratio is not None]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def _warn_of_whole(families: Families, config: PruneConfig, warnings: list[str]) -> None:
    if config.multiple is None:
        return
    stuck = [f.name for f in families.families if len(levels_of(f, config)) == 1]
    if stuck:
        shown = ", ".join(stuck[:5]) + (f" and {len(stuck) - 5} more" if len(stuck) > 5 else "")
        warnings.append(
            f"Too narrow to lose channels in multiples of {config.multiple}, kept whole: {shown}."
        )


def _keep(families: Families, scores: list[Scores], kept: Counts) -> Keep:
    """Keep the best-scored groups of each family, of equals the first."""
    solution = families.coupling.solution
    keep = np.ones(solution.roots.size, dtype=np.bool_)
    for family, score, number in zip(families.families, scores, kept, strict=True):
        order = np.argsort(-score, kind="stable")
        keep[family.groups[order[int(number) :]]] = False
    return Keep(solution.roots, keep)


def _shrink_and_check(
    program: Program, coupling: Coupling, keep: Keep, seed: int
) -> tuple[Program, float, str]:
    """Shrink, capture again, and compare with the masked original."""
    device = next(coupling.module.parameters()).device
    inputs = tuple(t.to(device) for t in program.example_inputs(batch=2, seed=seed))
    expected, dtype = _expect(coupling, keep, inputs)
    pruned = rebuild(shrink(coupling, keep), program)
    error = _error(pruned.module(), expected, inputs, dtype)
    if not error <= TOLERANCE[dtype]:
        raise PassError(
            f"The pruned network does not compute what the masked original does (relative error "
            f"{error:.3g} in {dtype}, tolerance {TOLERANCE[dtype]:g}); nothing was written.",
            "This is a fault in a pruning rule: protect the layers around unusual operators, and "
            "report the model.",
        )
    return pruned, error, dtype


def _expect(
    coupling: Coupling, keep: Keep, inputs: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], str]:
    module: GraphModule = coupling.module
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    if size <= _DOUBLE_LIMIT_BYTES:
        try:
            twin = masks.in_double(module)
            return masks.masked_outputs(twin, coupling, keep, masks.doubled(inputs)), "float64"
        except RuntimeError:
            # A dtype written into the graph does not mix with float64.
            pass
    return masks.masked_outputs(module, coupling, keep, inputs), "float32"


def _error(
    module: GraphModule, expected: tuple[Tensor, ...], inputs: Sequence[Tensor], dtype: str
) -> float:
    if dtype == "float64":
        module, inputs = masks.in_double(module), masks.doubled(inputs)
    return masks.difference(expected, masks.plain_outputs(module, inputs))
