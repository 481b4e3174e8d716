"""Structured pruning of a captured program: analyse, score, allocate, shrink, prove."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit.errors import PassError, UsageError
from edgekit.graph.cost import cost
from edgekit.graph.program import Program, rebuild
from edgekit.progress import Progress, Silent
from edgekit.prune import masks
from edgekit.prune.config import Amount, PruneConfig
from edgekit.prune.coupling import Coupling
from edgekit.prune.model import weight_bytes
from edgekit.prune.plan import decide
from edgekit.prune.recover import Fitted, compensate
from edgekit.prune.report import PruneReport
from edgekit.prune.shrink import Keep, shrink

if TYPE_CHECKING:
    from edgekit.prune.calibration import Calibration

# Relative to the largest output. Float64 leaves nothing but rounding; float32 sums in other orders.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
_DOUBLE_LIMIT_BYTES = 200_000_000  # two copies in twice the size


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
    if "least-squares" in config.recovery and calibration is None:
        raise UsageError("Least squares need data.", "Give data, or leave `recovery` out.")
    if config.iterations == 1:
        return _once(program, config, seed, calibration, progress)
    small, reports = program, []
    for number in range(1, config.iterations + 1):
        part = _round(config, number, small, program)
        small, report = _once(small, part, seed, calibration, progress)
        reports.append(report)
    return small, _joined(reports)


def _round(config: PruneConfig, number: int, small: Program, whole: Program) -> PruneConfig:
    """One round's share: the amounts are those of the whole, told of what is left."""
    what, amount = config.amount
    power = 1 / config.iterations
    layers = {name: 1 - (1 - ratio) ** power for name, ratio in config.layers.items()}
    if what == "sparsity":
        share = 1 - (1 - amount) ** power
    else:
        now, first = (_counted(p, what) for p in (small, whole))
        if what == "size_bytes":
            # The same factor each time; the last round's limit is the user's, to the byte.
            share = amount if number == config.iterations else int(
                first * min(amount / first, 1.0) ** (number * power)
            )  # fmt: skip
        else:
            share = min(amount ** (number * power) * first / now, 1 - 1e-9)
    return config.model_copy(update={"iterations": 1, "layers": layers, what: share})


def _counted(program: Program, what: Amount) -> int:
    if what == "size_bytes":
        return weight_bytes(program)
    return cost(program).macs if what == "macs" else cost(program).parameters


def _joined(reports: list[PruneReport]) -> PruneReport:
    """All rounds as one: from the first network to the last."""
    first, last = reports[0], reports[-1]
    after = {group.layers: group.after for group in last.groups}
    groups = (
        dataclasses.replace(group, after=after.get(group.layers, group.after))
        for group in first.groups
    )
    return dataclasses.replace(
        last,
        groups=tuple(groups),
        frozen=first.frozen,
        frozen_parameters=first.frozen_parameters,
        macs_before=first.macs_before,
        parameters_before=first.parameters_before,
        weight_bytes_before=first.weight_bytes_before,
        zero_mask_max_error=max(r.zero_mask_max_error or 0.0 for r in reports),
        warnings=tuple(dict.fromkeys(w for r in reports for w in r.warnings)),
    )


def _once(
    program: Program,
    config: PruneConfig,
    seed: int,
    calibration: "Calibration | None",
    progress: Progress | None,
) -> tuple[Program, PruneReport]:
    """One round."""
    decision = decide(program, config, seed=seed, calibration=calibration)
    pruned, error, dtype = program, 0.0, "float64"
    fitted: tuple[Fitted, ...] = ()
    if not decision.removes_nothing:
        coupling, keep = decision.coupling, decision.keep()
        pruned, error, dtype = _shrink_and_check(program, coupling, keep, seed)
        if calibration is not None and "least-squares" in config.recovery:
            pruned, fitted = _fit(program, coupling, keep, calibration, seed, progress or Silent())
    after = cost(pruned)
    report = dataclasses.replace(
        decision.report(),
        macs_after=after.macs,
        parameters_after=after.parameters,
        weight_bytes_after=weight_bytes(pruned),
        zero_mask_max_error=error,
        zero_mask_dtype=dtype,
        fitted=fitted,
    )
    return pruned, report


def _fit(
    program: Program,
    coupling: Coupling,
    keep: Keep,
    calibration: "Calibration",
    seed: int,
    progress: Progress,
) -> tuple[Program, tuple[Fitted, ...]]:
    """Fit what is left to what the original says."""
    _own(coupling.module)
    nodes = len(coupling.module.graph.nodes)
    with progress.task("least squares", total=nodes) as bar:
        fitted = compensate(
            program.module(share=True), coupling, keep, calibration.inputs, seed=seed,
            tell=lambda _: bar.advance(1),
        )  # fmt: skip
    return rebuild(coupling.module, program), tuple(fitted)


def _own(module: GraphModule) -> None:
    """Part from the original's tensors, before what is left is written to; ties stay tied.

    Buffers too: a fit moves the running means of batch norms.
    """
    made: dict[int, Tensor] = {}
    for child in module.modules():
        for name, tensor in [*child._parameters.items(), *child._buffers.items()]:
            if tensor is None:
                continue
            if id(tensor) not in made:
                fresh = tensor.detach().clone()
                if isinstance(tensor, nn.Parameter):
                    fresh = nn.Parameter(fresh, tensor.requires_grad)
                made[id(tensor)] = fresh
            setattr(child, name, made[id(tensor)])


def _shrink_and_check(
    program: Program, coupling: Coupling, keep: Keep, seed: int
) -> tuple[Program, float, str]:
    """Shrink, capture again, and compare with the masked original."""
    device = next(coupling.module.parameters()).device
    inputs = tuple(t.to(device) for t in program.example_inputs(batch=2, seed=seed))
    expected, dtype = _expect(coupling, keep, inputs)
    if not any(bool(output.isfinite().any()) for output in expected):
        raise PassError(
            "The network's outputs are NaN or infinite for random inputs: nothing could be proved"
            " of a pruned one.",
            "Look for NaN in its weights.",
        )
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
