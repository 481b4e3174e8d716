"""Which energy meters a benchmark tries, and the estimate where none of them can measure."""

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from edgekit.bench.meters import AUTO, ESTIMATE
from edgekit.errors import EdgekitError, UsageError
from edgekit.pipeline.bench_request import BenchRequest
from edgekit.target import EnergyRates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.bench import BenchResult, Subject
    from edgekit.bench.result import Energy

_ON_GPU = ("tensorrt", "tensorrt-rtx")
_GPU_PROVIDERS = ("CUDA", "Tensorrt", "NvTensorRTRTX")


def meters_for(request: BenchRequest, subjects: "Sequence[Subject]") -> tuple[str, ...]:
    """Names that the device is to try, best first; it passes over `estimate`.

    `auto` prefers a processor's meter; where a model runs on a GPU, the GPU's comes before it.
    """
    wanted = request.wanted_meters()
    if AUTO in wanted and "nvml" not in wanted and any(map(_on_gpu, subjects)):
        place = wanted.index(AUTO)
        return (*wanted[:place], "nvml", *wanted[place:])
    return wanted


def _on_gpu(subject: "Subject") -> bool:
    providers = subject.options.get("providers") or ()
    return subject.runtime in _ON_GPU or any(
        str(name).startswith(_GPU_PROVIDERS) for name in providers
    )


def check_estimate(request: BenchRequest) -> None:
    """Refuse an estimate that has nothing to reckon with.

    Raises:
        UsageError: there is no target, or its profile has no energies.
    """
    if ESTIMATE in request.wanted_meters() and _rates(request) is None:
        named = f"The target {request.target!r} has no" if request.target else "There is no target"
        what = "energy figures" if request.target else "whose figures the estimate could take"
        raise UsageError(
            f"{named} {what}.",
            "Name one with --target (`edgekit targets`); docs/targets.md says what it must have.",
        )


def _rates(request: BenchRequest) -> EnergyRates | None:
    target = request.loaded_target()
    return target.energy if target is not None else None


def with_estimates(
    result: "BenchResult", subjects: "Sequence[Subject]", request: BenchRequest
) -> "BenchResult":
    """Put the estimate in the place of joules that nobody measured, where it was asked for."""
    rates = _rates(request)
    if ESTIMATE not in request.wanted_meters() or rates is None:
        return result
    known = {subject.name: subject for subject in subjects}
    return replace(
        result,
        subjects=tuple(
            replace(each, energy=estimate(known[each.name], rates))
            if each.energy.energy_j.label == "unavailable"
            else each
            for each in result.subjects
        ),
    )


def estimate(subject: "Subject", rates: EnergyRates) -> "Energy":
    """Reckon an inference's joules: MACs and bytes, times what each costs.

    It is a floor: every weight and input comes from the memory once, everything between stays on
    the chip, and nothing else (instructions, caches, leakage, idle parts) costs anything.
    """
    from edgekit.bench.result import Energy, Figure

    try:
        macs, size, uncounted = _work(subject)
    except EdgekitError as e:
        return Energy.unavailable(f"No estimate: {e.message}")
    costs = cast("dict[str, float]", rates.pj_per_mac)
    if lacking := set(macs) - set(costs):
        lacks = min(lacking)
        return Energy.unavailable(f"No estimate: the target's profile has no energy of {lacks}.")
    arithmetic_j = sum(count * costs[name] for name, count in macs.items()) * 1e-12
    memory_j = size * rates.pj_per_byte * 1e-12
    counts = ", ".join(f"{count:,} MACs in {name}" for name, count in macs.items())
    note = f"per inference; a floor of {counts} and {size:,} bytes; {rates.source}"
    if uncounted:
        note = f"{uncounted} layers are not counted; {note}"
    total = Figure(arithmetic_j + memory_j, None, None, "J", "estimated", note)
    return Energy(
        energy_j=total,
        net_energy_j=Figure.unavailable("J", "An estimate knows no idle power."),
        domains_j={"arithmetic": arithmetic_j, "memory": memory_j},
        meter=ESTIMATE,
        method="MACs and bytes from the target's profile",
        power_w=Figure.unavailable("W", "An estimate knows no time."),
    )


def _work(subject: "Subject") -> tuple[dict[str, int], int, int]:
    """MACs by precision, bytes, and how many layers could not be counted.

    Raises:
        UsageError: it is no ONNX file, and does not tell.
    """
    if subject.model.suffix != ".onnx":
        raise UsageError(
            f"a {subject.model.suffix} file does not tell its operations.", "Measure the .onnx."
        )
    from edgekit.graph.onnx_cost import macs_by_precision, onnx_cost, weight_bytes
    from edgekit.graph.onnx_model import read_onnx

    model = read_onnx(subject.model)
    dims: dict[str, int] = {}
    for value in model.graph.input:
        if value.name in subject.feeds:
            shape = subject.feeds[value.name].shape
            for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=False):
                if dim.dim_param:
                    dims[dim.dim_param] = size
    cost = onnx_cost(model, dims)
    fed = sum(array.nbytes for array in subject.feeds.values())
    return macs_by_precision(model, cost), weight_bytes(model) + fed, len(cost.uncounted)
