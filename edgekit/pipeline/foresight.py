"""What can be told before a run starts: gates that cannot be held, since nothing here measures."""

from collections.abc import Sequence

from edgekit.bench.energy import open_meter
from edgekit.bench.meters import ESTIMATE
from edgekit.pipeline.branch_bench import HERE, Place, Places
from edgekit.recipe import Branch
from edgekit.target import Target

_LATENCY = ("speedup", "p50_ms", "p90_ms", "p99_ms")
_ENERGY = "energy_j"


def foreseen(branch: Branch, target: Target, places: Places) -> tuple[str, ...]:
    """Gates of a branch that are sure to fail, since this machine cannot measure their figures.

    Only this machine is looked at: a device is asked when its turn comes.

    Args:
        branch: the branch.
        target: its target.
        places: where branches are measured.

    Returns:
        One sentence for each cause, empty where nothing is amiss.
    """
    given = branch.gates.given()
    latency = [name for name in _LATENCY if name in given]
    measured = [*latency, *([_ENERGY] if _ENERGY in given else [])]
    if not measured or branch.bench == "off" or places.name(branch) != HERE:
        return ()
    reason = Place().cannot_measure(target)
    if reason:
        mend = "Name a device that can with `device:` or --device, or leave the gates out."
        return (_sentence(branch, measured, reason, mend),)
    if _ENERGY in given and (reason := _no_joules(branch, target)):
        mend = "`edgekit meters` says what there is; leave the gate out otherwise."
        return (_sentence(branch, [_ENERGY], reason, mend),)
    return ()


def _no_joules(branch: Branch, target: Target) -> str:
    """Why a gate on energy cannot be held on this machine; empty where it may be."""
    wanted = branch.meters if branch.meters is not None else target.meters
    meter, reason = open_meter([name for name in wanted if name != ESTIMATE])
    if meter is not None:
        return ""
    gate = branch.gates.energy_j
    if ESTIMATE in wanted and target.energy is not None:
        if gate is not None and gate.allow == "estimated":
            return ""
        return "its joules can only be estimated here, and the gate does not say allow: estimated."
    return reason or "no energy meter is named."


def _sentence(branch: Branch, names: Sequence[str], reason: str, mend: str) -> str:
    gates = f"the gate{'s' if len(names) > 1 else ''} {', '.join(names)}"
    return f"{branch.name}: {gates} cannot be held here: {reason.rstrip('.')}. {mend}"
