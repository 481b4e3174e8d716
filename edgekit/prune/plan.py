"""Decides what to prune: analyse, score, allocate. Nothing is changed yet."""

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch.fx import Node

from edgekit.errors import PassError, UsageError
from edgekit.graph.cost import Cost, cost
from edgekit.graph.program import Program
from edgekit.prune.allocation import Plan, allocate, levels_of, same_ratio
from edgekit.prune.config import Amount, Attention, PruneConfig
from edgekit.prune.coupling import Coupling, analyse
from edgekit.prune.families import Counts, Families, find_families, layer_of, weighted_nodes
from edgekit.prune.importance import Scores, score_groups
from edgekit.prune.model import (
    Polynomial,
    bytes_model,
    channels_model,
    macs_model,
    parameters_model,
    weight_bytes,
)
from edgekit.prune.registry import Policy
from edgekit.prune.report import Frozen, PruneReport, frozen_by, group_changes
from edgekit.prune.shrink import Keep

if TYPE_CHECKING:
    from edgekit.prune.calibration import Calibration


@dataclass(frozen=True)
class Decision:
    """What is to be removed.

    Attributes:
        program: the network.
        families: of its graph.
        scores: of each family's groups.
        kept: groups to keep of each family.
        before: what the network costs.
        frozen: what operators froze, by operator.
        frozen_parameters: elements that could not be removed, each counted once.
        warnings: one sentence each.
    """

    program: Program
    families: Families
    scores: list[Scores]
    kept: Counts
    before: Cost
    frozen: dict[str, Frozen]
    frozen_parameters: int
    warnings: tuple[str, ...]

    @property
    def coupling(self) -> Coupling:
        """The analysis of the graph."""
        return self.families.coupling

    @property
    def removes_nothing(self) -> bool:
        """Whether every group stays."""
        return bool(np.array_equal(self.kept, self.families.full()))

    def keep(self) -> Keep:
        """Which indices stay: the best-scored groups of each family, of equals the first."""
        solution = self.coupling.solution
        keep = np.ones(solution.roots.size, dtype=np.bool_)
        for family, score, number in zip(
            self.families.families, self.scores, self.kept, strict=True
        ):
            order = np.argsort(-score, kind="stable")
            keep[family.groups[order[int(number) :]]] = False
        return Keep(solution.roots, keep)

    def report(self) -> PruneReport:
        """What will be done, as far as it is known before: costs are exact, nothing is proved."""
        return PruneReport(
            groups=group_changes(self.families, self.kept),
            frozen=self.frozen,
            frozen_parameters=self.frozen_parameters,
            macs_before=self.before.macs,
            macs_after=macs_model(self.program, self.families, self.before)(self.kept),
            parameters_before=self.before.parameters,
            parameters_after=parameters_model(self.families, self.before)(self.kept),
            weight_bytes_before=weight_bytes(self.program),
            weight_bytes_after=bytes_model(self.families, weight_bytes(self.program))(self.kept),
            zero_mask_max_error=None,
            zero_mask_dtype="",
            warnings=self.warnings,
        )


def decide(
    program: Program,
    config: PruneConfig,
    *,
    seed: int,
    calibration: "Calibration | None" = None,
) -> Decision:
    """Decide what to remove.

    Args:
        program: not changed.
        config: how much, by which score, where not.
        seed: for random importance.
        calibration: samples for importances that look at data.

    Raises:
        UsageError: a pattern that matches no layer, a budget that cannot be met, no data where
            they are needed.
        PassError: nothing can be pruned.
    """
    module, names = program.module(share=True), program.name_map()
    coupling = analyse(module, _policy(config, names))
    families = find_families(coupling, names)
    frozen, frozen_parameters = frozen_by(families, names)
    if not families.families:
        _refuse(frozen_causes=list(frozen))
    before = cost(program)
    warnings: list[str] = []
    fixed = _fixed(families, config, names, warnings)
    looked = calibration.look(program, config.scoring) if calibration else None
    scores = score_groups(families, config.scoring, seed=seed, looked=looked)
    kept = _decide(program, families, config, scores, before, fixed, warnings)
    _warn_of_whole(families, config, warnings)
    if np.array_equal(kept, families.full()):
        warnings.append("Nothing was removed: every layer is at its minimum or multiple already.")
    return Decision(
        program, families, scores, kept, before, frozen, frozen_parameters, tuple(warnings)
    )


def _policy(config: PruneConfig, names: dict[str, str]) -> Policy:
    wanted = config.attention
    if not isinstance(wanted, dict):
        return Policy(config.normalization, lambda _: wanted)

    def attention(node: Node) -> Attention | None:
        path = names.get(node.name, "")
        return next((w for pattern, w in wanted.items() if _matches(path, pattern)), None)

    return Policy(config.normalization, attention)


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
    if what == "sparsity" and config.allocating == "uniform":
        return same_ratio(families, config, fixed)
    model = _model(what, program, families, before)
    whole = model(families.full())
    share = 1 - amount if what == "sparsity" else amount
    budget = amount if what == "size_bytes" else share * whole
    plan = allocate(families, config, scores, model, budget, fixed)
    if not plan.fits and what != "sparsity":
        _out_of_reach(plan, what, amount, whole)
    if not plan.fits:
        warnings.append(
            f"Sparsity {amount:g} is out of reach within minimum_channels, multiple and protected "
            f"layers; {1 - plan.value / whole:.3g} of the channels were removed."
        )
    return plan.kept


def _model(what: Amount, program: Program, families: Families, before: Cost) -> Polynomial:
    if what == "sparsity":
        return channels_model(families)
    if what == "macs":
        return macs_model(program, families, before)
    if what == "parameters":
        return parameters_model(families, before)
    return bytes_model(families, weight_bytes(program))


def _out_of_reach(plan: Plan, what: str, share: float, whole: int) -> None:
    if what == "size_bytes":
        raise UsageError(
            f"A budget of {share:.0f} bytes cannot be met: the smallest network that the minimum, "
            f"the multiple and the protected layers leave takes {plan.value:.0f} of {whole}.",
            f"Ask for size_bytes of at least {plan.value:.0f}, or loosen the limits.",
        )
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
